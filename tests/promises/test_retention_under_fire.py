"""Retention takes nothing that anything needs, while workers are killed and runs are done again.

Runs leave as soon as they have ended, batch by batch, as fast as the database can: nothing that is
unfinished may miss a thing (promises 1, 2, 3 and 5), and nothing may be left of what is gone.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import pytest

from rowlock import BlockingClient, Settings
from rowlock.errors import RowlockError
from workers import checks, families
from workers.looking import looking_into
from workers.process import Worker
from workers.until import Sql, until

SECONDS = float(os.environ.get("ROWLOCK_RETENTION_SECONDS", "6"))
FAMILIES = 80

AT_ONCE = """
create or replace function rowlock.at_least_a_minute(p_keep interval) returns interval
language sql immutable set search_path = pg_catalog return p_keep
"""
"""A minute is long for a test; here nobody waits who has not said so in the database."""


class Hands(threading.Thread):
    """Somebody who does something again and again, until told to stop."""

    def __init__(self, url: str, *doings: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._doings = doings
        self._told = threading.Event()
        self.done = 0
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self._url, autocommit=True) as connection:
                while not self._told.is_set():
                    for doing in self._doings:
                        self.done += self._do(connection, doing)
        except Exception as error:
            self.failed = error

    @staticmethod
    def _do(connection: psycopg.Connection[Any], doing: str) -> int:
        try:
            row = connection.execute(doing.encode()).fetchone()
        except psycopg.DatabaseError as error:
            if not str(error.sqlstate).startswith("RL"):
                raise
            return 0  # refused, with reason
        return int(row[0] or 0) if row else 0

    def stop(self) -> None:
        self._told.set()
        self.join()


@contextmanager
def hands(*them: Hands) -> Iterator[None]:
    for each in them:
        each.start()
    try:
        yield
    finally:
        for each in them:
            each.stop()
    for each in them:
        if each.failed is not None:
            raise each.failed


RETAIN = ["select removed from rowlock.retain(7)", "select removed from rowlock.keep_house(50)"]
DELETE = (
    "select count(*) from (select run_id, rowlock.delete(run_id) from rowlock.runs"
    "  where status = 'succeeded' and rowlock.why_kept(run_id) is null"
    "  order by random() limit 1) as x"
)
RETRY = (
    "select 1 from (select rowlock.retry(run_id) from rowlock.runs"
    "  where status = 'failed' order by random() limit 1) as x"
)


@pytest.mark.timeout(SECONDS + 240)
@pytest.mark.parametrize("keep_failed", [False, True])
def test_nothing_is_missed_by_anybody(
    database: str, monkeypatch: pytest.MonkeyPatch, keep_failed: bool
) -> None:
    with looking_into(database, monkeypatch) as sql:
        sql(AT_ONCE)
        with families.app.blocking_client(Settings(database_url=database)) as client:
            sql("select rowlock.set_retention('0', keep_keys => '1 second', app => 'families')")
            # A key that outlives its run gives a parent an id without a result.
            sql("select rowlock.set_retention('0', workflow => 'report', app => 'families')")
            if keep_failed:
                sql("select rowlock.set_retention(null, outcome => 'failed', app => 'families')")
            removers = [Hands(database, *RETAIN), Hands(database, *RETAIN, DELETE)]
            others = [Hands(database, RETRY), Hands(database, "select rowlock.expire_keys(10)")]
            with hands(*removers):
                _live(database, client, sql, others)
            print(f"retention: {sum(one.done for one in removers)} runs removed under fire")
            assert sum(one.done for one in removers) > FAMILIES
        assert checks.broken(database) == {}
        _exactly_once(sql, keep_failed)
        # and in the end everything leaves
        sql("select rowlock.set_retention('0', app => 'families')")
        sql("select rowlock.drop_retention(outcome => 'failed', app => 'families')")
        try:
            until(lambda: _all_left(sql))
        except AssertionError:
            left = "run_id, workflow, status, generation, parent_id, forked_from, key"
            raise AssertionError(
                sql(f"select {left}, rowlock.why_kept(run_id) from rowlock.runs limit 20")
            ) from None
        for table in ("step", "outcome", "generation", "message", "event", "arrival", "adoption"):
            assert sql.one(f"select count(*) from rowlock.{table}") == 0, table


def _live(database: str, client: BlockingClient, sql: Sql, others: list[Hands]) -> None:
    workers = [Worker(database, "workers.families:app", slots=20) for _ in range(3)]
    try:
        end, number = time.monotonic() + SECONDS, 0
        with hands(*others):
            while time.monotonic() < end or number < FAMILIES:
                calls = [families.family(f"r{number + n}", number + n) for n in range(8)]
                client.start_many(calls)
                number += len(calls)
                with suppress(RowlockError):
                    client.start(families.report("daily"), key=f"report {number % 7}")
                doomed = random.randrange(len(workers))
                workers[doomed].kill()
                workers[doomed] = Worker(database, "workers.families:app", slots=20)
                until(lambda: sql.one("select count(*) from rowlock.task") < 40)
        until(lambda: sql.one("select count(*) from rowlock.task") == 0, deadline_s=120)
    finally:
        for worker in workers:
            worker.__exit__(None)


def _exactly_once(sql: Sql, keep_failed: bool) -> None:
    """Nobody booked twice; and where nothing that fails is removed, nobody missed a line."""
    assert sql("select run, n from ledger group by 1, 2 having count(*) > 1") == []
    began = sql.one("select count(*) from ledger where n = 10")
    assert began == sql.one("select max(substr(run, 2)::int) + 1 from ledger where n = 10")
    if keep_failed:
        lost = (
            "select run from ledger as began where n = 10"
            " and not exists (select from ledger as l where l.run = began.run and l.n = 11)"
            " and not exists (select from rowlock.runs as r where r.status = 'failed'"
            "                  and r.workflow = 'family' and r.input ->> 'run' = began.run)"
        )
        assert sql(lost) == []


def _all_left(sql: Sql) -> bool:
    sql("select rowlock.retain()")
    return bool(sql.one("select count(*) from rowlock.run") == 0)
