"""Code may know its last outcome before that is written; nothing is done on the strength of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowlock import App, Retry
from rowlock.errors import InvalidValue, RunFailed
from rowlock.workflow import Workflow
from runtime.bench import Open, Way, until
from workers.until import Sql

app = App("ahead")
DID: list[str] = []
OPEN: list[asyncio.Event] = []
"""The first step ends when the test says so."""


@pytest.fixture(autouse=True)
def nothing_did() -> None:
    DID.clear()
    OPEN[:] = [asyncio.Event()]


@app.step
async def note(what: str) -> str:
    DID.append(what)
    return what


@app.step
async def first() -> None:
    DID.append("first")
    await OPEN[0].wait()


@app.step
async def fail() -> None:
    DID.append("first")
    await OPEN[0].wait()
    raise ValueError("no")


@app.workflow
async def child() -> None:
    DID.append("child")


@app.workflow
async def notes() -> str:
    await first()
    DID.append("knows")
    return await note("second")


@app.workflow
async def fails_and_goes_on() -> str:
    try:
        await fail()
    except ValueError:
        DID.append("knows")
    return await note("second")


@app.workflow
async def shows() -> None:
    await first()
    DID.append("knows")
    await app.set_event("shown", 1)
    await note("second")


@app.workflow
async def starts_by_key() -> None:
    await first()
    DID.append("knows")
    await app.start_child(child(), key="one")


@app.workflow
async def one_step() -> None:
    await first()
    DID.append("knows")


@app.step(retry=Retry(attempts=40000, first_delay=timedelta(0)))
async def stubborn() -> None:
    DID.append("try")
    if len(DID) < 32768:
        raise ValueError("not yet")


@app.workflow
async def ends_with_the_stubborn() -> None:
    await stubborn()


@app.step
async def long() -> None:
    DID.append("long begins")
    try:
        await asyncio.sleep(3600)
    finally:
        DID.append("long was stopped")


@app.workflow
async def races() -> None:
    tasks = [asyncio.create_task(first()), asyncio.create_task(long())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    DID.append("knows")
    tasks[1].cancel()


@app.workflow
async def big(size: int) -> str:
    return await note("x" * size)


async def until_did(what: str) -> None:
    await until(lambda: what in DID, 30)


@contextmanager
def held_journal(database: str) -> Iterator[None]:
    """With the worker's row in a stranger's hands, its journal writes nothing."""
    with psycopg.connect(database) as stranger:
        stranger.execute("select from rowlock.worker for update")
        yield


@pytest.mark.parametrize("workflow", [notes, fails_and_goes_on, shows, starts_by_key])
async def test_what_has_effects_waits_until_all_before_is_written(
    bench: Open, database: str, sql: Sql, workflow: Workflow[[], Any]
) -> None:
    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(workflow())
        await until_did("first")
        with held_journal(database):
            OPEN[0].set()
            await until_did("knows")
            await asyncio.sleep(0.3)  # what is wrongly begun would have been by now
            assert DID == ["first", "knows"]
            assert sql.one("select count(*) from rowlock.step") == 0
            assert sql.one("select count(*) from rowlock.run") == 1
        await run.result(20)
        if workflow is starts_by_key:
            await until_did("child")
        assert len(DID) == 3


async def test_the_last_outcome_and_the_end_are_one_commit(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        OPEN[0].set()
        run = await work.start(notes())
        assert await run.result(20) == "second"
        found = sql(
            "select s.place, s.xmin = o.xmin from rowlock.step s"
            " join rowlock.outcome o using (run_id) order by 1"
        )
        assert found == [("1", False), ("2", True)]


async def test_nothing_is_stopped_on_the_strength_of_what_is_not_written(
    bench: Open, database: str, sql: Sql
) -> None:
    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(races())
        await until_did("first")
        await until_did("long begins")
        with held_journal(database):
            OPEN[0].set()
            await asyncio.sleep(0.3)
            assert "knows" not in DID
            assert "long was stopped" not in DID
        await run.result(20)
        await until_did("long was stopped")


async def test_an_outcome_is_written_though_a_stranger_is_in_the_way_of_the_end(
    bench: Open, database: str, sql: Sql
) -> None:
    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(one_step())
        await until_did("first")
        with psycopg.connect(database) as stranger:
            stranger.execute("select from rowlock.task for key share")
            OPEN[0].set()
            await until(lambda: sql.one("select count(*) from rowlock.step") == 1, 20)
            assert sql.one("select count(*) from rowlock.outcome") == 0
        await run.result(20)
        assert DID == ["first", "knows"]


async def test_no_end_is_written_without_its_last_outcome(bench: Open, sql: Sql) -> None:
    async with bench(app, way=Way.LOADED, noise=("refused an entry",)) as work:
        run = await work.start(ends_with_the_stubborn())
        with pytest.raises(RunFailed) as caught:  # more attempts than the column holds
            await run.result(120)
        assert isinstance(caught.value.__cause__, InvalidValue)
        assert len(DID) == 32768


async def test_what_postgres_might_refuse_is_not_gone_ahead_of(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(big(3000))
        assert len(await run.result(20)) == 3000
        assert (
            sql.one(
                "select s.xmin = o.xmin from rowlock.step s join rowlock.outcome o using (run_id)"
            )
            is False
        )
