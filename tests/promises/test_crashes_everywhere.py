"""Promises 1, 2, 3 and 5 at once: a crash at every point of runs that do a bit of everything.

What the worker processes of the other tests meet at random moments, these meet at every moment
there is: before and after each commit, and after each claim. The worker is the real one, cut off
from the database at that point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowlock import App, Retry
from rowlock.testing import Databases, Harness
from rowlock.workflow import WorkflowCall

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(2), pytest.mark.promise(3)]

app = App("crashes-everywhere")

HOUR = timedelta(hours=1)
SCHEMA = "create table ledger (id int generated always as identity, entry text)"


@app.step
async def fetch(n: int) -> int:
    return n * 10


@app.step
def compute(n: int) -> int:
    return n + 1


TRIED: set[str] = set()


@app.step(retry=Retry(attempts=2, first_delay=timedelta(minutes=5)))
async def fails_once(token: str) -> str:
    """Its first attempt in a run fails, whatever happens to the worker meanwhile."""
    if token not in TRIED:
        TRIED.add(token)
        raise ConnectionError("the first time it fails")
    return "done"


@app.transaction
async def book(tx: Any, entry: str) -> str:
    await tx.execute("insert into ledger (entry) values (%s)", [entry])
    return entry


@app.transaction
def book_plain(tx: Any, entry: str) -> str:
    tx.execute("insert into ledger (entry) values (%s)", [entry])
    return entry


@app.transaction
async def refuses(tx: Any) -> None:
    await tx.execute("insert into ledger (entry) values ('never')")
    raise ValueError("refused")


@app.workflow
async def child(n: int) -> int:
    await app.sleep(HOUR)
    await book(f"child {n}")
    return await fetch(n)


@app.workflow
async def parent(n: int) -> list[Any]:
    """Branches that race with a child, a child with a key, a timeout that fires."""
    one, of_child = await asyncio.gather(fetch(n), child(n))
    handle = await app.start_child(child(n + 1), key="the other")
    late = False
    try:
        async with app.timeout(timedelta(minutes=30)):
            await handle.result()
    except TimeoutError:
        late = True
    return [one, of_child, late, await handle.result()]


@app.workflow
async def line(n: int) -> list[Any]:
    """One thing after the other: step, thread, transaction, refusal, timer, retry."""
    made = [await fetch(n), await compute.in_thread(n), await book("line")]
    try:
        await refuses()
    except ValueError as error:
        made.append(str(error))
    await app.sleep(HOUR)
    return [*made, await fails_once(str(await app.uuid()))]


@app.workflow
def thread(n: int) -> list[Any]:
    """A sync workflow: its code runs in a thread."""
    made = [compute(n), book_plain("thread")]
    app.sleep(HOUR).wait()
    return [*made, fetch.blocking(n)]


@app.workflow
async def fails(n: int) -> None:
    await book("before the end")
    raise LookupError(f"nothing of {n}")


def ledger(harness: Harness) -> list[str]:
    with psycopg.connect(harness.database_url) as connection:
        rows = connection.execute("select entry from ledger order by entry").fetchall()
    return [entry for (entry,) in rows]


@pytest.mark.promise(5)
@pytest.mark.parametrize(
    "call",
    [lambda: parent(1), lambda: line(1), lambda: thread(1), lambda: fails(1)],
    ids=["parent", "line", "thread", "fails"],
)
async def test_no_crash_makes_a_difference(
    rowlock_server: str, call: Callable[[], WorkflowCall[Any]]
) -> None:
    def prepare(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(SCHEMA.encode())

    with Databases(rowlock_server, prepare=prepare) as databases:
        async with Harness(app, databases=databases) as harness:
            report = await harness.exhaust_crashes(call, effects=ledger, at_once=4)
    assert len(report.not_reached) <= len(report) // 3, report.not_reached
