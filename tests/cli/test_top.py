"""`rowlock top`: what one look shows, what two tell, and the live screen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier
from rich.console import Console

import rowlock as library
from cli.conftest import StartWorker
from cli.running import (
    Terminal,
    eventually,
    on_a_terminal,
    query,
    rowlock,
    rowlock_json,
    start,
    status_of,
)
from rowlock.cli.frames import Frame, queues_of, rates_of
from rowlock.cli.top import shown
from rowlock.embedded import Server
from rowlock.fleet import FleetState, QueueState, RateState
from rowlock.store.reports import Pace, TopWait, TopWorker

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def fleet(seconds: float, *queues: QueueState, rate: float = 0.0) -> FleetState:
    names = sorted({(one.app, one.queue) for one in queues} | {("shop", "default")})
    rates = tuple(RateState(app, queue, rate, None) for app, queue in names)
    return FleetState(at(seconds), 4, queues, (), (), rates)


def tasks(state: str, number: int, queue: str = "default", **times: float | None) -> QueueState:
    given = {"oldest_due_seconds": None, "next_due_seconds": None} | times
    return QueueState("shop", queue, "", state, number, **given)


def frame(state: FleetState, **changes: Any) -> Frame:
    given: dict[str, Any] = {
        "queues": queues_of(state, None, {}),
        "workers": (),
        "waits": (),
        "pauses": (),
        "rates": {},
    }
    return Frame(fleet=state, pace=Pace(state.at, 0, 0, 0), took_s=0.012, **(given | changes))


def worker(number: int, running: int, lease_s: float = 20.0) -> TopWorker:
    return TopWorker(number, "shop", None, f"host-{number}", number, None, 9, running, False,
                     lease_s, None)  # fmt: skip


def text_of(what: Any, width: int = 150) -> str:
    console = Console(width=width, markup=False)
    with console.capture() as captured:
        console.print(what)
    return captured.get()


# --- what looks tell


def test_states_of_all_versions_are_one_queue_and_an_idle_queue_is_one_too() -> None:
    old = QueueState("shop", "payments", "v1", "ready", 2, 5.0, None)
    new = QueueState("shop", "payments", "v2", "ready", 3, 9.0, None)
    state = fleet(0, old, new, tasks("waiting", 4, "payments", next_due_seconds=-30.0), rate=1.5)
    default, payments = queues_of(state, None, {})
    assert (default.queue, default.unfinished, default.oldest_seconds) == ("default", 0, 0.0)
    assert (payments.ready, payments.waiting, payments.running) == (5, 4, 0)
    # Overdue, and nobody promotes it: it waits as long as that.
    assert payments.oldest_seconds == 30.0
    assert (payments.arrivals_per_second, payments.ended_per_second) == (1.5, None)


def test_what_came_and_is_not_there_any_more_has_ended() -> None:
    before = frame(fleet(0, tasks("ready", 10)))
    [queue] = queues_of(
        fleet(2, tasks("ready", 5), tasks("running", 1)), before, {("shop", "default"): 8}
    )
    assert (queue.arrivals_per_second, queue.ended_per_second) == (4.0, 6.0)
    # More than came: begun again. That is no negative rate.
    [queue] = queues_of(fleet(2, tasks("ready", 50)), before, {})
    assert (queue.arrivals_per_second, queue.ended_per_second) == (0.0, 0.0)


def test_counters_give_rates_and_never_negative_ones() -> None:
    before, now = Pace(at(0), 100, 1000, 50), Pace(at(2), 120, 1500, 10)
    assert rates_of(before, now) == {"runs": 10.0, "steps": 250.0, "outcomes": 0.0}
    assert rates_of(before, before) == {}


# --- how a frame looks


def test_a_frame_fits_the_screen_and_keeps_what_matters_most() -> None:
    state = fleet(0, *(tasks("ready", n, f"q{n:02}", oldest_due_seconds=1.0) for n in range(40)))
    workers = [worker(n, running=n % 7, lease_s=-1.0 if n == 35 else 20.0) for n in range(40)]
    waits = [TopWait(UUID(int=n), "shop", "w", "q", "1", "timer", None, None, NOW, None)
             for n in range(10)]  # fmt: skip
    seen = frame(state, workers=workers, waits=waits)
    cut = text_of(shown(seen, "it is\x1b[2J away", 40))
    assert len(cut.splitlines()) <= 40
    assert "host-35" in cut  # dead
    assert "q39" in cut
    assert "q01" not in cut
    assert "more queues" in cut
    assert "more workers" in cut
    assert "the database can't be read, this is old: it is\\x1b[2J away" in cut
    whole = text_of(shown(seen, None, None))
    assert all(f"q{n:02}" in whole and f"host-{n}" in whole for n in range(40))


# --- real ones


@pytest.fixture
def shop(database: str) -> str:
    app = library.App("shop")
    app.queue("payments")
    with app.blocking_client(library.Settings(database_url=database)):
        return database


def test_one_look_shows_queues_workers_and_waits(
    start_worker: StartWorker, database: str, tmp_path: Path
) -> None:
    start_worker(ROWLOCK_LEASE_SECONDS="2")
    run_id = start(database, "holds", "--arg", f'folder="{tmp_path}"')
    napping = start(database, "asks")
    eventually(lambda: status_of(database, napping) == "waiting")
    found: dict[str, Any] = eventually(
        lambda: (
            seen if (seen := rowlock_json("top", database=database))["workers"][0]["doing"] else {}
        )
    )
    assert found.keys() == {
        "at",
        "took_seconds",
        "schema_level",
        "queues",
        "workers",
        "waits",
        "pauses",
    }
    [queue] = found["queues"]
    assert (queue["app"], queue["queue"], queue["running"], queue["waiting"]) == (
        "shop",
        "default",
        1,
        1,
    )
    assert queue["ended_per_second"] is None
    assert queue["arrivals_per_second"] > 0
    [one] = found["workers"]
    assert (one["running"], one["slots"], one["draining"]) == (1, 100, False)
    assert 0 < one["lease_seconds"] <= 2
    assert one["doing"][0]["run"] == run_id
    [wait] = found["waits"]
    assert (wait["run_id"], wait["kind"], wait["name"]) == (napping, "message", "answer")

    # Without a terminal: one frame, no control characters.
    done = rowlock("top", database=database)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "1/100" in done.stdout
    assert "hold " in done.stdout
    assert napping in done.stdout
    assert "message answer" in done.stdout
    (tmp_path / "go").touch()


def test_only_one_app_is_shown_where_it_is_named(shop: str) -> None:
    other = library.App("bank")
    with other.blocking_client(library.Settings(database_url=shop)):
        pass
    query(shop, "select rowlock.pause(app => 'shop', reason => 'the bank is\x1b closed')")
    both = rowlock_json("top", database=shop)
    assert {(one["app"], one["queue"]) for one in both["queues"]} == {
        ("bank", "default"),
        ("shop", "default"),
        ("shop", "payments"),
    }
    one = rowlock_json("top", "--app=bank", database=shop)
    assert {queue["app"] for queue in one["queues"]} == {"bank"}
    assert one["pauses"] == []
    assert both["pauses"][0]["reason"] == "the bank is\x1b closed"
    said = rowlock("top", "--once", database=shop).stdout
    assert "paused: all of app shop, by postgres " in said
    assert "the bank is\\x1b closed" in said


def test_the_live_screen_follows_and_survives_a_lost_database(server: Server, shop: str) -> None:
    name = str(conninfo_to_dict(shop)["dbname"])
    admin = psycopg.connect(server.url("postgres"), autocommit=True)

    def allow(yes: bool) -> None:
        word = SQL("true") if yes else SQL("false")
        admin.execute(
            SQL("alter database {} with allow_connections {}").format(Identifier(name), word)
        )

    with admin, on_a_terminal("top", "--every=500ms", database=shop) as terminal:
        terminal.shows("payments")
        for _ in range(3):
            start(shop, "report", "--queue=payments", "--app=shop")
        payments_become(terminal, 3)
        terminal.shows("ended ")  # rates, which take two looks
        allow(False)
        try:
            admin.execute("select pg_terminate_backend(pid) from pg_stat_activity"
                          " where datname = %s", [name])  # fmt: skip
            terminal.shows("the database can't be read, this is old")
        finally:
            allow(True)
        start(shop, "report", "--queue=payments", "--app=shop")
        payments_become(terminal, 4)
        terminal.type("\x03")
        assert terminal.end() == 0


def payments_become(terminal: Terminal, ready: int) -> None:
    """Wait for a frame that says so of the queue."""
    while True:
        for line in terminal.shows("payments").splitlines():
            words = line.split()
            if "payments" in words and words[words.index("payments") + 2 :][:1] == [str(ready)]:
                return


def test_a_database_that_can_not_be_read_at_all_is_an_error(empty_database: str) -> None:
    assert rowlock("top", database=empty_database).returncode == 3
    gone = rowlock("top", "--once", database="postgresql://127.0.0.1:1/x")
    assert (gone.returncode, gone.stdout) == (5, "")
    often = rowlock("top", "--every=100ms", database=empty_database)
    assert often.returncode == 2
    assert "--every must be at least 0.5s" in often.stderr
