"""Promise 11: versions run side by side; a history that does not fit the code blocks the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rowlock import BlockingClient, Settings
from workers import version_one
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(11)

ONE = "workers.version_one:app"
TWO = "workers.version_two:app"


@pytest.fixture
def client(database: str, sql: Sql) -> Iterator[BlockingClient]:
    with version_one.app.blocking_client(Settings(database_url=database)) as opened:
        yield opened


def test_changed_code_blocks_the_run_with_expected_and_found_and_old_code_resumes_it(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run = client.start(version_one.order("r"))
    with Worker(database, ONE) as old:
        until(lambda: run.status() == "waiting")
        old.kill()
    run.send("go", True)
    with Worker(database, TWO):
        until(lambda: run.status() == "blocked")
        reason = run.info().reason
        assert reason is not None
        assert (reason["kind"], reason["place"]) == ("nondeterminism", "2")
        assert (reason["expected"], reason["found"]) == ("step slow_note", "uuid")
    run.resume()
    with Worker(database, ONE):
        assert run.result(timeout=60) == "ship"
    executed = dict(sql("select what, count(*) from trace group by what"))
    assert executed == {"reserve": 1, "charge": 1, "ship": 1}


def test_a_pinned_run_waits_for_its_version_and_new_runs_go_to_the_promoted_one(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    pinned = client.start(version_one.order("r1"))
    with Worker(database, ONE, version="v1") as old:
        until(lambda: pinned.status() == "waiting")
        assert pinned.info().version == "v1"
        with Worker(database, TWO, version="v2"):
            until(lambda: sql.one("select count(*) from rowlock.version") == 2)
            # The newest that registered is current until someone promotes another.
            client.promote("v1")
            kept = client.start(version_one.order("r2"))
            until(lambda: kept.info().version == "v1" and kept.status() == "waiting")
            client.promote("v2")
            moved = client.start(version_one.order("r3"))
            until(lambda: moved.info().version == "v2")
            old.kill()
            for run in (pinned, kept, moved):
                run.send("go", True)
            assert moved.result(timeout=60) == "ship"
            # Nobody of v1 lives: its runs are due, and wait; v2 does not touch them.
            assert pinned.status() == kept.status() == "ready"
            with Worker(database, ONE, version="v1"):
                assert pinned.result(timeout=60) == kept.result(timeout=60) == "ship"
    assert set(sql("select version, status from rowlock.outcome")) == {
        ("v1", "succeeded"),
        ("v2", "succeeded"),
    }


def test_a_workflow_that_no_worker_knows_is_done_when_one_comes_that_does(
    database: str, client: BlockingClient, sql: Sql
) -> None:
    run_id = sql.one("select rowlock.start('only_in_two', app => 'changing')")
    run = client.run(run_id)
    with Worker(database, ONE):
        until(lambda: run.status() == "blocked")
        reason = run.info().reason
        assert reason is not None
        assert reason["kind"] == "unknown_workflow"
    with Worker(database, TWO):
        assert run.result(timeout=60) == "two"
