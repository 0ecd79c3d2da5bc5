"""Promise 3: a worker that was paused or cut off records nothing once another owns the run."""

from __future__ import annotations

import contextlib

import pytest

from rowlock import BlockingClient
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(3)


def test_a_worker_frozen_past_its_lease_records_nothing_when_it_wakes(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.many_steps("r", 40, 0.1))
    with Worker(database) as frozen:
        until(lambda: sql.one("select count(*) from rowlock.step") >= 3)
        frozen.freeze()
        with Worker(database) as fresh:
            until(lambda: sql.one("select count(distinct epoch) from rowlock.step") == 2)
            frozen.thaw()
            assert run.result(timeout=60) == 40
            by_pid = dict(sql("select pid, count(*) from trace group by pid"))
            assert by_pid[fresh.pid] >= 2
            until(lambda: "declared dead" in frozen.log or "no lease" in frozen.log)
    # One run of epochs: first all of the old owner's steps, then all of the new one's.
    epochs = [epoch for (epoch,) in sql("select epoch from rowlock.step order by position")]
    assert len(epochs) == 40
    assert epochs == sorted(epochs)


def test_a_sync_step_that_outlives_the_lease_is_not_recorded_by_its_worker(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.stubborn("r", 1.5))
    with Worker(database) as frozen:
        until(lambda: sql.one("select count(*) from trace where what = 'stubborn'") == 1)
        frozen.freeze()
        with Worker(database):
            until(lambda: sql.one("select count(*) from trace where what = 'stubborn'") == 2)
            frozen.thaw()
            assert run.result(timeout=60) == ["before", "stubborn", "after"]
    [(first,), (second,), (third,)] = sql("select epoch from rowlock.step order by position")
    assert first < second == third


def test_two_workers_racing_for_the_same_runs_never_share_one(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    runs = client.start_many([sample.many_steps(f"r{n}", 3) for n in range(200)])
    with contextlib.ExitStack() as workers:
        for _ in range(3):  # none of which loses its lease, however slow the machine is
            workers.enter_context(Worker(database, slots=30, lease_s=30))
        assert [run.result(timeout=90) for run in runs] == [3] * 200
    shared = sql("select run from trace group by run having count(distinct pid) > 1")
    assert shared == []
    assert sql.one("select count(*) from trace") == 600
