"""Promises 1, 2, 3 and 5 at once: a crash at every point of runs that do a bit of everything.

What the worker processes of the other tests meet at random moments, these meet at every moment
there is: before and after each commit, and after each claim. The worker is the real one, cut off
from the database at that point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from rowlock import App, Retry, Run
from rowlock.testing import Databases, Harness
from rowlock.workflow import WorkflowCall

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(2), pytest.mark.promise(3)]

app = App("crashes-everywhere")

HOUR = timedelta(hours=1)
Drive = Callable[[Harness, Run[Any]], Awaitable[object]]
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


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    entry: Mapped[str]


@app.transaction
async def book_by_session(tx: AsyncSession, entry: str) -> None:
    tx.add(Entry(entry=entry))


@app.transaction
def book_by_plain_session(tx: Session, entry: str) -> None:
    tx.add(Entry(entry=entry))


@app.transaction
async def refuses(tx: Any) -> None:
    await tx.execute("insert into ledger (entry) values ('never')")
    raise ValueError("refused")


@app.workflow
async def child(n: int) -> str:
    await app.sleep(HOUR)
    return await book(f"child {n}")


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
    """One thing after the other: step, thread, transactions, refusal, timer, retry."""
    made = [await fetch(n), await compute.in_thread(n), await book("line")]
    await book_by_session("by session")
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
    book_by_plain_session("by session")
    app.sleep(HOUR).wait()
    return [*made, fetch.blocking(n)]


@app.workflow
async def listens(n: int) -> list[Any]:
    """Messages and events: what was sent is received once, what was set stays set."""
    other = await app.start_child(tells(n))
    words = [await app.receive("word", str), await app.receive("word", str)]
    await app.send(other, "go", n)
    words.append(await app.get_event(other, "done", str))
    return [words, await other.result()]


@app.workflow
async def tells(n: int) -> int:
    told = await app.receive("go", int, timeout=HOUR)
    await app.set_event("done", f"told {told}")
    return await fetch(told)


@app.workflow
async def fails(n: int) -> None:
    await book("before the end")
    raise LookupError(f"nothing of {n}")


async def two_words(harness: Harness, run: Run[Any]) -> None:
    await run.send("word", "first", key="1")
    await harness.run_until_idle()
    await run.send("word", "second", key="2")


def ledger(harness: Harness) -> list[str]:
    with psycopg.connect(harness.database_url) as connection:
        rows = connection.execute("select entry from ledger order by entry").fetchall()
    return [entry for (entry,) in rows]


@pytest.mark.promise(5)
@pytest.mark.parametrize(
    ("call", "drive"),
    [
        pytest.param(lambda: parent(1), None, id="parent"),
        pytest.param(lambda: line(1), None, id="line"),
        pytest.param(lambda: thread(1), None, id="thread"),
        pytest.param(lambda: listens(1), two_words, id="listens"),
        pytest.param(lambda: fails(1), None, id="fails"),
    ],
)
async def test_no_crash_makes_a_difference(
    rowlock_server: str, call: Callable[[], WorkflowCall[Any]], drive: Drive | None
) -> None:
    def prepare(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(SCHEMA.encode())

    with Databases(rowlock_server, prepare=prepare) as databases:
        async with Harness(app, databases=databases) as harness:
            report = await harness.exhaust_crashes(call, drive=drive, effects=ledger, at_once=4)
    assert len(report.not_reached) <= len(report) // 3, report.not_reached
