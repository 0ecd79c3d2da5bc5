"""Claims from limited queues cost the same however deep what they may not take is.

As in test_plans.py: the tables are analyzed while they are empty and then filled, every plan is
generic, and the same calls on a hundredth of the backlog say what they should cost, in buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

import postgres
from rowlock.embedded import Server
from rowlock.store.entries import Entry, Heir, parameters
from rowlock.store.statements import CLAIM, JOURNAL, Claimed
from store.costs import DEEP, SHALLOW, cost_of
from store.races.sessions import (
    APP,
    Connections,
    Worker,
    World,
    finish,
    release,
    sleep_on,
)

FEW = 40
TABLES = ("run", "task", "rate_use")

# Each queue is deep in what can't be claimed, and what can stands behind it.
LOAD = """
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, partition)
select rowlock.uuidv7(), clock_timestamp(), 50, 'shop', 'fulfil', q.name, '{}', case
           when q.name = 'noisy' then case when n <= %(n)s then 'big' else 'p' || n %% 50 end
           when q.name = 'tenants' then 'p' || lpad(n::text, 7, '0') end
  from unnest(array['full', 'rated', 'noisy', 'tenants', 'aged', 'late']) as q (name)
 cross join generate_series(1, %(n)s + 50) as n;
insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow, partition)
select id, clock_timestamp(), case when r.queue = 'aged' then 40 + (random() * 20)::int else 50 end,
       case when r.queue = 'late' and n > 50 then 'scheduled' else 'ready' end,
       'shop', r.queue, 'fulfil', r.partition
  from (select *, row_number() over (partition by queue order by id) as n from rowlock.run) as r;
"""
LIMITS: dict[str, dict[str, Any]] = {
    "full": {"concurrency": 5},
    "rated": {"rate": "5/h"},
    "noisy": {"partitions": True, "partition_concurrency": 5},
    "tenants": {"partitions": True, "partition_concurrency": 5},
    "aged": {"ageing": "1 minute", "concurrency": 1000},
    "late": {"concurrency": 1000},
}
PLACES = ["full", "aged"]
ENDS: dict[str, Callable[[Claimed], Entry]] = {
    "finish": finish,
    "release": release,
    "suspend": lambda claimed: sleep_on(claimed, timers=()),
}


class Backlog:
    """Six limited queues with so many runs each, and a worker that has taken what it may."""

    def __init__(self, world: World, depth: int) -> None:
        self.world, admin = world, world.anybody
        admin.run(
            "select rowlock.show_app(%s, %s, array['fulfil'], array['default'])", APP, [*LIMITS]
        )
        admin.run("analyze")
        for table in TABLES:
            admin.run(f"alter table rowlock.{table} set (autovacuum_enabled = false)")
        for queue, limits in LIMITS.items():
            admin.limit(queue, **limits)
        self.worker: Worker = world.worker()
        self.worker.heartbeat(lease_s=3600.0)
        self._plan()
        admin.connection.execute("set synchronous_commit = off")
        for statement in LOAD.split(";\n"):
            if statement.strip():
                admin.connection.execute(statement.encode(), {"n": depth})
        self.mine = {queue: self.worker.claim(5, queues=[queue]) for queue in PLACES}
        self.worker.claim(10, queues=["rated"])
        admin.run(
            "update rowlock.task set state = 'running', worker_id = %s, limited = true,"
            " claimed_at = clock_timestamp()"
            " where run_id = any (array(select run_id from rowlock.task where partition = 'big'"
            " order by run_id limit 5))",
            self.worker.worker_id,
        )
        # A run that has begun, behind all who have not.
        admin.run(
            "update rowlock.task set state = 'ready', worker_id = null, priority = 99"
            " where run_id = (select run_id from rowlock.task where queue = 'rated'"
            " and state = 'running' limit 1)"
        )

    def _plan(self) -> None:
        """The worker's session makes its plans now, while the tables are tiny, and keeps them."""
        self.worker.run("set plan_cache_mode = force_generic_plan")
        for queue, how in product(PLACES, ENDS):
            self.worker.begin()
            self.worker.start_many(*[{"workflow": "fulfil", "queue": queue}] * 10)
            mine = self.worker.claim(5, queues=[queue])
            assert len(self.worker.hand_over(*map(ENDS[how], mine))[1]) == 5
            self.worker.rollback()

    def cost(self, queue: str, want: int = 5) -> tuple[int, set[str]]:
        given = {
            "worker": self.worker.worker_id,
            "app": APP,
            "version": "",
            "queues": [queue],
            "after": None,
            "want": want,
            "listening": False,
            "memory": None,
        }
        cost = cost_of(self.worker, CLAIM.sql, given)
        return cost.buffers, cost.scanned & set(TABLES)

    def cost_of_places(self, queue: str, how: str) -> tuple[int, set[str]]:
        """Of a journal that ends five runs and takes five others."""
        ends = [ENDS[how](one) for one in self.mine[queue]]
        batch = parameters(self.worker.worker_id, ends, retrying=False, heir=Heir("", None))
        self.worker.begin()
        assert len(self.worker.hand_over(*ends)[1]) == len(ends) == 5
        self.worker.rollback()
        cost = cost_of(self.worker, JOURNAL.sql, batch)
        return cost.buffers, cost.scanned & set(TABLES)

    def gives(self, queue: str, want: int = 5) -> int:
        self.worker.begin()
        found = len(self.worker.claim(want, queues=[queue]))
        self.worker.rollback()
        return found


@pytest.fixture(scope="module")
def backlogs(server: Server, template: str) -> Iterator[tuple[Backlog, Backlog]]:
    """A shallow one and a deep one."""
    with (
        postgres.new_database(server, template) as shallow,
        postgres.new_database(server, template) as deep,
    ):
        connections = [Connections(url) for url in (shallow, deep)]
        worlds = [World(each) for each in connections]
        yield Backlog(worlds[0], SHALLOW), Backlog(worlds[1], DEEP)
        for world in worlds:
            world.close()
        for each in connections:
            each.close()


EXPECTED = {"full": 0, "rated": 1, "noisy": 5, "tenants": 5, "aged": 5, "late": 5}


@pytest.mark.parametrize("queue", LIMITS)
def test_a_claim_under_a_limit_costs_the_same_at_a_deep_backlog(
    backlogs: tuple[Backlog, Backlog], queue: str
) -> None:
    assert [backlog.gives(queue) for backlog in backlogs] == [EXPECTED[queue]] * 2
    (shallow, _), (deep, scanned) = (backlog.cost(queue) for backlog in backlogs)
    assert scanned == set()
    assert deep <= 2 * shallow + FEW, (shallow, deep)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("queue", PLACES)
def test_places_that_are_handed_over_cost_the_same_at_a_deep_backlog(
    backlogs: tuple[Backlog, Backlog], queue: str, how: str
) -> None:
    (shallow, _), (deep, scanned) = (backlog.cost_of_places(queue, how) for backlog in backlogs)
    assert scanned == set()
    assert deep <= 2 * shallow + FEW, (shallow, deep)


def test_where_nothing_waits_the_places_of_what_ends_cost_no_count(
    backlogs: tuple[Backlog, Backlog],
) -> None:
    """A limit that is not used up is the usual case, and may have very many running."""
    backlog, _ = backlogs
    worker = backlog.worker
    world = backlog.world
    world.anybody.limit("late", concurrency=10_000)
    few = worker.claim(5, queues=["late"])
    worker.claim(1000, queues=["late"])

    def cost() -> int:
        ends: list[Entry] = [finish(one) for one in few]
        batch = parameters(worker.worker_id, ends, retrying=False, heir=Heir("", None))
        return cost_of(worker, JOURNAL.sql, batch).buffers

    beside_few = cost()
    world.anybody.start_many(*[{"workflow": "fulfil", "queue": "late"}] * 3000)
    assert len(worker.claim(3000, queues=["late"])) == 3000
    assert cost() <= beside_few + FEW
