"""Transactions: the user's writes and their checkpoint in one commit, whatever his code does."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowlock import App, Retry
from rowlock.errors import MisplacedCall, StepFailed, StepTimeout
from runtime.bench import Bench, Open, Way, until
from workers.until import Sql

app = App("transactions")
Tx = psycopg.AsyncConnection[Any]
SyncTx = psycopg.Connection[Any]
tried: list[str] = []
IN_TRANSACTION = """
    select count(*) from pg_stat_activity
     where datname = current_database() and state like 'idle in transaction%'"""
RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def tables(sql: Sql) -> None:
    sql("create table ledger (n int); create table account (name text primary key, n int)")
    sql("create table step (n int constraint step_pkey primary key deferrable initially deferred)")
    sql("insert into account values ('a', 0), ('b', 0)")
    tried.clear()
    RELEASE.clear()


@app.transaction
async def book(tx: Tx, n: int) -> int:
    await tx.execute("insert into ledger values (%s)", [n])
    return n


@app.transaction
def book_sync(tx: SyncTx, n: int) -> int:
    tx.execute("insert into ledger values (%s)", [n])
    return n


@app.transaction
async def commits(tx: Tx) -> None:
    await tx.execute("insert into ledger values (1)")
    await tx.commit()


@app.transaction
def rolls_back(tx: SyncTx) -> None:
    tx.execute("rollback")


@app.transaction
async def raises(tx: Tx) -> None:
    await tx.execute("insert into ledger values (1)")
    raise ValueError("after the write")


@app.transaction
def raises_sync(tx: SyncTx) -> None:
    tx.execute("insert into ledger values (1)")
    raise StopIteration("after the write")


@app.transaction
async def savepoints(tx: Tx) -> str:
    await tx.execute("insert into ledger values (1)")
    try:
        async with tx.transaction():
            await tx.execute("insert into ledger values (2)")
            await tx.execute("insert into account values ('a', 1)")
    except psycopg.errors.UniqueViolation:
        await tx.execute("insert into ledger values (3)")
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
    await tx.execute("insert into ledger values (1)")
    await tx.close()


@app.transaction(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=10)))
async def lucky(tx: Tx) -> int:
    await tx.execute("insert into ledger values (1)")
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
    await tx.execute("insert into ledger values (1)")
    await tx.execute("select pg_sleep(30)")


@app.transaction(timeout=0.1)
def too_slow_sync(tx: SyncTx) -> None:
    tx.execute("insert into ledger values (1)")
    RELEASE.wait(10)
    tx.execute("insert into ledger values (666)")
    tried.append("written")


@app.transaction
def slow_sync(tx: SyncTx, n: int) -> int:
    tx.execute("insert into ledger values (%s)", [n])
    time.sleep(0.005)
    return n


@app.transaction
async def isolation_of(tx: Tx) -> str:
    row = await (await tx.execute("show transaction_isolation")).fetchone()
    assert row is not None
    return str(row[0])


@app.transaction
async def returns_nonsense(tx: Tx) -> int:
    await tx.execute("insert into ledger values (1)")
    return "x"  # type: ignore[return-value]


TRANSACTIONS: dict[str, Any] = {
    t.name: t
    for t in (
        *(commits, raises, savepoints, breaks_a_rule, breaks_a_deferred_rule, lucky, closes),
        *(swallows_a_broken_rule, too_slow, isolation_of, returns_nonsense),
    )
}
PLAIN: dict[str, Any] = {t.name: t for t in (rolls_back, raises_sync, too_slow_sync)}


@app.workflow
async def transacts(name: str) -> Any:
    if name in TRANSACTIONS:
        return await TRANSACTIONS[name]()
    return await PLAIN[name].in_thread()


@app.workflow
async def books(count: int) -> list[int]:
    both = [book(n) for n in range(count)]
    plain = [book_sync.in_thread(n) for n in range(count, 2 * count)]
    numbers = await asyncio.gather(*both, *plain)
    await app.sleep(0.01)
    return [*numbers, await book(99)]


@app.workflow
async def fails_between() -> int:
    """Sooner or later psycopg prepares what it sends for the first time in a failing pipeline."""
    done = 0
    for n in range(8):
        with suppress(StepFailed):
            await swallows_a_broken_rule()
        done += 1 + 0 * await book(n)
    return done


@app.workflow
async def many_plain(count: int) -> int:
    return sum(await asyncio.gather(*(slow_sync.in_thread(n) for n in range(count))))


@app.workflow
def sync_books() -> list[int]:
    first = book_sync(1)
    app.sleep(0.01).wait()
    return [first, book.blocking(2)]


@app.workflow
async def transfers() -> int:
    await asyncio.gather(transfer("a", "b"), transfer("b", "a"), transfer("a", "b"))
    await app.sleep(0.01)
    return 3


@app.workflow
async def cancelled_at_random(plain: bool, seed: int) -> int:
    """Cancels transactions at every possible moment of theirs."""
    rng = random.Random(seed)
    done = 0
    for n in range(8):
        call = book_sync.in_thread(n) if plain else book(n)
        task = asyncio.create_task(call)
        await app.sleep(rng.random() * 0.01)
        task.cancel()
        await asyncio.wait([task])
        done += not task.cancelled()
    return done


def ledger(work: Bench) -> list[int]:
    return [n for (n,) in work.sql("select n from public.ledger order by 1")]


async def test_writes_commit_with_their_steps_and_once_however_often_replayed(
    bench: Open,
) -> None:
    async with bench(app) as work:
        assert await work.result(books(5)) == [*range(10), 99]
        assert ledger(work) == [*range(10), 99]
        assert await work.result(sync_books()) == [1, 2]
        assert ledger(work) == sorted([*range(10), 99, 1, 2])
        assert await work.result_when(Way.HANDED_BACK, books(3)) == [*range(6), 99]
        assert len(ledger(work)) == 20


@pytest.mark.parametrize("name", ["commits", "rolls_back"])
async def test_a_transaction_that_ends_itself_is_refused(bench: Open, name: str) -> None:
    async with bench(app) as work:
        error = await work.error(transacts(name))
        assert isinstance(error, MisplacedCall)
        assert "Leave commit and rollback to Rowlock" in str(error)


async def test_a_transaction_that_closes_its_connection_is_refused(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(transacts("closes"))
        async with asyncio.timeout(2):
            assert isinstance(await work.error_of(run), MisplacedCall)


async def test_an_error_rolls_back_and_is_recorded(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(transacts("raises"))
        assert isinstance(await work.error_of(run), ValueError)
        [step] = await run.steps()
        assert (step.kind, step.place) == ("transaction", "1")
        assert "StopIteration" in str(await work.error(transacts("raises_sync")))
        assert "result of transaction" in str(await work.error(transacts("returns_nonsense")))
        assert ledger(work) == []


async def test_savepoints_work_inside(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(transacts("savepoints")) == "saved"
        assert ledger(work) == [1, 3]


@pytest.mark.parametrize(
    "name",
    ["breaks_a_rule", "breaks_a_deferred_rule"],
)
async def test_a_broken_rule_of_the_users_tables_is_the_users_error(bench: Open, name: str) -> None:
    async with bench(app) as work:
        run = await work.start(transacts(name))
        async with asyncio.timeout(2):
            error = await work.error_of(run)
        assert isinstance(error, StepFailed)
        assert error.error_type == "psycopg.errors.UniqueViolation"


async def test_a_transaction_that_postgres_has_aborted_cant_succeed(bench: Open) -> None:
    async with bench(app) as work:
        error = await work.error(transacts("swallows_a_broken_rule"))
        assert "current transaction is aborted" in str(error)


async def test_a_commit_that_fails_does_not_spoil_the_connection_for_the_next(
    bench: Open,
) -> None:
    async with bench(app, transaction_connections=1) as work:
        assert await work.result(fails_between()) == 8


async def test_each_attempt_is_a_transaction_of_its_own(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(transacts("lucky"))
        assert await run.result(20) == 3
        assert ledger(work) == [1]
        assert [step.attempts for step in await run.steps()] == [3]


async def test_isolation_is_read_committed_and_conflicts_are_tried_again(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(transacts("isolation_of")) == "read committed"
        runs = [await work.start(transfers()) for _ in range(3)]
        assert [await run.result(30) for run in runs] == [3, 3, 3]
        assert work.sql.one("select sum(n) from account") == 9
        for run in runs:  # a conflict is no attempt of the user's
            assert {s.attempts for s in await run.steps()} == {1}


async def test_an_async_transaction_is_cancelled_at_its_timeout(bench: Open) -> None:
    async with bench(app) as work:
        assert isinstance(await work.error(transacts("too_slow")), StepTimeout)
        assert ledger(work) == []


async def test_what_a_sync_transaction_writes_after_its_timeout_is_rolled_back(
    bench: Open, sql: Sql
) -> None:
    async with bench(app, noise=("goes on in its thread",)) as work:
        assert isinstance(await work.error(transacts("too_slow_sync")), StepTimeout)
        RELEASE.set()
        await until(lambda: tried == ["written"])  # into a transaction that never commits
        await until(lambda: sql.one(IN_TRANSACTION) == 0)
    assert sql("select * from ledger") == []


async def test_more_sync_transactions_than_threads_and_connections_do_not_block_each_other(
    bench: Open,
) -> None:
    async with bench(app, slots=4, transaction_connections=3) as work:
        async with asyncio.timeout(20):
            assert await work.result(many_plain(60)) == sum(range(60))


@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
async def test_transactions_cancelled_at_any_moment_lose_no_connection_and_write_once(
    bench: Open, plain: bool
) -> None:
    async with bench(app, transaction_connections=2) as work:
        work.wait_in_memory(1.0)
        runs = [await work.start(cancelled_at_random(plain, seed)) for seed in range(24)]
        for run in runs:
            await run.result(40)
        async with asyncio.timeout(10):
            await work.result(books(3))
        written = work.sql.one("select count(*) from ledger")
        recorded = work.sql.one("select count(*) from rowlock.step where kind = 'transaction'")
        assert written == recorded
