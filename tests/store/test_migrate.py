"""Bringing a database to the schema this code needs, on every PostgreSQL there is to test with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import postgres
from rowlock.embedded import Server
from rowlock.errors import ConfigurationError, RowlockError, SchemaTooNew, SchemaTooOld
from rowlock.store import migrate as migrations
from rowlock.store.connection import Disconnected
from rowlock.store.entries import Entry
from rowlock.store.migrate import LEVEL, Change, check, migrate, plan
from rowlock.store.statements import (
    ARCHIVED_ROWS,
    CHOOSE_RUNS,
    FLEET,
    HISTORY,
    OUTCOMES,
    REMOVE_CHOSEN,
)
from store.races.sessions import (
    Connections,
    World,
    child,
    finish,
    release,
    step,
    suspend,
    timer,
)

OLDEST = Path(os.environ.get("ROWLOCK_TEST_POSTGRES_15", "/usr/lib/postgresql/15/bin"))


def everything() -> tuple[str, ...]:
    """What an empty database is missing."""
    return (*map(str, migrations.steps()), "functions")


def schema_of(url: str) -> list[tuple[object, ...]]:
    """A picture of everything in our schema, to see whether it changed."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select 'table', c.relname, c.xmin::text from pg_class as c"
            " where c.relnamespace = to_regnamespace('rowlock')"
            " union all select 'function', p.oid::regprocedure::text, p.xmin::text"
            "  from pg_proc as p where p.pronamespace = to_regnamespace('rowlock')"
            " order by 1, 2"
        ).fetchall()


def execute(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.encode())


def test_an_empty_database_gets_everything_and_then_nothing(empty_database: str) -> None:
    report = migrate(empty_database)
    assert (report.applied, report.level) == (everything(), LEVEL)
    before = schema_of(empty_database)
    report = migrate(empty_database)
    assert (report.applied, report.level) == ((), LEVEL)
    assert schema_of(empty_database) == before


def test_a_plan_says_what_would_come_and_changes_nothing(empty_database: str) -> None:
    report = plan(empty_database)
    assert (report.applied, report.level) == (everything(), 0)
    assert schema_of(empty_database) == []
    migrate(empty_database)
    assert plan(empty_database).applied == ()


def test_a_database_that_is_not_utf8_is_refused_before_anything_is_written(
    empty_database: str,
) -> None:
    url = f"{empty_database.rpartition('/')[0]}/not_utf8"
    with psycopg.connect(empty_database, autocommit=True) as admin:
        admin.execute("create database not_utf8 encoding 'SQL_ASCII' locale 'C' template template0")
        try:
            for attempt in (migrate, plan, check):
                with pytest.raises(ConfigurationError, match=r"SQL_ASCII; .* needs UTF8"):
                    attempt(url)
            with psycopg.connect(url) as look:
                assert look.execute("select to_regnamespace('rowlock')").fetchone() == (None,)
        finally:
            admin.execute("drop database not_utf8 with (force)")


def test_code_refuses_a_database_that_was_not_migrated(empty_database: str) -> None:
    with pytest.raises(SchemaTooOld):
        check(empty_database)
    migrate(empty_database)
    assert check(empty_database) == LEVEL


def test_eight_at_once_apply_each_change_once(empty_database: str) -> None:
    with ThreadPoolExecutor(8) as threads:
        reports = list(threads.map(migrate, [empty_database] * 8))
    assert sorted(name for report in reports for name in report.applied) == sorted(everything())
    assert {report.level for report in reports} == {LEVEL}


def test_a_database_that_demands_newer_code_is_left_alone(database: str) -> None:
    execute(
        database,
        "insert into rowlock.migration (number, minimum_level, name, checksum)"
        f" values ({LEVEL + 1}, {LEVEL + 1}, 'contract', '');"
        " update rowlock.repeatable set checksum = 'newer'",
    )
    before = schema_of(database)
    for refuses in (migrate, plan, check):
        with pytest.raises(SchemaTooNew):
            refuses(database)
    assert schema_of(database) == before


def test_older_code_works_on_and_does_not_bring_old_functions_back(database: str) -> None:
    """An image was rolled back; the step it does not know is one it can live with."""
    execute(
        database,
        "insert into rowlock.migration (number, minimum_level, name, checksum)"
        f" values ({LEVEL + 1}, {LEVEL}, 'expand', '');"
        " update rowlock.repeatable set checksum = 'newer'",
    )
    before = schema_of(database)
    report = migrate(database)
    assert (report.applied, report.level) == ((), LEVEL + 1)
    assert plan(database).applied == ()
    assert check(database) == LEVEL + 1
    assert schema_of(database) == before


def test_functions_come_again_when_their_text_changed(database: str) -> None:
    execute(database, "update rowlock.repeatable set checksum = 'older'")
    assert migrate(database).applied == ("functions",)
    assert migrate(database).applied == ()


def test_a_step_that_fails_leaves_nothing_of_itself(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations.steps()
    broken = Change(LEVEL + 1, "broken", "create table rowlock.half (); select 1 / 0")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "steps", lambda: [*known, broken])
        patch.setattr(migrations, "LEVEL", LEVEL + 1)
        with pytest.raises(RowlockError, match="division by zero"):
            migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        [half] = connection.execute("select to_regclass('rowlock.half')").fetchone() or [None]
    assert half is None
    assert migrate(empty_database).level == LEVEL


A_CLAIM = (
    "select from rowlock.task",
    "select from rowlock.queue_gate for update skip locked",
    "select from rowlock.task for no key update skip locked",
    "update rowlock.queue_gate set cursor = ''",
    "update rowlock.task set epoch = epoch + 1",
)
UNLIMITED = tuple(statement for statement in A_CLAIM if "queue_gate" not in statement)


@pytest.mark.parametrize(
    ("claim", "done"),
    [(claim, done) for claim in (A_CLAIM, UNLIMITED) for done in range(1, len(claim))],
)
def test_the_newest_step_and_a_claim_under_way_do_not_wait_for_each_other(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, claim: tuple[str, ...], done: int
) -> None:
    """It comes when so many statements of the claim are done."""
    known = migrations.steps()
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "steps", lambda: known[:-1])
        patch.setattr(migrations, "LEVEL", LEVEL - 1)
        migrate(empty_database)
    waits = "select count(*) from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
    with (
        ThreadPoolExecutor(1) as thread,
        psycopg.connect(empty_database) as worker,
        psycopg.connect(empty_database, autocommit=True) as watch,
    ):
        for statement in claim[:done]:
            worker.execute(statement.encode())
        migration = thread.submit(migrate, empty_database)
        while watch.execute(waits, [worker.info.backend_pid]).fetchone() == (0,):
            assert not migration.done(), migration.result()
            time.sleep(0.01)
        for statement in claim[done:]:
            worker.execute(statement.encode())
        worker.commit()
        assert migration.result().level == LEVEL


def test_a_database_that_cannot_be_reached_is_told_from_one_that_is_too_old() -> None:
    with pytest.raises(Disconnected):
        check("postgresql://nobody@127.0.0.1:1/nowhere")


# --- the oldest PostgreSQL we support


@pytest.fixture(scope="module")
def oldest_server() -> Iterator[Server]:
    if not (OLDEST / "postgres").exists():
        pytest.skip(f"no PostgreSQL 15 in {OLDEST}; ROWLOCK_TEST_POSTGRES_15 names its bin folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROWLOCK_TEST_POSTGRES_BIN", str(OLDEST))
        with postgres.running_server() as server:
            yield server


@pytest.fixture(params=["server", "oldest_server"])
def any_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A freshly migrated database on this server and on the oldest one."""
    server: Server = request.getfixturevalue(request.param)
    with postgres.new_database(server) as url:
        assert migrate(url).applied == everything()
        assert migrate(url).applied == ()
        connections = Connections(url)
        world = World(connections)
        yield world
        world.close()
        connections.close()


def test_every_function_runs(any_world: World) -> None:
    """plpgsql is only compiled when it runs; this passes every function, and most branches."""
    world = any_world
    admin = world.anybody
    worker, other = world.worker(), world.worker("other")
    keyed = admin.start(key="order-7")
    assert admin.start(key="order-7") == keyed
    assert len(admin.start_many({"workflow": "fulfil", "delay": "1 hour"}, {"workflow": "x"})) == 2
    parent, leaf, third = world.claimed_by(worker, 3)
    [a, b] = world.claimed_by(other, 2)
    assert worker.heartbeat() is not None

    starts, now = child(parent, "1"), step(parent, "2", kind="now")
    verdicts = worker.journal(starts, now)
    assert (verdicts.of(starts), verdicts.of(now)) == ("written", "written")
    assert worker.journal(starts, retrying=True).of(starts) == "recorded"
    sleeps: list[Entry] = [
        timer(leaf, "3"),
        suspend(leaf, timers=("3",)),
        suspend(parent, a.run_id),
    ]
    assert worker.write(*sleeps) == ["written"] * 3
    assert other.write(finish(a), release(b, "unknown_workflow")) == ["written"] * 2
    assert world.state(parent.run_id) == "ready"
    world.make_due(leaf.run_id)
    assert admin.tend().promoted == 1
    admin.run("insert into rowlock.wake (run_id) values (%s)", parent.run_id)
    admin.tend()
    admin.record_transaction(third, "1")
    assert admin.record_failed_transaction(third, "2")[0].error is not None
    admin.run("select rowlock.resume(%s)", b.run_id)
    admin.run("select rowlock.drain(%s)", worker.worker_id)
    read = admin.call(HISTORY, runs=[third.run_id, parent.run_id], generations=[1, 1])
    assert {row.place for row in read} == {"1", "2", "101"}
    assert [row.run_id for row in admin.call(OUTCOMES, runs=[a.run_id, parent.run_id])] == [
        a.run_id
    ]

    world.claimed_by(other)
    world.expire(other)
    assert admin.tend(max_takeovers=1).taken_over >= 1
    assert worker.leave() >= 1
    leaves(world)
    for view in ("runs", "steps", "workers"):
        admin.run(f"select * from rowlock.{view}")
    [fleet] = admin.call(FLEET, app=None)
    assert fleet.schema_level == LEVEL


def leaves(world: World) -> None:
    """Everything of retention, once."""
    admin, worker = world.anybody, world.worker("remover")
    first, *_ = fresh = [admin.start(key=f"leaves {n}") for n in range(3)]
    claimed = worker.claim()
    assert {one.run_id for one in claimed} >= set(fresh)
    worker.journal(*[step(one, "77") for one in claimed], *[finish(one) for one in claimed])
    admin.run("update rowlock.outcome set finished_at = finished_at - interval '1 day'")
    admin.run("set rowlock.test_offset = '1 day'")
    admin.run(
        "select rowlock.set_retention('1 hour', 'fulfil', keep_keys => '1 year', app => 'shop')"
    )
    plan = "select sum(runs) from rowlock.retain_plan('shop')"
    assert admin.ask(plan) >= 3
    admin.run("select rowlock.delete(%s)", first)
    with admin.connection.transaction():
        [chosen] = admin.call(
            CHOOSE_RUNS, limit=1, app=None, archived=True, lane=None, after_id=None
        )
        assert admin.call(ARCHIVED_ROWS, runs=chosen.runs)
        admin.call(REMOVE_CHOSEN, runs=chosen.runs)
    assert admin.ask("select removed from rowlock.keep_house(1000)") >= 1
    assert admin.run("select removed, done from rowlock.retain()") == [(0, True)]
    assert not admin.ask(plan)
    assert admin.ask("select rowlock.drop_retention('fulfil', app => 'shop')") is True
    admin.run("reset rowlock.test_offset")
