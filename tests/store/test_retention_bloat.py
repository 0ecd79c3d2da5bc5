"""What retention frees is used again: tables and indexes stop growing, with nothing but a vacuum.

Runs are started, worked off and removed, cycle after cycle, while those of the last cycles stay.
Ids are in the order of creation, so what leaves fills whole pages at the lower end of every index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from store.races.sessions import APP, Connections, World, finish, step

RUNS = int(os.environ.get("ROWLOCK_TEST_BLOAT_RUNS", "800"))
STAY = 2
"""Cycles whose runs are kept."""
WARM, CYCLES = 6, 12

SIZES = """
select c.relname, pg_relation_size(c.oid)::float8
  from pg_class as c
 where c.relnamespace = 'rowlock'::regnamespace and c.relkind in ('r', 'i')
   and (c.relname ~ '^(run|step|outcome|message|event|stream_entry|run_key|generation)(_|$)')
"""


@pytest.fixture
def world(database: str) -> Iterator[World]:
    connections = Connections(database)
    world = World(connections)
    yield world
    world.close()
    connections.close()


def test_tables_and_indexes_stop_growing(world: World) -> None:
    admin, worker = world.anybody, world.worker()
    admin.run("set synchronous_commit = off")
    worker.run("set synchronous_commit = off")
    worker.heartbeat(lease_s=3600)
    for table in ("run", "step", "outcome", "run_key", "task"):
        # vacuumed below, at a moment that is not the machine's
        admin.run(f"alter table rowlock.{table} set (autovacuum_enabled = false)")
    sizes: list[dict[str, float]] = []
    for cycle in range(CYCLES):
        workflow = f"cycle {cycle:02}"
        admin.start_many(
            *(
                {
                    "workflow": workflow,
                    "key": f"{cycle}-{n}",
                    "attributes": {"customer": n % 100},
                    "input": {"order": n},
                }
                for n in range(RUNS)
            )
        )
        while claimed := worker.claim(100):
            worker.journal(*[step(one, str(n)) for one in claimed for n in (1, 2, 3)])
            worker.journal(*[finish(one) for one in claimed])
        if cycle >= STAY:
            _leave(world, f"cycle {cycle - STAY:02}")
        admin.run("vacuum")
        sizes.append(dict(admin.run(SIZES)))
        assert world.count("run") == RUNS * min(cycle + 1, STAY)
    print({name: [int(size[name] / 1024) for size in sizes] for name in sizes[-1]})
    warm = {name: max(size[name] for size in sizes[STAY:WARM]) for name in sizes[-1]}
    grown = {
        name: [size[name] for size in sizes]
        for name in warm
        # a page here and there
        if sizes[-1][name] > 1.05 * warm[name] + 3 * 8192
    }
    assert grown == {}
    assert sizes[-1]["step"] < sizes[0]["step"] * (STAY + 2)


def _leave(world: World, workflow: str) -> None:
    """All runs of this workflow are older than a minute, and older than their policy keeps them."""
    admin = world.anybody
    admin.run(
        "create or replace function rowlock.at_least_a_minute(p_keep interval) returns interval"
        " language sql immutable set search_path = pg_catalog return p_keep"
    )
    admin.run("select rowlock.set_retention('0', %s, app => %s)", workflow, APP)
    done = False
    while not done:
        [(done,)] = admin.run("select done from rowlock.retain(300)")
