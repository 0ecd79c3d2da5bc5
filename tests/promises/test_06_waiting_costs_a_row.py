"""Promise 6: a run that waits holds no claim and no slot."""

from __future__ import annotations

import time

import psycopg
import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(6)


def an_hour_passes(sql: Sql) -> None:
    """All timers fall due."""
    sql("update rowlock.wait set due_at = clock_timestamp()")
    sql("update rowlock.task set due_at = clock_timestamp() where state = 'waiting'")


def test_hundreds_of_sleepers_leave_two_slots_free_for_others(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    sleepers = client.start_many([sample.sleeper(3600) for _ in range(300)])
    with Worker(database, slots=2):
        until(lambda: sql.one("select count(*) from rowlock.task where state = 'waiting'") == 300)
        assert sql.one("select count(*) from rowlock.task where worker_id is not null") == 0
        assert client.start(sample.echo(1)).result(timeout=60) == 1
        an_hour_passes(sql)
        assert [run.result(timeout=60) for run in sleepers] == ["awake"] * 300


def test_a_worker_that_cant_write_stops_claiming_at_twice_its_slots(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    """Else it would load every run there is, and grow without end, while its journal is behind."""
    claimed = "select count(*) from rowlock.task where worker_id is not null"
    with psycopg.connect(database) as stranger:
        stranger.execute("lock table rowlock.wait in exclusive mode")  # no suspend gets through
        with Worker(database, slots=5):
            sleepers = client.start_many([sample.sleeper(2) for _ in range(60)])
            until(lambda: sql.one(claimed) == 10)
            for _ in range(20):
                time.sleep(0.05)
                assert sql.one(claimed) == 10
            stranger.rollback()
            assert [run.result(timeout=60) for run in sleepers] == ["awake"] * 60


def test_a_parent_that_awaits_its_child_leaves_the_only_slot_to_it(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with Worker(database, slots=1):
        assert client.start(sample.parent(3)).result(timeout=60) == 3


def test_a_sleep_goes_on_across_workers_and_is_not_slept_again(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.sleeper(3600))
    with Worker(database) as doomed:
        until(lambda: run.status() == "waiting")
        doomed.kill()
    an_hour_passes(sql)
    with Worker(database):
        assert run.result(timeout=60) == "awake"
