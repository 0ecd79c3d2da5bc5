"""Workflows for the tests of traces: a bit of everything, with instrumentation of their own.

A step asks the database whether it may go on (table ``gate``), so that tests choose the moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from datetime import timedelta
from typing import Any

import psycopg

from rowlock import App, Retry
from workers.sample import die_once, first_time

app = App("traced")
log = logging.getLogger("shop")

SOON = Retry(attempts=3, first_delay=timedelta(milliseconds=10))
LATER = Retry(attempts=2, first_delay=timedelta(seconds=1.2), jitter=0.0)


def inner_span(name: str) -> Any:
    """A span of the user's own: his code knows the API of OpenTelemetry, and not Rowlock's."""
    from opentelemetry import trace  # noqa: PLC0415

    return trace.get_tracer("shop").start_as_current_span(name)


@app.step
async def reserve(order: str) -> str:
    with inner_span("inner reserve"):
        log.info("reserving %s", order)
        await asyncio.sleep(0)
    return order


@app.step
def weigh(order: str) -> int:
    with inner_span("inner weigh"):
        return len(order)


@app.step(retry=SOON)
async def flaky(order: str, failures: int, attempts: list[int]) -> str:
    attempts.append(1)
    if len(attempts) <= failures:
        raise ValueError(f"no luck with {order}")
    return order


@app.step(retry=LATER)
async def flaky_later(order: str) -> str:
    if await asyncio.to_thread(first_time, order):
        raise ValueError("not yet")
    return order


@app.transaction
async def book(tx: psycopg.AsyncConnection[Any], order: str) -> None:
    await tx.execute("insert into ledger values (%s, 1)", [order])


@app.transaction
def book_sync(tx: psycopg.Connection[Any], order: str) -> None:
    with inner_span("inner book"):
        tx.execute("insert into ledger values (%s, 2)", [order])


@app.step
async def deadly(order: str) -> str:
    await asyncio.to_thread(die_once, order)
    return order


@app.step
async def gated(order: str) -> str:
    """Waits until the test has put the order into the table ``gate``."""
    async with await psycopg.AsyncConnection.connect(
        os.environ["TRACE_URL"], autocommit=True
    ) as connection:
        query = "select 1 from gate where name = %s"
        while not await (await connection.execute(query, [order])).fetchone():
            await asyncio.sleep(0.02)
    return order


@app.step
async def imported() -> list[str]:
    """Which modules of OpenTelemetry this process has."""
    return sorted(name for name in sys.modules if name.startswith("opentelemetry"))


class Unspeakable(Exception):
    """Can't be shown: what observes it must not fall over it."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@app.step
async def unspeakable() -> None:
    raise Unspeakable


@app.workflow
async def speechless() -> None:
    await unspeakable()


@app.workflow
async def parcel(order: str) -> str:
    return await reserve(order)


@app.workflow
async def everything(order: str) -> str:
    log.info("fulfilling %s", order)
    await reserve(order)
    await weigh.in_thread(order)
    await flaky(order, 2, [])
    await book(order)
    await book_sync.in_thread(order)
    await parcel(order)
    handle = await app.start_child(parcel(order), key=f"parcel-{order}")
    await handle.result()
    return order


@app.workflow
async def killed(order: str) -> str:
    await reserve(order)
    await gated(order)
    await deadly(order)
    await parcel(order)
    return await reserve(order)


@app.workflow
async def sleeper(order: str) -> str:
    await reserve(order)
    await app.sleep(1.2)
    await flaky_later(order)
    return order


@app.workflow
async def failing(order: str) -> None:
    await flaky(order, 9, [])


@app.workflow
async def short(order: str) -> str:
    return await flaky(order, 0, [])


@app.workflow
async def parent(order: str) -> str:
    """With a child of each kind."""
    await short(order)
    handle = await app.start_child(short(order), key=f"short-{order}")
    return await handle.result()


@app.workflow
async def modules() -> list[str]:
    return await imported()


@app.workflow
async def many(steps: int) -> int:
    for number in range(steps):
        await flaky(str(number), 0, [])
    return steps


@app.workflow
def in_thread(order: str) -> str:
    log.info("threaded")
    return reserve.blocking(order)
