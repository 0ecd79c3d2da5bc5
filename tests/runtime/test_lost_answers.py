"""A transaction whose commit's answer is lost: what stands is found, in its place in the order."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
import pytest

from rowlock import App
from rowlock.store import transactions
from runtime.bench import Open, Way, until
from workers.until import Sql

app = App("lost-answers")
LOST: list[asyncio.Event] = []
GIVEN_UP: list[asyncio.Event] = []
HOLD: list[asyncio.Event] = []
"""Before a transaction in a task ends."""


@app.step
async def after_the_loss() -> str:
    await LOST[0].wait()
    return "step"


@app.transaction
async def book(tx: psycopg.AsyncConnection[Any]) -> str:
    await HOLD[0].wait()
    await tx.execute("insert into booked default values")
    return "transaction"


@app.transaction
def book_in_thread(tx: psycopg.Connection[Any]) -> str:
    tx.execute("insert into booked default values")
    return "transaction"


async def raced(booking: Any) -> list[str]:
    tasks = [asyncio.create_task(booking()), asyncio.create_task(after_the_loss())]
    order = []
    for one in asyncio.as_completed(tasks):
        order.append(await one)
        if order == ["step"]:
            await app.uuid()  # in another order it would be another program
        await app.sleep(0.05)  # unloaded, and replayed
    return order


@app.workflow
async def books() -> list[str]:
    return await raced(book)


@app.workflow
async def books_in_thread() -> list[str]:
    return await raced(book_in_thread.in_thread)


@pytest.mark.parametrize("stands", [True, False])
@pytest.mark.parametrize("workflow", [books, books_in_thread])
async def test_nothing_behind_it_is_delivered_before_its_fate_is_known(
    bench: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch, workflow: Any, stands: bool
) -> None:
    sql("create table public.booked (id serial primary key)")
    LOST[:], HOLD[:] = [asyncio.Event()], [asyncio.Event()]
    HOLD[0].set()

    def lose_the_first_answer(kind: Any) -> None:
        real = kind.finish

        async def finish(self: Any, parameters: Mapping[str, Any]) -> None:
            lost = LOST[0].is_set()
            if stands or lost:
                await real(self, parameters)
            else:
                await self.abandon()
            if not lost:
                LOST[0].set()
                await asyncio.sleep(0.2)  # the step is done and recorded meanwhile
                raise transactions.CommitUnknown("the answer was lost")

        monkeypatch.setattr(kind, "finish", finish)

    lose_the_first_answer(transactions._AsyncTransaction)
    lose_the_first_answer(transactions._SyncTransaction)
    async with bench(app, way=Way.UNLOADED) as work:
        assert await work.result(workflow()) == ["transaction", "step"]
        assert sql.one("select count(*) from public.booked") == 1


@app.workflow
async def gives_up() -> str:
    booking = asyncio.create_task(book())
    await after_the_loss()
    booking.cancel()
    await asyncio.gather(booking, return_exceptions=True)
    GIVEN_UP[0].set()
    return await after_the_loss()


async def test_one_that_nobody_waits_for_any_more_holds_nothing_up(
    bench: Open, database: str, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql("create table public.booked (id serial primary key)")
    LOST[:], HOLD[:] = [asyncio.Event()], [asyncio.Event()]
    GIVEN_UP[:] = [asyncio.Event()]
    committing = asyncio.Event()

    async def finish(self: Any, _parameters: Mapping[str, Any]) -> None:
        committing.set()
        await GIVEN_UP[0].wait()
        await self.abandon()
        raise transactions.CommitUnknown("the answer was lost")

    async with bench(app, way=Way.LOADED) as work:
        run = await work.start(gives_up())
        await until(lambda: work.loaded() and len(work.loaded()[0]._in_flight._open) == 2)
        with psycopg.connect(database) as stranger:
            # The step has its position before the transaction, and is delivered while that commits.
            stranger.execute("select from rowlock.worker for update")
            monkeypatch.setattr(transactions._AsyncTransaction, "finish", finish)
            LOST[0].set()
            await until(lambda: work.loaded()[0]._deliveries.last == 1)
            HOLD[0].set()
            await until(committing.is_set)
        assert await run.result(20) == "step"
