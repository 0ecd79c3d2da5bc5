"""Nothing is left of a run that was removed: there are no foreign keys that would see to it.

Every table is found in the catalog. One that comes later fails here until it is decided whether it
holds something of runs; then the run below must have a row in it, and none when it is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest
from psycopg.sql import SQL, Identifier

from rowlock.store.statements import START_CHILD
from store.races.sessions import (
    APP,
    Connections,
    World,
    child,
    children,
    emit,
    finish,
    go_on,
    receive,
    set_event,
    step,
)

OF_NO_RUN = {
    "app_member",
    "declaration",
    "drain_request",
    "listener",
    "migration",
    "pause",
    "queue",
    "queue_gate",
    "rate_use",  # numbers, of whichever runs began
    "repeatable",
    "retention",
    "retention_walk",  # a position, of whichever run stood there
    "schedule",  # its last tick's run, of which it knows no more than the id
    "schedule_backfill",
    "schedule_run",  # until its schedule ticks again
    "version",
    "worker",
    "workflow",
}
OF_THE_UNFINISHED = {"task", "wait", "wake"}
"""Gone when a run ends, see tests/workers/checks.py; wakes when a sweep has been there."""
STAYS = {"audit_entry"}
"""Who did what, also to what is gone."""


@pytest.fixture
def world(database: str) -> Iterator[World]:
    connections = Connections(database)
    world = World(connections)
    yield world
    world.close()
    connections.close()


def tables(world: World) -> set[str]:
    return {
        name
        for [name] in world.anybody.run(
            "select relname from pg_class"
            " where relnamespace = 'rowlock'::regnamespace and relkind in ('r', 'p')"
        )
    }


def naming(world: World, run: UUID) -> set[str]:
    """Tables with a row in which the run's id stands, wherever."""
    found = set()
    for name in tables(world):
        query = SQL("select 1 from rowlock.{} as x where to_jsonb(x)::text like %s limit 1")
        if world.anybody.connection.execute(
            query.format(Identifier(name)), [f"%{run}%"]
        ).fetchone():
            found.add(name)
    return found


def rich(world: World) -> UUID:
    """An ended run with something in every table that may hold something of an ended one."""
    worker, admin = world.worker(), world.anybody
    [other] = world.claimed_by(worker)
    run_id = admin.start(key="order-7")
    run = worker.claim_run(run_id)
    admin.send(run_id, "one", key="one")
    worker.journal(step(run, "1"), receive(run, "2"), set_event(run, "3"), emit(run, "4"))
    worker.journal(child(run, "5"), children(run, "6", 2))
    worker.journal(*[finish(one) for one in worker.claim()])
    admin.call(
        START_CHILD,
        app=APP,
        workflow="fulfil",
        input="{}",
        key="order-7",
        queue=None,
        priority=None,
        attributes=None,
        trace_context=None,
        detached=None,
        deadline=None,
        partition=None,
        parent=other.run_id,
        generation=1,
        place="1",
    )
    worker.journal(finish(other), go_on(run))
    [again] = worker.claim()
    worker.journal(finish(again, "failed"))
    admin.run(
        "insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force)"
        " values (%s, now(), 1, 30, false)",
        run_id,
    )
    # No start gives a key and a dedup key to one run.
    admin.run("update rowlock.run set dedup = 'k' where id = %s", run_id)
    admin.run(
        "insert into rowlock.start_key (app, workflow, kind, key, run_id)"
        " values (%s, 'fulfil', 'dedup', 'k', %s)",
        APP,
        run_id,
    )
    return run_id


def test_every_table_is_decided(world: World) -> None:
    decided = OF_NO_RUN | OF_THE_UNFINISHED | STAYS | naming(world, rich(world))
    assert tables(world) - decided == set(), "does it hold something of runs?"


@pytest.mark.parametrize("how", ["delete", "retain"])
def test_nothing_is_left_of_a_run_that_is_removed(world: World, how: str) -> None:
    run_id = rich(world)
    before = naming(world, run_id) - STAYS
    assert {"run", "run_key", "start_key", "step", "adoption", "arrival"} <= before
    assert "cancel_request" in before
    if how == "delete":
        world.anybody.run("select rowlock.delete(run_id) from rowlock.runs order by run_id")
    else:
        world.anybody.run("select rowlock.set_retention('0', app => %s)", APP)
        world.anybody.run("update rowlock.outcome set finished_at = finished_at - interval '1 day'")
        world.anybody.run("set rowlock.test_offset = '1 day'")
        while world.count("run"):
            world.anybody.run("select * from rowlock.retain()")
        world.anybody.run("update rowlock.retention_walk set after_id = null")
    assert naming(world, run_id) - STAYS == set()
