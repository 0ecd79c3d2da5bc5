"""Promise 2: a recorded step never executes again; a transaction's writes happen exactly once."""

from __future__ import annotations

from typing import Any

import pytest

from rowlock import BlockingClient
from rowlock.errors import RunFailed
from workers import sample, sample_sessions
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(2)


def test_killed_between_a_steps_effect_and_its_checkpoint_only_that_step_runs_again(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.killed_in_a_step("r"))
    with Worker(database) as doomed:
        assert doomed.wait() == -9
    with Worker(database):
        assert run.result(timeout=60) == ["a", "b", "c"]
    executed = dict(sql("select what, count(*) from trace group by what"))
    assert executed == {"a": 1, "b": 2, "c": 1}


@pytest.mark.parametrize(
    ("workflow", "module"),
    [
        (sample.killed_in_a_transaction, "workers.sample"),
        (sample_sessions.killed_in_a_session, "workers.sample_sessions"),
    ],
    ids=["psycopg", "SQLAlchemy"],
)
def test_killed_in_a_transaction_its_writes_happen_exactly_once(
    database: str, client: BlockingClient, sql: Sql, workflow: Any, module: str
) -> None:
    run = client.start(workflow("r"))
    with Worker(database, f"{module}:app") as doomed:
        assert doomed.wait() == -9
    assert sql("select n from ledger") == [(1,)]
    with Worker(database, f"{module}:app"):
        assert run.result(timeout=60) == 3
    assert sql("select n from ledger order by n") == [(1,), (2,), (3,)]


def test_killed_at_a_random_moment_no_recorded_step_executes_again(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    runs = client.start_many([sample.many_steps(f"r{n}", 12, 0.01) for n in range(20)])
    for wanted in (40, 120):
        with Worker(database, slots=20) as doomed:
            until(sql.at_least(wanted, "select count(*) from rowlock.step"))
            doomed.kill()
    with Worker(database, slots=20):
        assert [run.result(timeout=60) for run in runs] == [12] * 20
    # What stood recorded at a kill has no execution after that kill.
    again = sql(
        """select t.run, t.what
             from trace t
             join rowlock.run r on r.input ->> 'run' = t.run
             join rowlock.step s on s.run_id = r.id and s.output = to_jsonb(t.what)
            where t.at > s.recorded_at"""
    )
    assert again == []
    doubled = sql.one(
        "select count(*) from (select 1 from trace group by run, what having count(*) > 1) x"
    )
    assert doubled <= 2 * 20  # at most what was in flight at the two kills


def test_a_failed_step_is_recorded_with_its_error_and_raised_again(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(sample.failing("r"))
    with Worker(database), pytest.raises(RunFailed) as failed:
        run.result(timeout=60)
    assert failed.value.error_type == "ValueError"
    assert "no luck with r" in failed.value.error_message
    assert isinstance(failed.value.__cause__, ValueError)
    assert sql.one("select count(*) from trace where what = 'attempt'") == 3
    [step] = run.steps()
    assert (step.status, step.attempts) == ("failed", 3)
    assert "raise ValueError" in str(step.error)
