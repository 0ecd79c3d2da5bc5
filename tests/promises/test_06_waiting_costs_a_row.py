"""Promise 6: a run that waits holds no claim and no slot."""

from __future__ import annotations

import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(6)


def test_hundreds_of_sleepers_leave_two_slots_free_for_others(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    sleepers = client.start_many([sample.sleeper(6) for _ in range(300)])
    with Worker(database, slots=2):
        until(lambda: sql.one("select count(*) from rowlock.task where state = 'waiting'") == 300)
        assert sql.one("select count(*) from rowlock.task where worker_id is not null") == 0
        assert client.start(sample.echo(1)).result(timeout=30) == 1
        assert [run.result(timeout=60) for run in sleepers] == ["awake"] * 300


def test_a_parent_that_awaits_its_child_leaves_the_only_slot_to_it(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with Worker(database, slots=1):
        assert client.start(sample.parent(3)).result(timeout=60) == 3


def test_a_sleep_goes_on_across_workers_and_is_not_slept_again(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.sleeper(2))
    with Worker(database) as doomed:
        until(lambda: sql.one("select count(*) from rowlock.wait") == 1)
        due = sql.one("select due_at from rowlock.wait")
        until(lambda: run.status() == "waiting")
        doomed.kill()
    with Worker(database):
        until(lambda: run.status() == "succeeded")
    assert sql.one("select recorded_at >= %s from rowlock.step", due)
    assert sql.one("select recorded_at < %s::timestamptz + interval '1.9 s' from rowlock.step", due)
