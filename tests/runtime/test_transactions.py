"""Transactions: the user's writes and their checkpoint in one commit, whatever his code does.

Each test twice: of functions that are handed psycopg's connections, and SQLAlchemy's sessions.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, scoped_session

from rowlock import App
from rowlock.errors import ConfigurationError, MisplacedCall, StepFailed, StepTimeout
from runtime import by_psycopg, by_sqlalchemy
from runtime.bench import Bench, Open, Way, until
from runtime.transacting import RELEASE, tried
from workers.until import Sql

IN_TRANSACTION = """
    select count(*) from pg_stat_activity
     where datname = current_database() and state like 'idle in transaction%'"""


@pytest.fixture(autouse=True)
def tables(sql: Sql) -> None:
    sql("create table ledger (id serial primary key, n int)")
    sql("create table account (name text primary key, n int)")
    sql("create table step (n int constraint step_pkey primary key deferrable initially deferred)")
    sql("insert into account values ('a', 0), ('b', 0)")
    tried.clear()
    RELEASE.clear()


@pytest.fixture(params=[by_psycopg, by_sqlalchemy], ids=["psycopg", "SQLAlchemy"])
def by(request: pytest.FixtureRequest) -> Any:
    return request.param


def ledger(work: Bench) -> list[int]:
    return [n for (n,) in work.sql("select n from public.ledger order by 1")]


async def test_writes_commit_with_their_steps_and_once_however_often_replayed(
    by: Any,
    bench: Open,
) -> None:
    async with bench(by.app) as work:
        assert await work.result(by.WORKFLOWS.books(5)) == [*range(10), 99]
        assert ledger(work) == [*range(10), 99]
        assert await work.result(by.WORKFLOWS.sync_books()) == [1, 2]
        assert ledger(work) == sorted([*range(10), 99, 1, 2])
        assert await work.result_when(Way.HANDED_BACK, by.WORKFLOWS.books(3)) == [*range(6), 99]
        assert len(ledger(work)) == 20


@pytest.mark.parametrize("name", ["commits", "rolls_back"])
async def test_a_transaction_that_ends_itself_is_refused(by: Any, bench: Open, name: str) -> None:
    async with bench(by.app) as work:
        error = await work.error(by.WORKFLOWS.transacts(name))
        assert isinstance(error, MisplacedCall)
        assert "Leave commit and rollback to Rowlock" in str(error)


async def test_a_transaction_that_closes_its_connection_is_refused(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        run = await work.start(by.WORKFLOWS.transacts("closes"))
        async with asyncio.timeout(2):
            assert isinstance(await work.error_of(run), MisplacedCall)


async def test_an_error_rolls_back_and_is_recorded(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        run = await work.start(by.WORKFLOWS.transacts("raises"))
        assert isinstance(await work.error_of(run), ValueError)
        [step] = await run.steps()
        assert (step.kind, step.place) == ("transaction", "1")
        assert "StopIteration" in str(await work.error(by.WORKFLOWS.transacts("raises_sync")))
        assert "result of transaction" in str(
            await work.error(by.WORKFLOWS.transacts("returns_nonsense"))
        )
        assert ledger(work) == []


async def test_savepoints_work_inside(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        assert await work.result(by.WORKFLOWS.transacts("savepoints")) == "saved"
        assert ledger(work) == [1, 3]


@pytest.mark.parametrize(
    "name",
    ["breaks_a_rule", "breaks_a_deferred_rule"],
)
async def test_a_broken_rule_of_the_users_tables_is_the_users_error(
    by: Any, bench: Open, name: str
) -> None:
    async with bench(by.app) as work:
        run = await work.start(by.WORKFLOWS.transacts(name))
        async with asyncio.timeout(2):
            error = await work.error_of(run)
        assert isinstance(error, StepFailed)
        assert error.error_type in (by.BROKEN_RULE, "psycopg.errors.UniqueViolation")


async def test_a_transaction_that_postgres_has_aborted_cant_succeed(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        error = await work.error(by.WORKFLOWS.transacts("swallows_a_broken_rule"))
        assert by.ABORTED in str(error)


async def test_a_commit_that_fails_does_not_spoil_the_connection_for_the_next(
    by: Any,
    bench: Open,
) -> None:
    async with bench(by.app, transaction_connections=1) as work:
        assert await work.result(by.WORKFLOWS.fails_between()) == 8


async def test_each_attempt_is_a_transaction_of_its_own(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        run = await work.start(by.WORKFLOWS.transacts("lucky"))
        assert await run.result(20) == 3
        assert ledger(work) == [1]
        assert [step.attempts for step in await run.steps()] == [3]


async def test_isolation_is_read_committed_and_conflicts_are_tried_again(
    by: Any, bench: Open
) -> None:
    async with bench(by.app) as work:
        assert await work.result(by.WORKFLOWS.transacts("isolation_of")) == "read committed"
        runs = [await work.start(by.WORKFLOWS.transfers()) for _ in range(3)]
        assert [await run.result(30) for run in runs] == [3, 3, 3]
        assert work.sql.one("select sum(n) from account") == 9
        for run in runs:  # a conflict is no attempt of the user's
            assert {s.attempts for s in await run.steps()} == {1}


async def test_an_async_transaction_is_cancelled_at_its_timeout(by: Any, bench: Open) -> None:
    async with bench(by.app) as work:
        assert isinstance(await work.error(by.WORKFLOWS.transacts("too_slow")), StepTimeout)
        assert ledger(work) == []


async def test_what_a_sync_transaction_writes_after_its_timeout_is_rolled_back(
    by: Any, bench: Open, sql: Sql
) -> None:
    async with bench(by.app, noise=("goes on in its thread",)) as work:
        assert isinstance(await work.error(by.WORKFLOWS.transacts("too_slow_sync")), StepTimeout)
        RELEASE.set()
        await until(lambda: tried == ["written"])  # into a transaction that never commits
        await until(lambda: sql.one(IN_TRANSACTION) == 0)
    assert sql("select * from ledger") == []


async def test_more_sync_transactions_than_threads_and_connections_do_not_block_each_other(
    by: Any,
    bench: Open,
) -> None:
    async with bench(by.app, slots=4, transaction_connections=3) as work:
        async with asyncio.timeout(20):
            assert await work.result(by.WORKFLOWS.many_plain(60)) == sum(range(60))


@pytest.mark.parametrize("plain", [False, True], ids=["async", "sync"])
async def test_transactions_cancelled_at_any_moment_lose_no_connection_and_write_once(
    by: Any, bench: Open, plain: bool
) -> None:
    async with bench(by.app, transaction_connections=2) as work:
        work.wait_in_memory(1.0)
        runs = [
            await work.start(by.WORKFLOWS.cancelled_at_random(plain, seed)) for seed in range(24)
        ]
        for run in runs:
            await run.result(40)
        async with asyncio.timeout(10):
            await work.result(by.WORKFLOWS.books(3))
        written = work.sql.one("select count(*) from ledger")
        recorded = work.sql.one("select count(*) from rowlock.step where kind = 'transaction'")
        assert written == recorded


# --- what only a session can do


@pytest.mark.parametrize(
    "name", [t.name for t in (*by_sqlalchemy.ENDS_ITSELF, *by_sqlalchemy.ENDS_ITSELF_PLAIN)]
)
async def test_a_session_that_ends_its_transaction_is_refused(bench: Open, name: str) -> None:
    async with bench(by_sqlalchemy.app) as work:
        error = await work.error(by_sqlalchemy.WORKFLOWS.transacts(name))
        assert isinstance(error, MisplacedCall)
        assert "Leave commit and rollback to Rowlock" in str(error)
        assert "begin_nested" in str(error)
        assert ledger(work) == []
        # The connection is as good as new.
        assert await work.result(by_sqlalchemy.WORKFLOWS.books(1)) == [0, 1, 99]


async def test_a_flush_that_failed_for_sqlalchemy_alone_keeps_nothing(bench: Open) -> None:
    async with bench(by_sqlalchemy.app) as work:
        error = await work.error(by_sqlalchemy.WORKFLOWS.transacts("swallows_a_stale_row"))
        assert isinstance(error, MisplacedCall)
        assert by_sqlalchemy.ABORTED in str(error)
        assert ledger(work) == []
        assert work.sql.one("select count(*) from account") == 2


async def test_a_kind_of_session_of_the_users_own(bench: Open) -> None:
    async with bench(by_sqlalchemy.app) as work:
        assert await work.result(by_sqlalchemy.lazy(7)) == "Lazy [] Session"
        assert ledger(work) == [7]


async def test_what_an_error_of_sqlalchemy_says_holds_no_parameters(bench: Open) -> None:
    async with bench(by_sqlalchemy.app) as work:
        error = await work.error(by_sqlalchemy.WORKFLOWS.transacts("breaks_a_rule"))
        assert "parameters hidden" in str(error)


async def async_with_session(tx: Session) -> None: ...
async def async_with_connection(tx: AsyncConnection) -> None: ...
def plain_with_async_session(tx: AsyncSession) -> None: ...
def plain_with_scoped(tx: scoped_session[Session]) -> None: ...


@pytest.mark.parametrize(
    ("function", "right"),
    [
        (async_with_session, "an async function is handed SQLAlchemy's AsyncSession"),
        (async_with_connection, "an async function is handed SQLAlchemy's AsyncSession"),
        (plain_with_async_session, "a plain function is handed SQLAlchemy's Session"),
        (plain_with_scoped, "a plain function is handed SQLAlchemy's Session"),
    ],
)
def test_another_thing_of_sqlalchemys_is_refused(function: Any, right: str) -> None:
    with pytest.raises(ConfigurationError, match=right):
        App("wrong").transaction(function)
