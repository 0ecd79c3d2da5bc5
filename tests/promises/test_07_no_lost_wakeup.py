"""Promise 7: an outcome that arrives while its receiver is going to sleep wakes it."""

from __future__ import annotations

import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql

pytestmark = pytest.mark.promise(7)


def test_parents_that_fall_asleep_while_their_children_end_are_all_woken(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    runs = client.start_many([sample.parent(2) for _ in range(200)])
    with Worker(database, slots=15), Worker(database, slots=15), Worker(database, slots=15):
        assert [run.result(timeout=90) for run in runs] == [1] * 200
    assert sql.one("select count(*) from rowlock.wait") == 0
    assert sql.one("select count(*) from rowlock.wake") == 0


def test_a_parent_of_hundreds_is_woken_for_the_last_of_them(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.parent(400))
    with Worker(database), Worker(database):
        assert run.result(timeout=90) == sum(range(400))
    # Wake-ups were saved up: far fewer turns than children.
    assert sql.one("select epoch from rowlock.outcome where run_id = %s", run.id) < 100
