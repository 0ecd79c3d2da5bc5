"""Promise 1: what start returned, or the caller's own transaction committed, gets its outcome."""

from __future__ import annotations

import psycopg
import pytest

from rowlock import BlockingClient
from rowlock.errors import UnknownRun
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(1)


def test_a_run_started_while_no_worker_lives_is_done_by_the_first_that_comes(
    database: str, client: BlockingClient
) -> None:
    run = client.start(sample.echo(7))
    assert run.status() == "ready"
    with Worker(database):
        assert run.result(timeout=60) == 7


def test_a_run_started_in_the_callers_transaction_commits_with_it(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with psycopg.connect(database) as mine:
        mine.execute("insert into ledger values ('mine', 1)")
        run = client.start(sample.echo(1), connection=mine)
        with pytest.raises(UnknownRun):
            run.info()
        mine.commit()
    assert run.status() == "ready"
    with Worker(database):
        assert run.result(timeout=60) == 1


def test_a_run_started_in_the_callers_transaction_vanishes_with_it(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    with psycopg.connect(database) as mine:
        client.start(sample.echo(1), key="k", connection=mine)
        mine.rollback()
    assert sql.one("select count(*) from rowlock.run") == 0
    assert sql.one("select count(*) from rowlock.run_key") == 0


def test_a_worker_killed_between_claim_and_first_step_loses_nothing(
    database: str, client: BlockingClient
) -> None:
    run = client.start(sample.killed_before_its_first_step("r"))
    with Worker(database) as doomed:
        assert doomed.wait() == -9
    with Worker(database):
        assert run.result(timeout=60) == "a"


def test_every_run_of_a_burst_ends_although_every_worker_is_killed_in_turn(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    runs = client.start_many([sample.steps(5) for _ in range(150)])
    for wanted in (20, 60, 100):
        with Worker(database, slots=10) as doomed:
            until(sql.at_least(wanted, "select count(*) from rowlock.outcome"))
            doomed.kill()
    with Worker(database, slots=10):
        assert [run.result(timeout=60) for run in runs] == [10] * 150
