"""Promise 14: a caller's open transaction holds up at most the one run or key that it touches."""

from __future__ import annotations

import psycopg
import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(14)


def test_a_start_left_open_holds_up_only_its_own_key(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with Worker(database) as doomed, psycopg.connect(database) as stranger:
        client.start(sample.echo(1), key="held", connection=stranger)
        # Others start, run, sleep, end, and are taken over.
        assert client.start(sample.parent(5), key="free").result(timeout=60) == 10
        slow = client.start(sample.many_steps("r", 30, 0.05))
        until(lambda: sql.one("select count(*) from rowlock.step") >= 3)
        with Worker(database):
            doomed.kill()
            assert slow.result(timeout=60) == 30
            sql("set lock_timeout = '300 ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                sql("select rowlock.start('echo', '{}', key => 'held', app => 'sample')")
            stranger.commit()
            again = client.start(sample.echo(1), key="held")
            assert again.result(timeout=60) == 1
    assert sql.one("select count(*) from rowlock.run where key = 'held'") == 1


def test_a_lock_on_one_runs_row_holds_up_nobody(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    held = client.start(sample.many_steps("held", 10, 0.02))
    with psycopg.connect(database) as stranger:
        stranger.execute("select from rowlock.run where id = %s for no key update", [held.id])
        with Worker(database) as doomed:
            others = client.start_many([sample.mixed(f"r{n}", n) for n in range(20)])
            until(lambda: sql.one("select count(*) from rowlock.outcome") >= 5)
            doomed.kill()
        with Worker(database):
            assert len([run.result(timeout=90) for run in others]) == 20
            # Nothing that is built yet delivers to this run, so not even it has to wait.
            assert held.result(timeout=60) == 10


def test_a_lock_on_one_ready_task_holds_up_only_that_run(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    held = client.start(sample.echo(1))
    with psycopg.connect(database) as stranger:
        stranger.execute("select from rowlock.task where run_id = %s for update", [held.id])
        with Worker(database):
            others = client.start_many([sample.parent(2) for n in range(20)])
            assert [run.result(timeout=60) for run in others] == [1] * 20
            assert held.status() == "ready"
            stranger.rollback()
            assert held.result(timeout=60) == 1


def test_a_parent_whose_childs_task_is_held_sleeps_all_the_same_and_is_woken(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.parent(2))
    with psycopg.connect(database) as stranger, Worker(database, slots=1):
        until(lambda: sql.one("select count(*) from rowlock.run") == 3)
        child = sql.one("select id from rowlock.run where parent_id is not null limit 1")
        stranger.execute("select from rowlock.task where run_id = %s for update", [child])
        other = client.start(sample.echo(5))
        assert other.result(timeout=60) == 5  # the only slot is free
        stranger.rollback()
        assert run.result(timeout=60) == 1


REGISTER = "select rowlock.register_worker('sample', '', 'host', 1, 40, null, '1 hour')"
CLAIM = "select run_id from rowlock.claim_next(%s, 'sample', '', null, null, 40, false)"


def test_large_claims_that_are_left_open_hold_up_only_the_runs_they_took(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    """Two frozen workers keep both turns of a queue (functions/claim.sql) while we look."""
    runs = {run.id: run for run in client.start_many([sample.echo(n) for n in range(200)])}
    with psycopg.connect(database) as one, psycopg.connect(database) as other:
        for frozen in (one, other):
            taken = frozen.execute(CLAIM, [sql.one(REGISTER)]).fetchall()
            assert len(taken) == 40
            for (run_id,) in taken:
                del runs[run_id]
        with Worker(database, slots=100):
            assert {run.result(timeout=60) for run in runs.values()} <= set(range(200))
            assert sql.one("select count(*) from rowlock.outcome") == 120
