"""/metrics of a worker: several processes on one page, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from cli.running import SHOP, Running, eventually, query, running, start
from rowlock.cli.worker_process import Parent
from rowlock.embedded.ports import free_port
from rowlock.runtime.supervisor import Line
from rowlock.telemetry.pages import Page
from telemetry.pages import Scrape, page_when, scrape

WITHOUT_PROMETHEUS = (
    "raise ModuleNotFoundError('no prometheus_client here', name='prometheus_client')"
)

STANDS = """

@app.step
async def stand(folder: str) -> None:
    Path(folder, "began").touch()
    until = time.monotonic() + 120
    while not Path(folder, "go").exists() and time.monotonic() < until:
        time.sleep(0.02)


@app.workflow
async def stands(folder: str) -> None:
    await stand(folder)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@contextmanager
def worker(
    project: Path, database: str, *, processes: int = 1, **more: str
) -> Iterator[tuple[Running, int]]:
    """A worker that takes work, and its port."""
    port = free_port()
    args = ("worker", "shop:app", f"--processes={processes}", f"--health-port={port}", "--slots=5")
    with running(project, *args, database=database, ROWLOCK_LEASE_SECONDS="3", **more) as command:
        eventually(lambda: scrape(port, "/readyz").code == 200)
        yield command, port


def finished(page: Scrape, workflow: str = "sums") -> float:
    return page.value("rowlock_runs_finished_total", workflow=workflow) or 0.0


def do(database: str, number: int) -> None:
    """Start runs, and wait until they have ended."""
    query(
        database,
        "select rowlock.start('sums', '{\"a\": 1}', app => 'shop')"
        f" from generate_series(1, {number})",
    )
    eventually(lambda: query(database, "select count(*) from rowlock.task") == [(0,)])


def test_two_processes_are_one_page(project: Path, database: str) -> None:
    with worker(project, database, processes=2) as (_, port):
        do(database, 40)
        start(database, "fails")
        page = page_when(port, lambda page: finished(page) == 40 and finished(page, "fails") == 1)
        assert page.content_type.startswith("text/plain")
        assert page.value("rowlock_runs_started_total", app="shop", workflow="sums") == 40
        assert page.value("rowlock_step_seconds_count", step="add", outcome="succeeded") == 40
        assert page.value("rowlock_step_seconds_count", step="break_down", outcome="failed") == 1
        slots = page.value("rowlock_worker_slots", app="shop")
        assert slots == 10
        assert page.text.count("# TYPE rowlock_worker_slots gauge") == 1


def test_what_a_killed_process_counted_stays(project: Path, database: str) -> None:
    with worker(project, database, processes=2) as (command, port):
        do(database, 40)
        before = page_when(port, lambda page: finished(page) == 40)
        for pid in command.children():
            os.kill(pid, signal.SIGKILL)
        after = page_when(port, lambda page: page.value("rowlock_worker_slots") == 10)
        for name in ("rowlock_runs_finished_total", "rowlock_journal_batch_rows_sum"):
            assert (after.value(name) or 0) >= (before.value(name) or 0)
        do(database, 10)
        page_when(port, lambda page: finished(page) == 50)


def test_a_frozen_process_is_quoted(project: Path, database: str) -> None:
    with worker(project, database, processes=2) as (command, port):
        do(database, 20)
        page_when(port, lambda page: finished(page) == 20)
        frozen, other = command.children()
        os.kill(frozen, signal.SIGSTOP)
        try:
            assert finished(scrape(port)) == 20
            do(database, 10)
            assert 20 <= finished(scrape(port)) <= 30
            os.kill(other, signal.SIGSTOP)
            for _ in range(3):
                assert scrape(port).value("rowlock_worker_slots") == 10
        finally:
            for pid in (frozen, other):
                os.kill(pid, signal.SIGCONT)
        page_when(port, lambda page: finished(page) == 30)


def test_a_process_whose_loop_stands_still_tells_what_it_counted(
    project: Path, database: str
) -> None:
    """It answers from a thread; but that is no sign of life of its loop."""
    (project / "shop.py").write_text(SHOP + STANDS)
    with worker(project, database) as (_, port):
        do(database, 5)
        start(database, "stands", "--arg", f"folder={json.dumps(str(project))}")
        eventually((project / "began").exists)

        def silent_for_long() -> bool:
            assert finished(scrape(port)) == 5
            [process] = json.loads(scrape(port, "/livez").text)["processes"]
            return float(process["silent_seconds"]) > 2.0

        try:
            eventually(silent_for_long)
        finally:
            (project / "go").touch()


def test_without_prometheus_client_the_page_says_what_to_install(
    project: Path, database: str
) -> None:
    (project / "prometheus_client.py").write_text(WITHOUT_PROMETHEUS)
    with worker(project, database, PYTHONPATH=str(project)) as (_, port):
        do(database, 1)
        page = scrape(port)
        assert page.code == 501
        assert "pip install 'rowlock[metrics]'" in page.text


def test_other_pages_are_not_there(project: Path, database: str) -> None:
    with worker(project, database) as (_, port):
        page = scrape(port, "/")
        assert page.code == 404
        assert "/livez, /readyz and /metrics" in page.text
        openmetrics = scrape(port, accept="application/openmetrics-text; version=1.0.0")
        assert openmetrics.content_type.startswith("application/openmetrics-text")


# --- the socket between them


@pytest.fixture
def ends() -> Iterator[tuple[Parent, socket.socket]]:
    """A child's end of the socket in small, and the parent's raw one."""
    ours, theirs = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    ours.settimeout(20)
    parent = Parent(theirs.detach())
    gone = threading.Event()
    parent.on_gone = gone.set
    yield parent, ours
    ours.close()
    assert gone.wait(20)
    parent._socket.close()  # its process would end here


HUGE = Page({"rowlock_leases_lost_total": [((f"app {n}",), [float(n)]) for n in range(20_000)]})


def lines(ours: socket.socket, number: int) -> list[Line]:
    with ours.makefile("rb") as file:
        return [msgspec.json.decode(file.readline(), type=Line) for _ in range(number)]


def test_a_parent_that_does_not_listen_never_holds_up_the_loop(
    ends: tuple[Parent, socket.socket],
) -> None:
    parent, ours = ends
    asked = threading.Event()

    def page() -> Page:
        asked.set()
        return HUGE

    parent.page = page
    ours.sendall(b"metrics\n")
    assert asked.wait(20)
    for _ in range(2000):  # would hang here: nobody reads
        parent.tell("ready", 3)
    found: list[Line] = []
    with ours.makefile("rb") as file:
        while not found or found[-1].page is None:
            found.append(msgspec.json.decode(file.readline(), type=Line))
    assert found[-1].page == HUGE
    assert {line.status for line in found[:-1]} <= {"ready"}


def test_ticks_beyond_what_the_socket_takes_are_dropped_whole(
    ends: tuple[Parent, socket.socket],
) -> None:
    parent, ours = ends
    for number in range(2000):
        parent.tell("ready", number)
    parent_reads = threading.Thread(target=lambda: found.extend(lines(ours, 5)))
    found: list[Line] = []
    parent_reads.start()
    parent_reads.join(20)
    assert [line.loaded for line in found] == [0, 1, 2, 3, 4]


def test_a_page_that_can_not_be_told_costs_no_more_than_the_page(
    ends: tuple[Parent, socket.socket],
) -> None:
    """The thread that answers is the one that notices when the parent goes."""
    parent, ours = ends

    def page() -> Page:
        raise RuntimeError("a bug")

    parent.page = page
    ours.sendall(b"metrics\n")
    [line] = lines(ours, 1)
    assert line.page == Page()
