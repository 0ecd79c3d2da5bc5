"""`rowlock exporter`: the database's state as metrics, while it can be read and while not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

import postgres
from cli.running import Running, eventually, query, rowlock, running
from rowlock.cli.exporter import Exporter, page_of
from rowlock.embedded.ports import free_port
from rowlock.errors import Disconnected
from rowlock.fleet import (
    FleetReader,
    FleetState,
    LimitState,
    QueueState,
    RateState,
    VersionState,
    WorkerState,
)
from rowlock.store.migrate import LEVEL, migrate
from rowlock.telemetry.exposition import shown
from store.races.sessions import APP, Connections, World
from telemetry.pages import Scrape, page_when, scrape

AT = datetime(2026, 1, 1, tzinfo=UTC)
EMPTY = FleetState(AT, LEVEL, (), (), (), ())
READING = (
    "select count(*) from pg_stat_activity where application_name = 'rowlock fleet'"
    " and datname = current_database() and wait_event_type = 'Lock'"
)


@contextmanager
def exporter(folder: Path, database: str) -> Iterator[tuple[Running, int]]:
    port = free_port()
    with running(folder, "exporter", f"--port={port}", database=database) as command:
        eventually(lambda: scrape(port, "/livez").code == 200)
        yield command, port


def read(state: FleetState | None) -> Scrape:
    content_type, body = shown(page_of(state, 0.25))
    return Scrape(200, content_type, body.decode())


# --- what is shown of a state


def test_idle_queues_show_zeros() -> None:
    page = read(replace(EMPTY, rates=(RateState("shop", "default", 0.0, None),)))
    for state in ("ready", "running", "waiting", "scheduled", "blocked"):
        assert page.value("rowlock_queue_tasks", app="shop", queue="default", state=state) == 0
    assert page.value("rowlock_queue_oldest_ready_seconds", queue="default") == 0
    assert page.value("rowlock_workers", app="shop", state="alive") == 0
    assert page.value("rowlock_runs_open", app="shop", version="") == 0


def test_only_limits_that_are_set_are_shown() -> None:
    limits = (
        LimitState("shop", "default", "concurrency", 5.0),
        LimitState("shop", "default", "rate_per_second", 0.5),
    )
    page = read(replace(EMPTY, limits=limits))
    assert page.value("rowlock_queue_limit", app="shop", queue="default", kind="concurrency") == 5
    assert page.value("rowlock_queue_limit", queue="default", kind="rate_per_second") == 0.5
    assert 'worker_concurrency"' not in page.text
    assert "rowlock_queue_limit{" not in read(EMPTY).text


def test_queues_add_up_their_versions() -> None:
    queues = (
        QueueState("shop", "default", "v1", "ready", 3, 40.0, None),
        QueueState("shop", "default", "v2", "ready", 4, 20.0, None),
        QueueState("shop", "default", "v2", "waiting", 5, None, 60.0),
    )
    page = read(replace(EMPTY, queues=queues))
    assert page.value("rowlock_queue_tasks", queue="default", state="ready") == 7
    assert page.value("rowlock_queue_oldest_ready_seconds", queue="default") == 40
    assert page.value("rowlock_runs_open", version="v1") == 3
    assert page.value("rowlock_runs_open", version="v2") == 9


def test_who_is_overdue_and_was_not_promoted_waits_too() -> None:
    """Without any worker nobody promotes; that is when the wait matters most."""
    queues = (QueueState("shop", "default", "", "scheduled", 1, None, -90.0),)
    page = read(replace(EMPTY, queues=queues))
    assert page.value("rowlock_queue_oldest_ready_seconds", queue="default") == 90


def test_workers_are_alive_draining_or_dead() -> None:
    one = WorkerState(1, "shop", "v1", "pod", None, 10, 4, draining=False, alive=True)
    workers = (
        one,
        replace(one, worker_id=2, running=12),
        replace(one, worker_id=3, draining=True),
        replace(one, worker_id=4, alive=False),
    )
    page = read(replace(EMPTY, workers=workers))
    found = [
        page.value("rowlock_workers", version="v1", state=state)
        for state in ("alive", "draining", "dead")
    ]
    assert found == [2, 1, 1]
    assert page.value("rowlock_fleet_slots", state="used") == 20
    assert page.value("rowlock_fleet_slots", state="free") == 10


def test_versions_of_the_past_are_not_shown() -> None:
    old = VersionState("shop", "v1", AT, None, is_current=False)
    page = read(replace(EMPTY, versions=(old, replace(old, name="v2", is_current=True))))
    assert page.value("rowlock_runs_open", version="v1") is None
    assert page.value("rowlock_runs_open", version="v2") == 0


def test_nothing_is_known_without_a_database() -> None:
    page = read(None)
    assert page.value("rowlock_database_up") == 0
    assert page.names() == {
        "rowlock_database_up",
        "rowlock_database_read_seconds",
        "rowlock_build_info",
    }


# --- how often the database is asked


class Counted(FleetReader):
    """Answers without a database, when it is told to."""

    def __init__(self) -> None:
        super().__init__("")
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.is_gone = False

    async def read(self, app: str | None = None) -> FleetState:
        self.asked += 1
        await self.may_answer.wait()
        if self.is_gone:
            raise Disconnected("gone")
        return EMPTY


async def test_who_asks_at_once_is_answered_by_one_reading() -> None:
    reader = Counted()
    exporter = Exporter(reader)
    asking = [asyncio.create_task(exporter.page()) for _ in range(10)]
    await asyncio.sleep(0)
    reader.may_answer.set()
    pages = await asyncio.gather(*asking)
    assert reader.asked == 1
    assert all(page is pages[0] for page in pages)


async def test_a_failed_reading_says_why_and_the_next_one_that_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rowlock.cli.exporter.FRESH_S", 0.0)
    monkeypatch.setattr("rowlock.cli.exporter.OLDEST_S", 0.0)
    reader = Counted()
    reader.may_answer.set()
    exporter = Exporter(reader)
    await exporter.page()
    assert exporter.trouble is None
    reader.is_gone = True
    await exporter.page()
    assert exporter.trouble == "gone"
    reader.is_gone = False
    await exporter.page()
    assert exporter.trouble is None


# --- the command


def test_a_page_of_a_real_database(tmp_path: Path, database: str) -> None:
    connections = Connections(database)
    world = World(connections)
    world.claimed_by(world.worker(), 2)
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 3)
    world.close()
    connections.close()
    with exporter(tmp_path, database) as (command, port):
        page = scrape(port)
        assert page.value("rowlock_database_up") == 1
        assert page.value("rowlock_schema_level") == LEVEL
        assert page.value("rowlock_queue_tasks", app=APP, queue="default", state="ready") == 3
        assert page.value("rowlock_queue_tasks", app=APP, queue="default", state="running") == 2
        assert page.value("rowlock_workers", app=APP, state="alive") == 1
        assert page.value("rowlock_fleet_slots", app=APP, state="used") == 2
        assert scrape(port, "/readyz").code == 200
        assert scrape(port, "/else").code == 404
        command.send(signal.SIGTERM)
        assert command.exit_code() == 0
        assert "Traceback" not in command.errors


def test_a_database_that_goes_and_comes_back(tmp_path: Path, server_folder: Path) -> None:
    server = postgres.make_server(server_folder / "data")
    with server, postgres.new_database(server) as database:
        migrate(database)
        with exporter(tmp_path, database) as (command, port):
            assert scrape(port).value("rowlock_database_up") == 1
            server.stop()
            page = page_when(port, lambda page: page.value("rowlock_database_up") == 0)
            assert page.value("rowlock_schema_level") is None
            assert scrape(port, "/readyz").code == 200
            server.start()
            page_when(port, lambda page: page.value("rowlock_schema_level") == LEVEL)
            command.send(signal.SIGINT)
            assert command.exit_code() == 0
            assert command.errors.count("can't be read") <= 3, (
                "a line a change, not a line a scrape"
            )


def test_a_database_that_must_be_migrated_is_not_up(tmp_path: Path, empty_database: str) -> None:
    with exporter(tmp_path, empty_database) as (command, port):
        assert scrape(port).value("rowlock_database_up") == 0
        assert "rowlock migrate" in scrape(port, "/readyz").text
        migrate(empty_database)
        page_when(port, lambda page: page.value("rowlock_database_up") == 1)
        assert "rowlock migrate" in command.errors


def test_it_ends_in_the_middle_of_a_reading(tmp_path: Path, database: str) -> None:
    with psycopg.connect(database) as blocker, ThreadPoolExecutor(1) as threads:
        blocker.execute("lock table rowlock.task in access exclusive mode")
        with exporter(tmp_path, database) as (command, port):
            asking = threads.submit(scrape, port)
            eventually(lambda: query(database, READING) == [(1,)])
            command.send(signal.SIGTERM)
            assert command.exit_code() == 0
            assert asking.result().code == 0
            assert "Traceback" not in command.errors


def test_a_port_that_is_taken_is_named(tmp_path: Path, database: str) -> None:
    with exporter(tmp_path, database) as (_, port):
        second = rowlock("exporter", f"--port={port}", database=database)
        assert second.returncode == 2
        assert f"the port {port} can't be used" in second.stderr


def test_without_a_database_or_prometheus_client_it_says_what_to_do(tmp_path: Path) -> None:
    without = rowlock("exporter")
    assert without.returncode == 2
    assert "ROWLOCK_DATABASE_URL" in without.stderr
    (tmp_path / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('none', name='prometheus_client')"
    )
    with running(tmp_path, "exporter", database="x", PYTHONPATH=str(tmp_path)) as command:
        assert command.exit_code() == 2
        assert "pip install 'rowlock[metrics]'" in command.errors
