"""Promise 13: an idle worker sends about a statement a second; a busy one shares commits."""

from __future__ import annotations

import time

import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(13)


def statements(sql: Sql) -> int:
    """What this database was asked by others than the test."""
    return int(
        sql.one(
            """select coalesce(sum(calls), 0) from pg_stat_statements
                where dbid = (select oid from pg_database where datname = current_database())
                  and query like 'select %rowlock.%(%' and query not like '%pg_stat_statements%'"""
        )
    )


def test_an_idle_worker_with_default_settings_sends_about_a_statement_a_second(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    sql("create extension if not exists pg_stat_statements")
    with Worker(database, lease_s=30, poll_s=2.5):
        assert client.start(sample.echo(1)).result(timeout=30) == 1
        until(lambda: sql.one("select count(*) from rowlock.worker where listening") == 1)
        before, began = statements(sql), time.monotonic()
        time.sleep(8)  # the promise is about doing nothing for a while
        sent, seconds = statements(sql) - before, time.monotonic() - began
    assert sent <= seconds * 1.0 + 2


def test_a_busy_worker_shares_commits(database: str, client: BlockingClient, sql: Sql) -> None:
    client.start_many([sample.steps(20) for _ in range(200)])

    def transactions() -> int:
        return int(sql.one("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"))

    before = transactions()
    with Worker(database, slots=64, lease_s=30):
        until(lambda: sql.one("select count(*) from rowlock.outcome") == 200)
        used = transactions() - before
    steps = sql.one("select count(*) from rowlock.step")
    assert steps == 4000
    assert used / steps <= 0.1  # writing transactions for each step
