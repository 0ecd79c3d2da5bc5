"""Code goes on before the journal has written what it knows; nothing else does."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from rowlock import App
from rowlock.model.ahead import MOST
from rowlock.workflow import Workflow
from runtime.bench import Open, Way
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
async def waits() -> str:
    await asyncio.gather(first(), app.sleep(0.001))
    DID.append("knows")
    return await note("second")


@app.workflow
async def starts_by_key() -> None:
    await first()
    DID.append("knows")
    await app.start_child(child(), key="one")


@app.workflow
async def branches() -> list[str]:
    return [*await asyncio.gather(*(three(n) for n in range(8)))]


async def three(n: int) -> str:
    for m in range(3):
        await note(f"{n}.{m}")
    return f"{n}"


@app.workflow
async def hurries(count: int) -> None:
    await first()
    for _ in range(count):
        await app.sleep(0)


@app.workflow
async def big(size: int) -> str:
    return await note("x" * size)


async def until_did(what: str) -> None:
    async with asyncio.timeout(30):
        while what not in DID:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("workflow", [notes, fails_and_goes_on, waits, starts_by_key])
async def test_what_has_effects_waits_until_all_before_is_written(
    bench: Open, database: str, sql: Sql, workflow: Workflow[[], Any]
) -> None:
    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(workflow())
        await until_did("first")
        with psycopg.connect(database) as stranger:
            # With the worker's row in a stranger's hands, its journal writes nothing.
            stranger.execute("select from rowlock.worker for update")
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


async def test_code_that_waits_for_no_time_does_not_fill_the_queue(
    bench: Open, database: str, sql: Sql
) -> None:
    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(hurries(3 * MOST))
        await until_did("first")
        with psycopg.connect(database) as stranger:
            stranger.execute("select from rowlock.worker for update")
            OPEN[0].set()
            async with asyncio.timeout(30):
                while not work.loaded()[0]._ahead.is_full:
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)  # further than this it does not get
            assert len(work.loaded()[0]._ahead._open) == MOST
        await run.result(20)
        assert sql.one("select count(*) from rowlock.step") == 3 * MOST + 1


async def test_branches_wait_for_what_was_before_them_only(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(branches())
        assert await run.result(20) == [str(n) for n in range(8)]
        assert len(DID) == 24


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
