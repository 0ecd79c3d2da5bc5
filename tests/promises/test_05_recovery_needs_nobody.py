"""Promise 5: any live worker takes over a dead one's runs; no coordinator, no stable name."""

from __future__ import annotations

import pytest

from rowlock import BlockingClient
from rowlock.errors import RunFailed
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(5)


def test_a_live_worker_takes_over_what_a_killed_one_was_doing(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    runs = client.start_many([sample.many_steps(f"r{n}", 30, 0.05) for n in range(10)])
    # Leases that outlast a busy machine: who loses one begins anew, and takes its runs over itself.
    with Worker(database, lease_s=6.0) as doomed:
        until(lambda: sql.one("select count(*) from rowlock.step") >= 20)
        doomed.freeze()  # so that it is in the middle however long the other takes to start
        with Worker(database, lease_s=6.0) as survivor:
            until(lambda: sql.one("select max(id) from rowlock.worker") > 1)
            doomed.kill()
            assert [run.result(timeout=60) for run in runs] == [30] * 10
            assert "took over" in survivor.log
            until(lambda: sql.one("select count(*) from rowlock.worker") == 1)


def test_a_run_that_kills_every_worker_is_given_up_with_the_reason(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.suicidal())
    settings = {"ROWLOCK_MAX_TAKEOVERS": "2"}
    for _ in range(2):
        with Worker(database, lease_s=3.0, environment=settings) as doomed:
            assert doomed.wait() == -9
    with Worker(database, lease_s=3.0, environment=settings) as worker:
        with pytest.raises(RunFailed) as dead:
            run.result(timeout=60)
        assert worker.is_alive
    assert dead.value.status == "dead"
    assert "taken over 2 times" in dead.value.error_message


def test_a_worker_that_drains_hands_its_runs_back_and_leaves_no_trace(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.many_steps("r", 100, 0.1))
    with Worker(database, grace_s=0.3) as leaving:
        until(lambda: sql.one("select count(*) from rowlock.step") >= 2)
        leaving.terminate()
        assert leaving.wait() == 0
    assert run.status() == "ready"
    assert sql.one("select count(*) from rowlock.worker") == 0
    assert sql.one("select takeovers from rowlock.task") == 0
