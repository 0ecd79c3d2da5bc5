"""Workflows for the tests: they leave traces outside of Rowlock, and can kill their own process.

Table ``trace`` gets a row for every *execution* of a step, over a connection of its own, so that
executions can be held against records. Table ``ledger`` is written in transactions.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import psycopg

from rowlock import App, Retry

app = App("sample")

SCHEMA = """
create table if not exists trace (
    at timestamptz default clock_timestamp(), run text, what text, pid int);
create table if not exists once (name text primary key);
create table if not exists ledger (run text, n int);
"""


def connect() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["TRACE_URL"], autocommit=True)


def trace(run: str, what: str) -> None:
    with connect() as connection:
        connection.execute(
            "insert into trace (run, what, pid) values (%s, %s, %s)", [run, what, os.getpid()]
        )


def first_time(name: str) -> bool:
    """True for the first caller of all processes."""
    with connect() as connection:
        done = connection.execute("insert into once values (%s) on conflict do nothing", [name])
        return done.rowcount == 1


def die_once(name: str) -> None:
    """kill -9 of the process that this runs in, the first time."""
    if first_time(name):
        os.kill(os.getpid(), signal.SIGKILL)


@app.step
async def note(run: str, what: str) -> str:
    await asyncio.to_thread(trace, run, what)
    return what


@app.step
async def note_and_die(run: str, what: str) -> str:
    """Killed after its effect and before its checkpoint."""
    await asyncio.to_thread(trace, run, what)
    die_once(f"{run} {what}")
    return what


@app.step
async def slow_note(run: str, what: str, seconds: float) -> str:
    await asyncio.to_thread(trace, run, what)
    await asyncio.sleep(seconds)
    return what


@app.step
def stubborn_note(run: str, what: str, seconds: float) -> str:
    """A sync step: nothing can interrupt it, not even the loss of the lease."""
    trace(run, what)
    time.sleep(seconds)
    return what


@app.step
async def quick(n: int) -> int:
    return n


@app.step(retry=Retry(attempts=3))
async def fails(run: str) -> None:
    await asyncio.to_thread(trace, run, "attempt")
    raise ValueError(f"no luck with {run}")


@app.transaction
async def book(tx: psycopg.AsyncConnection[Any], run: str, n: int) -> int:
    await tx.execute("insert into ledger values (%s, %s)", [run, n])
    return n


@app.transaction
async def book_and_die(tx: psycopg.AsyncConnection[Any], run: str, n: int) -> int:
    """Killed after its writes and before its commit."""
    await tx.execute("insert into ledger values (%s, %s)", [run, n])
    await asyncio.to_thread(die_once, f"{run} book {n}")
    return n


@app.transaction
def book_sync(tx: psycopg.Connection[Any], run: str, n: int) -> int:
    tx.execute("insert into ledger values (%s, %s)", [run, n])
    return n


@app.workflow
async def killed_in_a_step(run: str) -> list[str]:
    return [await note(run, "a"), await note_and_die(run, "b"), await note(run, "c")]


@app.workflow
async def killed_before_its_first_step(run: str) -> str:
    die_once(f"{run} begin")
    return await note(run, "a")


@app.workflow
async def killed_in_a_transaction(run: str) -> int:
    await book(run, 1)
    await book_and_die(run, 2)
    return await book_sync.in_thread(run, 3)


@app.workflow
async def many_steps(run: str, steps: int, pause: float = 0.0) -> int:
    for number in range(steps):
        await slow_note(run, str(number), pause)
    return steps


@app.workflow
async def stubborn(run: str, seconds: float) -> list[str]:
    return [
        await note(run, "before"),
        await stubborn_note.in_thread(run, "stubborn", seconds),
        await note(run, "after"),
    ]


@app.workflow
async def sleeper(seconds: float) -> str:
    await app.sleep(seconds)
    return "awake"


@app.workflow
async def echo(value: int) -> int:
    return value


@app.workflow
async def steps(count: int) -> int:
    return sum([await quick(n) for n in range(count)])


@app.workflow
async def parent(children: int) -> int:
    return sum(await asyncio.gather(*(echo(n) for n in range(children))))


@app.workflow
async def mixed(run: str, seed: int) -> int:
    """A bit of everything, for the tests under fire."""
    total = await quick(seed)
    await book(run, 1)
    results = await asyncio.gather(quick(1), echo(2), book(run, 2), quick(3))
    total += sum(results)
    if seed % 3 == 0:
        await app.sleep(1.2)
    if seed % 4 == 0:
        total += await parent(3)
    await book(run, 3)
    return total


@app.workflow
def sync_mixed(run: str) -> int:
    total = quick.blocking(1)
    book_sync(run, 1)
    app.sleep(0.05).wait()
    total += echo(2).wait()
    book_sync(run, 2)
    return total


@app.workflow
async def failing(run: str) -> None:
    await fails(run)


@app.workflow
async def suicidal() -> None:
    """Kills every worker that touches it."""
    os.kill(os.getpid(), signal.SIGKILL)
