"""Families for the tests of retention: whatever one run may need of another, it needs here.

A parent of a group and of a child with a key that others share, which may sleep in between, may
fail once after its children have ended, and may go on as a new history.
"""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg

from rowlock import App
from workers.sample import first_time

app = App("families")


@app.transaction
async def book(tx: psycopg.AsyncConnection[Any], run: str, n: int) -> int:
    await tx.execute("insert into ledger values (%s, %s)", [run, n])
    return n


@app.step
async def moody(run: str) -> None:
    """Fails the first time."""
    if await asyncio.to_thread(first_time, run):
        raise ValueError(f"{run} is in no mood")


@app.workflow
async def member(run: str, n: int) -> int:
    await book(run, 100 + n)
    if n % 2:
        await app.sleep(0.05)
    return n


@app.workflow
async def report(name: str) -> str:
    await app.sleep(0.02)
    return name


@app.workflow
async def family(run: str, seed: int, life: int = 1) -> int:
    await book(run, 10 * life)
    shared = await app.start_child(report("daily"), key=f"report {seed % 7}")
    total = sum(await app.map(member(f"{run} {life}", n) for n in range(seed % 5)))
    if seed % 2:
        await app.sleep(0.1)
    if seed % 3 == 0:
        await moody(f"{run} {life}")
    assert await shared.result() == "daily"
    await book(run, 10 * life + 1)
    if seed % 4 == 0 and life < 3:
        family.continue_as_new(run, seed, life + 1)
    return total
