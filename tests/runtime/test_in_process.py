"""`app.worker()`: a worker in the user's own process and event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from rowlock import App, Settings
from rowlock.errors import (
    ConfigurationError,
    Disconnected,
    MisplacedCall,
    SchemaTooOld,
    WorkerFailed,
)
from workers.until import Sql, until

app = App("in-process")
app.queue("other")
DEADLINE_S = 25.0
WHOSE: ContextVar[str] = ContextVar("whose", default="nobody's")
BEGUN, GATE = threading.Event(), threading.Event()


@app.step
def passes_the_gate(n: int) -> int:
    BEGUN.set()
    GATE.wait(DEADLINE_S)
    return n


@app.step(timeout=0.05)
def hangs() -> None:
    GATE.wait(DEADLINE_S)


@app.step
async def whose() -> str:
    return WHOSE.get()


@app.workflow
async def gated(n: int) -> int:
    return await passes_the_gate.in_thread(n)


@app.workflow
async def hanging() -> None:
    await hangs.in_thread()


@app.workflow
async def belongs_to() -> str:
    return await whose()


@pytest.fixture
async def settings(database: str) -> AsyncIterator[Settings]:
    BEGUN.clear()
    GATE.clear()
    before = asyncio.all_tasks()
    yield Settings(database_url=database, poll_seconds=0.5)
    GATE.set()
    assert asyncio.all_tasks() - before == {asyncio.current_task()}


async def begun() -> None:
    assert await asyncio.to_thread(BEGUN.wait, DEADLINE_S)


async def test_it_works_while_the_block_lasts_and_leaves_nothing(
    settings: Settings, sql: Sql
) -> None:
    async with app.worker(slots=5, settings=settings) as worker, app.client(settings) as client:
        assert worker.is_ready
        run = await client.start(gated(7))
        await begun()  # a plain step waits in its thread, and this loop goes on
        GATE.set()
        assert await run.result(DEADLINE_S) == 7
        assert sql("select slots from rowlock.workers") == [(5,)]
    assert not worker.is_ready
    assert sql.one("select count(*) from rowlock.worker") == 0
    with pytest.raises(MisplacedCall, match="make another"):
        await worker.__aenter__()


async def test_the_settings_of_the_app_apply(settings: Settings) -> None:
    mine = App("mine", settings=settings)

    @mine.workflow
    async def answer() -> int:
        return 42

    async with mine.worker(), mine.client() as client:
        assert await (await client.start(answer())).result(DEADLINE_S) == 42


async def test_what_runs_at_the_end_may_go_on_for_the_grace(settings: Settings, sql: Sql) -> None:
    async with app.client(settings) as client:
        async with app.worker(settings=settings, grace=DEADLINE_S):
            run = await client.start(gated(7))
            await begun()
            opens = asyncio.create_task(asyncio.to_thread(open_when_draining, sql))
        assert await run.status() == "succeeded"
        await opens


def open_when_draining(sql: Sql) -> None:
    until(sql.at_least(1, "select count(*) from rowlock.worker where draining"))
    GATE.set()


async def test_the_rest_is_handed_back(settings: Settings, sql: Sql) -> None:
    async with app.client(settings) as client:
        async with app.worker(settings=settings, grace=0):
            run = await client.start(gated(7))
            await begun()
        assert await run.status() == "ready"
        assert sql.one("select count(*) from rowlock.worker") == 0
        GATE.set()
        async with app.worker(settings=settings):
            assert await run.result(DEADLINE_S) == 7


async def test_who_is_cancelled_while_it_drains_hands_back_at_once(settings: Settings) -> None:
    async with app.client(settings) as client:
        left = asyncio.Event()

        async def serves() -> None:
            async with app.worker(settings=settings, grace=3600):
                run = await client.start(gated(7))
                await begun()
                left.set()
            raise AssertionError(f"{run} was waited for")

        serving = asyncio.create_task(serves())
        await left.wait()
        await asyncio.sleep(0)  # it is in the block's end
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        [run] = await client.runs()
        assert run.status == "ready"


async def test_it_serves_the_queues_that_are_named(settings: Settings, sql: Sql) -> None:
    async with app.worker(settings=settings, queues=["other"]), app.client(settings) as client:
        left = await client.start(belongs_to())
        taken = await client.start(belongs_to(), queue="other")
        await taken.result(DEADLINE_S)
        assert await left.status() == "ready"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"slots": 0}, "slots must be at least 1"),
        ({"grace": -1}, "grace must be 0 or more"),
        ({"queues": ["nowhere"]}, "has no queue nowhere"),
        ({"queues": []}, "queues must name queues"),
        ({"queues": "other"}, "queues must name queues"),
    ],
)
def test_what_cant_be_is_refused_when_it_is_made(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        app.worker(settings=Settings(database_url="postgresql://nowhere/x"), **options)


async def test_without_a_database_it_says_why() -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://postgres@127.0.0.1:{taken.getsockname()[1]}/x"
        settings = Settings(database_url=url, connect_timeout_seconds=0.2)
        with pytest.raises(Disconnected, match="refused"):
            async with app.worker(settings=settings):
                raise AssertionError("it never came to this")


async def test_without_a_schema_it_says_what_to_do(empty_database: str) -> None:
    with pytest.raises(SchemaTooOld, match="rowlock migrate"):
        async with app.worker(settings=Settings(database_url=empty_database)):
            raise AssertionError("it never came to this")


async def test_a_worker_that_fails_is_told_at_the_end_of_the_block(
    settings: Settings, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    async def serves() -> None:
        async with app.worker(settings=settings) as worker:
            sql("alter function rowlock.claim_next rename to unclaim_next")
            async with asyncio.timeout(DEADLINE_S):
                while worker.is_ready:
                    await asyncio.sleep(0.01)

    with pytest.raises(WorkerFailed, match="Refused: this database is not ready") as failed:
        await serves()
    assert failed.value.__cause__ is not None
    assert "the worker failed" in caplog.text
    sql("alter function rowlock.unclaim_next rename to claim_next")


async def test_an_error_of_the_block_goes_first(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError):
        async with app.worker(settings=settings):
            _ = 1 / 0


async def test_a_worker_that_is_used_up_goes_on_with_fresh_threads(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    few = settings.with_(abandoned_steps=1)
    async with app.worker(settings=few, grace=0), app.client(few) as client:
        for times in (1, 2):
            with pytest.raises(Exception, match="longer than its timeout"):
                await (await client.start(hanging())).result(DEADLINE_S)
            async with asyncio.timeout(DEADLINE_S):
                while caplog.text.count("is used up") < times:
                    await asyncio.sleep(0.01)
            assert await (await client.start(belongs_to())).result(DEADLINE_S) == "nobody's"


async def test_steps_are_in_nobodys_context(settings: Settings) -> None:
    WHOSE.set("the test's")
    async with app.worker(settings=settings), app.client(settings) as client:
        assert await (await client.start(belongs_to())).result(DEADLINE_S) == "nobody's"


async def test_several_apps_in_one_loop(settings: Settings) -> None:
    other = App("other", settings=settings)

    @other.workflow
    async def answer() -> int:
        return 42

    async with (
        app.worker(settings=settings),
        other.worker(),
        app.client(settings) as client,
        other.client() as their_client,
    ):
        assert await (await client.start(belongs_to())).result(DEADLINE_S) == "nobody's"
        assert await (await their_client.start(answer())).result(DEADLINE_S) == 42


def test_a_blocking_worker(database: str, sql: Sql) -> None:
    settings = Settings(database_url=database)
    GATE.set()
    with app.blocking_worker(settings=settings) as worker, app.blocking_client(settings) as client:
        assert client.start(gated(7)).result(DEADLINE_S) == 7
        assert worker.is_ready
    assert not worker.is_ready
    assert sql.one("select count(*) from rowlock.worker") == 0
