"""FleetReader: what the operator and the exporter are told of the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from rowlock.errors import Disconnected, Refused, SchemaTooNew, SchemaTooOld
from rowlock.fleet import FleetReader, FleetState, QueueState
from rowlock.settings import Settings
from rowlock.store.migrate import LEVEL
from store.races.sessions import APP, Connections, World, finish, suspend, timer

HOUR_S = 3600.0
MANY, FEW = 30_000, 10


@pytest.fixture
def world(database: str) -> Iterator[World]:
    connections = Connections(database)
    world = World(connections)
    yield world
    world.close()
    connections.close()


@pytest.fixture
async def fleet(database: str) -> AsyncIterator[FleetReader]:
    async with FleetReader(database) as reader:
        yield reader


def kinds(state: FleetState) -> dict[tuple[str, str, str], QueueState]:
    return {(one.queue, one.version, one.state): one for one in state.queues}


def version(world: World, name: str) -> None:
    world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, name)


async def test_a_database_without_work_has_idle_queues_only(
    world: World, fleet: FleetReader
) -> None:
    state = await fleet.read()
    assert state.schema_level == LEVEL
    assert (state.queues, state.workers, state.versions) == ((), (), ())
    assert [(r.app, r.queue, r.arrivals_per_second, r.mean_run_seconds) for r in state.rates] == [
        (APP, "default", 0.0, None),
        (APP, "other", 0.0, None),
    ]


async def test_limits_are_those_that_are_set(world: World, fleet: FleetReader) -> None:
    assert (await fleet.read()).limits == ()
    world.anybody.run(
        "select rowlock.set_limit('default', concurrency => 5, worker_concurrency => 2,"
        " rate => '30/min', partitions => true, partition_concurrency => 1,"
        " partition_rate => '5/2s burst 9', app => %s)",
        APP,
    )
    world.anybody.run("select rowlock.set_limit('other', weight => 2, app => %s)", APP)
    found = (await fleet.read(APP)).limits
    assert {(one.app, one.queue) for one in found} == {(APP, "default")}
    assert {one.kind: one.value for one in found} == {
        "concurrency": 5,
        "worker_concurrency": 2,
        "rate_per_second": 0.5,
        "partition_concurrency": 1,
        "partition_rate_per_second": 2.5,
    }
    assert (await fleet.read("another")).limits == ()


async def test_unfinished_runs_are_counted_by_queue_version_and_state(
    world: World, fleet: FleetReader
) -> None:
    worker = world.worker()
    [sleeper, parent, pinned, _running] = world.claimed_by(worker, 4)
    [ended] = world.claimed_by(worker)
    world.anybody.start_many({"workflow": "fulfil", "delay": "2 hours"})
    [ready, *_] = world.anybody.start_many({"workflow": "x"}, {"workflow": "x", "queue": "other"})
    worker.write(timer(sleeper, "1"), suspend(sleeper, timers=("1",)))
    worker.write(suspend(parent, pinned.run_id), finish(ended))
    world.anybody.run("update rowlock.task set version = 'v1' where run_id = %s", pinned.run_id)
    world.anybody.run(
        "update rowlock.task set due_at = due_at - interval '1 hour' where run_id = %s", ready
    )

    found = kinds(await fleet.read(APP))
    assert {key: one.tasks for key, one in found.items()} == {
        ("default", "", "ready"): 1,
        ("default", "", "running"): 1,
        ("default", "", "scheduled"): 1,
        ("default", "", "waiting"): 2,
        ("default", "v1", "running"): 1,
        ("other", "", "ready"): 1,
    }
    late = found["default", "", "ready"].oldest_due_seconds
    assert late is not None
    assert HOUR_S <= late < 2 * HOUR_S
    # The run that waits for another alone is due at no time.
    waiting = found["default", "", "waiting"].next_due_seconds
    assert waiting is not None
    assert 0 < waiting <= HOUR_S
    scheduled = found["default", "", "scheduled"].next_due_seconds
    assert scheduled is not None
    assert HOUR_S < scheduled <= 2 * HOUR_S
    assert found["default", "", "running"].oldest_due_seconds is None
    assert (await fleet.read("another")).queues == ()


async def test_who_waits_for_runs_alone_falls_due_at_no_time(
    world: World, fleet: FleetReader
) -> None:
    worker = world.worker()
    [parent, child] = world.claimed_by(worker, 2)
    worker.write(suspend(parent, child.run_id))
    assert kinds(await fleet.read())["default", "", "waiting"].next_due_seconds is None


async def test_what_is_overdue_while_nobody_promotes_it_shows(
    world: World, fleet: FleetReader
) -> None:
    [run] = world.anybody.start_many({"workflow": "fulfil", "delay": "2 hours"})
    world.make_due(run)
    overdue = kinds(await fleet.read())["default", "", "scheduled"].next_due_seconds
    assert overdue is not None
    assert overdue < 0


async def test_start_times_beyond_all_time_break_nothing(world: World, fleet: FleetReader) -> None:
    # They were accepted once, and may be there still.
    world.anybody.start_many({"workflow": "fulfil"}, {"workflow": "fulfil", "delay": "1 hour"})
    world.anybody.run(
        "update rowlock.task set due_at = case state when 'ready' then '-infinity' else 'infinity'"
        " end::timestamptz"
    )
    found = kinds(await fleet.read())
    assert found["default", "", "ready"].oldest_due_seconds == 0
    assert found["default", "", "scheduled"].next_due_seconds is None


async def test_workers_tell_what_they_run_and_whether_they_live(
    world: World, fleet: FleetReader
) -> None:
    busy, draining, dead = (world.worker(name) for name in ("busy", "draining", "dead"))
    world.claimed_by(busy, 3)
    world.anybody.run("select rowlock.drain(%s)", draining.worker_id)
    world.anybody.run(
        "update rowlock.worker set queues = array['other'] where id = %s", dead.worker_id
    )
    world.expire(dead)
    found = [
        (one.worker_id, one.running, one.queues, one.draining, one.alive)
        for one in (await fleet.read()).workers
    ]
    assert found == [
        (busy.worker_id, 3, None, False, True),
        (draining.worker_id, 0, None, True, True),
        (dead.worker_id, 0, ("other",), False, False),
    ]


async def test_promote_makes_a_version_the_current_one(world: World, fleet: FleetReader) -> None:
    version(world, "v1")
    version(world, "v2")
    world.anybody.start_many({"workflow": "fulfil"}, {"workflow": "fulfil"})
    world.anybody.run("update rowlock.task set version = 'v1'")
    before = (await fleet.read(APP)).versions
    assert [(v.name, v.is_current, v.unfinished) for v in before] == [
        ("v1", False, 2),
        ("v2", True, 0),
    ]
    await fleet.promote(APP, "v1")
    after = (await fleet.read(APP)).versions
    assert [(v.name, v.is_current, v.promoted_at is None) for v in after] == [
        ("v1", True, False),
        ("v2", False, True),
    ]
    with pytest.raises(Refused, match="no version v3"):
        await fleet.promote(APP, "v3")


async def test_rates_are_of_the_last_minute_and_of_runs_that_never_waited(
    world: World, fleet: FleetReader
) -> None:
    worker = world.worker()
    [straight, slept] = world.claimed_by(worker, 2)
    world.anybody.run(
        "update rowlock.task set started_at = clock_timestamp() - interval '1 hour'"
        " where run_id = %s",
        slept.run_id,
    )
    worker.write(suspend(slept, straight.run_id))
    world.anybody.run(
        "update rowlock.task set started_at = clock_timestamp() - interval '20 seconds'"
        " where run_id = %s",
        straight.run_id,
    )
    worker.write(finish(straight, waited=True))
    [again] = worker.claim()
    worker.write(finish(again))
    world.anybody.start_many(*[{"workflow": "fulfil"}] * 10)
    # An old run, by its id.
    world.anybody.run(
        "insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)"
        " values (%s, 'yesterday', 50, %s, 'x', 'default', '{}')",
        "01900000-0000-7000-8000-000000000000",
        APP,
    )
    default, other = (await fleet.read()).rates
    assert default.arrivals_per_second == pytest.approx(12 / 60)
    assert default.mean_run_seconds is not None
    assert 20 <= default.mean_run_seconds < HOUR_S / 2
    assert (other.arrivals_per_second, other.mean_run_seconds) == (0.0, None)


async def test_rates_read_no_more_of_a_long_history(world: World, fleet: FleetReader) -> None:
    """Also when no run has failed: the search for failed ones must not walk past all others."""
    admin = world.anybody
    admin.run(
        "insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)"
        " select rowlock.uuidv7(), clock_timestamp(), 50, %s, 'x', 'default', '{}'"
        "  from generate_series(1, %s)",
        APP,
        MANY,
    )
    admin.run(
        "insert into rowlock.outcome (run_id, started_at, finished_at, generation, epoch, app,"
        "  workflow, queue, version, status)"
        " select id, created_at, created_at + interval '2 s', 1, 1, app, workflow, queue, '',"
        "        'succeeded' from rowlock.run"
    )
    admin.run("analyze")
    fresh = world.session().begin()  # the other's own scans are still among its figures
    fresh.run("select * from rowlock.fleet_rates()")
    read = fresh.run(
        "select relname, seq_scan, idx_tup_fetch from pg_stat_xact_user_tables"
        " where schemaname = 'rowlock' and relname in ('run', 'outcome') order by relname"
    )
    fresh.commit()
    fetched = {name: rows for name, scans, rows in read if scans == 0}
    # A thousand are found in two looks, then read. The planner itself looks at an index's ends.
    assert fetched["outcome"] <= 3 * 1_000 + FEW
    assert fetched["run"] <= 10_000 + FEW
    [rate, _] = (await fleet.read()).rates
    assert rate.mean_run_seconds == pytest.approx(2)
    assert rate.arrivals_per_second >= MANY / 3 / 60


async def test_a_database_that_is_gone_and_one_that_comes_back(world: World, database: str) -> None:
    admin = world.anybody
    async with FleetReader(Settings(database_url=database)) as fleet:
        await fleet.read()
        admin.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'rowlock fleet' and datname = current_database()"
        )
        with pytest.raises(Disconnected):
            await fleet.read()
        assert (await fleet.read()).schema_level == LEVEL


async def test_a_count_that_takes_too_long_is_cut_off(world: World, database: str) -> None:
    """The timeout is the server's: it also ends the work there."""
    settings = Settings(database_url=database, lease_seconds=3)
    blocker = world.session().begin()
    blocker.run("lock table rowlock.task in access exclusive mode")
    async with FleetReader(settings) as fleet:
        with pytest.raises(Disconnected, match="timeout"):
            await fleet.read()
        blocker.rollback()
        assert (await fleet.read()).schema_level == LEVEL


async def test_readers_who_ask_at_once_are_all_answered(world: World, fleet: FleetReader) -> None:
    states = await asyncio.gather(*(fleet.read() for _ in range(5)))
    assert {state.schema_level for state in states} == {LEVEL}


async def test_a_database_without_schema_is_named_as_that(empty_database: str) -> None:
    async with FleetReader(empty_database) as fleet:
        with pytest.raises(SchemaTooOld, match="rowlock migrate"):
            await fleet.read()


async def test_a_database_without_these_functions_is_too_old(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("drop function rowlock.fleet_rates(text)")
    async with FleetReader(database) as fleet:
        with pytest.raises(SchemaTooOld, match="rowlock migrate"):
            await fleet.read()


async def test_a_database_that_demands_newer_code_is_refused(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into rowlock.migration (number, minimum_level, name, checksum)"
            " values (%s, %s, 'contract', '')",
            [LEVEL + 1, LEVEL + 1],
        )
    async with FleetReader(database) as fleet:
        with pytest.raises(SchemaTooNew):
            await fleet.read()
