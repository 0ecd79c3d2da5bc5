"""The transactions of test_transactions.py, as functions that are handed psycopg's connections."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg

from rowlock import App, Retry
from runtime.transacting import RELEASE, Workflows, tried

app = App("transactions")
Tx = psycopg.AsyncConnection[Any]
SyncTx = psycopg.Connection[Any]
BROKEN_RULE = "psycopg.errors.UniqueViolation"
ABORTED = "current transaction is aborted"


@app.transaction
async def book(tx: Tx, n: int) -> int:
    await tx.execute("insert into ledger (n) values (%s)", [n])
    return n


@app.transaction
def book_sync(tx: SyncTx, n: int) -> int:
    tx.execute("insert into ledger (n) values (%s)", [n])
    return n


@app.transaction
async def commits(tx: Tx) -> None:
    await tx.execute("insert into ledger (n) values (1)")
    await tx.commit()


@app.transaction
def rolls_back(tx: SyncTx) -> None:
    tx.execute("rollback")


@app.transaction
async def raises(tx: Tx) -> None:
    await tx.execute("insert into ledger (n) values (1)")
    raise ValueError("after the write")


@app.transaction
def raises_sync(tx: SyncTx) -> None:
    tx.execute("insert into ledger (n) values (1)")
    raise StopIteration("after the write")


@app.transaction
async def savepoints(tx: Tx) -> str:
    await tx.execute("insert into ledger (n) values (1)")
    try:
        async with tx.transaction():
            await tx.execute("insert into ledger (n) values (2)")
            await tx.execute("insert into account values ('a', 1)")
    except psycopg.errors.UniqueViolation:
        await tx.execute("insert into ledger (n) values (3)")
    return "saved"


@app.transaction
async def breaks_a_rule(tx: Tx) -> None:
    await tx.execute("insert into account values ('a', 1)")


@app.transaction
async def breaks_a_deferred_rule(tx: Tx) -> None:
    """The table is called `step`, and its constraint as ours; it is checked at the commit."""
    await tx.execute("insert into step values (1), (1)")


@app.transaction
async def swallows_a_broken_rule(tx: Tx) -> None:
    with suppress(psycopg.errors.UniqueViolation):
        await tx.execute("insert into account values ('a', 1)")


@app.transaction
async def closes(tx: Tx) -> None:
    await tx.execute("insert into ledger (n) values (1)")
    await tx.close()


@app.transaction(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=10)))
async def lucky(tx: Tx) -> int:
    await tx.execute("insert into ledger (n) values (1)")
    tried.append("lucky")
    if len(tried) < 3:
        raise OSError
    return len(tried)


@app.transaction(isolation="serializable")
async def transfer(tx: Tx, one: str, other: str) -> int:
    row = await (await tx.execute("select n from account where name = %s", [one])).fetchone()
    assert row is not None
    await asyncio.sleep(0.02)
    await tx.execute("update account set n = n + 1 where name = %s", [other])
    return int(row[0])


@app.transaction(timeout=0.1)
async def too_slow(tx: Tx) -> None:
    await tx.execute("insert into ledger (n) values (1)")
    await tx.execute("select pg_sleep(30)")


@app.transaction(timeout=0.1)
def too_slow_sync(tx: SyncTx) -> None:
    tx.execute("insert into ledger (n) values (1)")
    RELEASE.wait(10)
    tx.execute("insert into ledger (n) values (666)")
    tried.append("written")


@app.transaction
def slow_sync(tx: SyncTx, n: int) -> int:
    tx.execute("insert into ledger (n) values (%s)", [n])
    time.sleep(0.005)
    return n


@app.transaction
async def isolation_of(tx: Tx) -> str:
    row = await (await tx.execute("show transaction_isolation")).fetchone()
    assert row is not None
    return str(row[0])


@app.transaction
async def returns_nonsense(tx: Tx) -> int:
    await tx.execute("insert into ledger (n) values (1)")
    return "x"  # type: ignore[return-value]


WORKFLOWS = Workflows(
    app,
    (book, book_sync, slow_sync, transfer),
    (
        *(commits, raises, savepoints, breaks_a_rule, breaks_a_deferred_rule, lucky, closes),
        *(swallows_a_broken_rule, too_slow, isolation_of, returns_nonsense),
    ),
    (rolls_back, raises_sync, too_slow_sync),
)
