"""What a workflow does, with the types it has."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, assert_type
from uuid import UUID

from psycopg import AsyncConnection, Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from rowlock import App, Child, Retry, Secret, WorkflowCall

app = App("typed", errors=[LookupError])
payments = app.queue("payments")


@dataclass
class Order:
    id: int
    lines: list[str]


@app.step
async def charge(order: Order, cents: int = 0) -> str:
    return f"{order.id} {cents}"


@app.step(retry=Retry(attempts=3), timeout=timedelta(seconds=30))
async def ship(order: Order) -> UUID:
    return UUID(int=order.id)


@app.step
def weigh(order: Order) -> float:
    return float(len(order.lines))


@app.step(name="refund it")
def refund(receipt: str) -> None: ...


@app.transaction
async def book(tx: AsyncConnection[Any], order: Order) -> int:
    await tx.execute("select 1")
    return order.id


@app.transaction(isolation="serializable")
def book_plain(tx: Connection[Any], order: Order) -> int:
    tx.execute("select 1")
    return order.id


@app.transaction
async def book_by_session(tx: AsyncSession, order: Order) -> bool:
    await tx.flush()
    return tx.is_active


@app.transaction
def book_by_plain_session(tx: Session, order: Order) -> bool:
    tx.flush()
    return tx.is_active


def measured(path: str, /, scale: int = 1) -> bytes:
    return path.encode() * scale


async def fetched(url: str) -> list[str]:
    return [url]


@app.workflow(queue=payments)
async def child(n: int) -> list[int]:
    return [n]


@app.workflow
async def fulfil(order: Order, gift: bool = False) -> str:
    assert_type(await charge(order), str)
    assert_type(await charge(order, cents=7), str)
    assert_type(await ship(order), UUID)
    assert_type(await weigh.in_thread(order), float)
    assert_type(await book(order), int)
    assert_type(await book_plain.in_thread(order), int)
    assert_type(await book_by_session(order), bool)
    assert_type(await book_by_plain_session.in_thread(order), bool)

    receipt, parcel, weight = await asyncio.gather(
        charge(order), ship(order), weigh.in_thread(order)
    )
    assert_type((receipt, parcel, weight), tuple[str, UUID, float])
    task = asyncio.create_task(charge(order))
    assert_type(await task, str)
    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(ship(order)), group.create_task(child(1))
    assert_type(first.result(), UUID)
    assert_type(second.result(), list[int])

    assert_type(await child(1), list[int])
    handle = await app.start_child(child(2), key="c", priority=3, deadline=60)
    assert_type(handle, Child[list[int]])
    assert_type(await handle.result(), list[int])
    one, other = await asyncio.gather(child(1), fulfil(order))
    assert_type((one, other), tuple[list[int], str])
    assert_type(await app.map(child(n) for n in range(3)), list[list[int]])
    assert_type(await app.map([child(1)], return_exceptions=True), list[list[int] | BaseException])

    await app.sleep(timedelta(days=1))
    async with app.timeout(5) as scope:
        assert_type(scope.expired, bool)
    assert_type(await app.now(), datetime)
    assert_type(await app.uuid(), UUID)
    assert_type(await app.random(), float)
    assert_type(await app.receive("approval", bool, timeout=60), bool)
    assert_type(await app.receive("approval", Order), Order)
    assert_type(await app.receive("approval", int | None), int | None)
    assert_type(await app.receive("approval", Literal["yes", "no"]), Literal["yes", "no"])
    assert_type(await app.receive("approval", dict[str, list[Order]]), dict[str, list[Order]])
    assert_type(await app.receive("whatever"), Any)
    await app.send(handle, "topic", {"any": "json"}, key="k")
    await app.set_event("progress", 1)
    assert_type(await app.get_event(handle, "progress", int), int)
    await app.emit("log", "line")
    assert_type(await app.run_step("measure", measured, "path", scale=2), bytes)
    assert_type(await app.run_step("fetch", fetched, "url"), list[str])
    app.compensate(refund, receipt)
    app.compensate(book, order)
    return receipt


@app.workflow
def plain(order: Order) -> float:
    assert_type(weigh(order), float)
    assert_type(charge.blocking(order), str)
    assert_type(book.blocking(order), int)
    assert_type(book_plain(order), int)
    assert_type(child(1).wait(), list[int])
    assert_type(app.now().wait(), datetime)
    app.sleep(1).wait()
    assert_type(app.receive("approval", bool).wait(), bool)
    assert_type(app.map([child(1)]).wait(), list[list[int]])
    assert_type(app.start_child(child(1)).wait().result().wait(), list[int])
    return weigh(order)


@app.workflow
async def goes_on(seen: int, secret: Secret[str]) -> None:
    if seen:
        goes_on.continue_as_new(seen - 1, secret)


async def outside(order: Order) -> None:
    assert_type(fulfil(order), WorkflowCall[str])
    assert_type(plain(order), WorkflowCall[float])
    assert_type(await fulfil.function(order), str)
    assert_type(plain.function(order), float)
    assert_type(await charge(order), str)
    assert_type(await charge.function(order), str)
    assert_type(weigh(order), float)
