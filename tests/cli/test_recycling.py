"""A process whose threads are lost to abandoned steps makes way for a fresh one, in good order."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.conftest import registered
from cli.running import (
    SHOP,
    Running,
    ask,
    eventually,
    query,
    rowlock,
    running,
    start,
    status_of,
)
from rowlock.embedded.ports import free_port

HANGS = """

@app.step(timeout=0.2)
def hang(folder: str) -> None:
    until = time.monotonic() + 120
    while not Path(folder, "hanging may end").exists() and time.monotonic() < until:
        time.sleep(0.02)


@app.workflow
async def hangs(folder: str) -> None:
    await hang.in_thread(folder)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP + HANGS)
    return tmp_path


@contextmanager
def worker(
    project: Path, database: str, *options: str, most: int, processes: int = 1
) -> Iterator[tuple[Running, int]]:
    """A worker whose processes may lose so many threads; and its health port."""
    port = free_port()
    args = ("worker", "shop:app", f"--processes={processes}", f"--health-port={port}", *options)
    with running(project, *args, database=database, ROWLOCK_ABANDONED_STEPS=str(most)) as command:
        eventually(lambda: len(registered(database)) == processes)
        yield command, port


def abandon(project: Path, database: str, times: int) -> None:
    """Let so many steps hang beyond their timeouts, one after the other."""
    argument = f"folder={json.dumps(str(project))}"
    for _ in range(times):
        run_id = start(database, "hangs", "--arg", argument)
        eventually(lambda run_id=run_id: status_of(database, run_id) == "failed")  # type: ignore[misc]


def answers(database: str) -> bool:
    done = rowlock("start", "sums", "--arg", "a=1", "--wait", database=database)
    return (done.returncode, done.stdout.strip()) == (0, "3")


def test_a_used_up_process_is_replaced_and_its_worker_goes_on(project: Path, database: str) -> None:
    with worker(project, database, most=2) as (command, port):
        used_up = registered(database)
        abandon(project, database, times=2)
        eventually(lambda: (found := registered(database)) and found != used_up)
        assert answers(database)
        eventually(lambda: ask(port, "/readyz")[0] == 200)
        metric = 'rowlock_steps_abandoned_total{app="shop",step="hang",workflow="hangs"} 2.0'
        assert metric in ask(port, "/metrics")[1]
        assert query(database, "select count(*) from rowlock.workers") == [(1,)]
        command.send(signal.SIGTERM)
        assert command.exit_code() == 0
    assert "2 abandoned steps are still at work" in command.errors
    assert "ROWLOCK_ABANDONED_STEPS is 2" in command.errors
    assert "hang (2 times)" in command.errors
    assert "was used up and has drained: a fresh one starts" in command.errors
    assert "exit code" not in command.errors, "it is not a failure"


def test_what_runs_may_finish_before_the_process_is_replaced(project: Path, database: str) -> None:
    with worker(project, database, "--grace=600", most=1) as (command, _):
        [used_up] = registered(database)
        holding = start(database, "holds", "--arg", f"folder={json.dumps(str(project))}")
        eventually((project / "began").exists)
        abandon(project, database, times=1)
        eventually(lambda: query(database, "select draining from rowlock.workers") == [(True,)])
        waiting = start(database, "sums", "--arg", "a=1")
        assert command.children() == [used_up]
        (project / "go").touch()
        eventually(lambda: status_of(database, waiting) == "succeeded")
        assert status_of(database, holding) == "succeeded"
        attempts = query(database, "select attempts from rowlock.steps where name = 'hold'")
        assert attempts == [(1,)]
        assert command.children() != [used_up]


def test_a_signal_while_it_drains_is_its_first(project: Path, database: str) -> None:
    with worker(project, database, "--grace=600", most=1) as (command, _):
        holding = start(database, "holds", "--arg", f"folder={json.dumps(str(project))}")
        eventually((project / "began").exists)
        abandon(project, database, times=1)
        eventually(lambda: "this process is used up" in command.errors)
        command.send(signal.SIGTERM)
        eventually(lambda: command.errors.count("draining") > 1)
        (project / "go").touch()
        assert command.exit_code() == 0
        assert status_of(database, holding) == "succeeded"


def test_what_outlasts_the_grace_is_handed_to_the_next(project: Path, database: str) -> None:
    with worker(project, database, "--grace=0.1", most=1) as (command, _):
        used_up = registered(database)
        holding = start(database, "holds", "--arg", f"folder={json.dumps(str(project))}")
        eventually((project / "began").exists)
        (project / "began").unlink()
        abandon(project, database, times=1)
        eventually((project / "began").exists)  # again, by the next
        (project / "go").touch()
        eventually(lambda: status_of(database, holding) == "succeeded")
        assert registered(database) != used_up
        assert "handing back 1 runs" in command.errors


def test_steps_that_end_after_all_make_room_again(project: Path, database: str) -> None:
    with worker(project, database, most=2) as (command, _):
        before = registered(database)
        for _ in range(3):
            abandon(project, database, times=1)
            (project / "hanging may end").touch()
            assert answers(database)
            (project / "hanging may end").unlink()
        assert registered(database) == before
        assert "used up" not in command.errors


def test_it_can_be_switched_off(project: Path, database: str) -> None:
    with worker(project, database, most=0) as (command, _):
        before = registered(database)
        abandon(project, database, times=3)
        assert answers(database)
        assert registered(database) == before
        assert "used up" not in command.errors


def test_the_other_processes_go_on(project: Path, database: str) -> None:
    with worker(project, database, most=2, processes=2):
        before = set(registered(database))
        abandon(project, database, times=3)  # so one of the two has two of them
        eventually(lambda: len(set(registered(database)) - before) == 1)
        assert len(set(registered(database)) & before) == 1
        assert answers(database)


def test_a_number_that_makes_no_sense_is_refused(project: Path, database: str) -> None:
    environment = {"ROWLOCK_ABANDONED_STEPS": "-1"}
    with running(project, "worker", "shop:app", database=database, **environment) as command:
        assert command.exit_code() == 2
        assert "abandoned_steps must be at least 0 (never), not -1" in command.errors
