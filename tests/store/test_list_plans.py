"""A page of runs costs what is on it, not what there is: by each filter, at 100,000 finished runs.

As in test_plans.py, every plan is generic and made on statistics that are wrong by now, in two
ways: the tables were empty then, or held a thousand runs that agree in everything. Costs are
buffers. What is rare is the oldest: no walk from the newest finds it soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

import postgres
from rowlock.embedded import Server
from store.costs import Cost, cost_of
from store.estate import estate
from store.races.sessions import Connections, Session, World

RUNS = 100_000
MOST_BUFFERS = 3_000
FIRST_LOOK = 2 * 5_000
"""For attributes, 5,000 runs are looked at before the index is asked, which knows no order."""
PARENT = "01900000-0000-7000-8000-000000000001"

# One of 1,000 is old and rare; 20 workflows, 3 queues, 4 versions, 2 apps; a parent of a tenth. A
# quarter has ended twice: it was redone.
LOAD = f"""
create temp table made as
select rowlock.uuidv7() as id, n, n %% 1000 = 0 and n <= %(n)s / 2 as rare, n %% 20 as workflow
  from generate_series(1, %(n)s) as n;
insert into rowlock.run (id, created_at, priority, app, workflow, queue, key, input, attributes,
                         parent_id, parent_generation, parent_place)
select id, clock_timestamp(), 50, case when rare then 'bank' else 'shop' end,
       case when rare then 'rare' else 'work-' || workflow end, 'queue-' || workflow %% 3,
       'key-' || n, '{{}}',
       case when rare then '{{"customer": 1, "eu": true}}' else '{{"customer": 1}}' end::jsonb,
       case when n %% 10 = 0 then uuid '{PARENT}' end, 1, '1'
  from made;
insert into rowlock.run_key (run_id, app, key)
select r.id, r.app, r.key from rowlock.run as r join made using (id);
insert into rowlock.outcome
      (run_id, finished_at, generation, epoch, app, workflow, queue, version, status, redone_at)
select r.id, clock_timestamp(), g.generation, 1, r.app, r.workflow,
       case when m.rare then 'old' else r.queue end,
       case when m.rare then 'v0' else 'v' || 1 + m.workflow %% 4 end,
       case when m.rare then 'dead' when g.generation = 1 and m.n %% 4 = 0 then 'failed'
            else 'succeeded' end,
       case when g.generation = 1 and m.n %% 4 = 0 then clock_timestamp() end
  from made as m
  join rowlock.run as r on r.id = m.id
 cross join generate_series(1, 2) as g (generation)
 where g.generation = 1 or m.n %% 4 = 0
"""
ALIKE = f"""
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, attributes,
                         parent_id, parent_generation, parent_place)
select rowlock.uuidv7(), clock_timestamp(), 50, 'shop', 'work-1', 'queue-1', '{{}}',
       '{{"customer": 1}}', '{PARENT}', 1, '1'
  from generate_series(1, 1000);
insert into rowlock.outcome
      (run_id, finished_at, generation, epoch, app, workflow, queue, version, status)
select id, clock_timestamp(), 1, 1, app, workflow, queue, 'v2', 'succeeded' from rowlock.run
"""

FILTERS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "the app of nearly all": {"app": "shop"},
    "a rare app": {"app": "bank"},
    "the status of nearly all": {"status": "succeeded"},
    "a rare status": {"status": "dead"},
    "a status that was redone everywhere": {"status": "failed"},
    "the state of none": {"status": "running"},
    "a workflow": {"workflow": "work-7"},
    "a rare workflow": {"workflow": "rare"},
    "a queue": {"queue": "queue-1"},
    "a rare queue": {"queue": "old"},
    "a version": {"version": "v2"},
    "a rare version": {"version": "v0"},
    "a key": {"key": "key-77"},
    "a parent of many": {"parent_id": PARENT},
    "common attributes": {"attributes": '{"customer": 1}'},
    "rare attributes": {"attributes": '{"eu": true}'},
    "app and status": {"app": "shop", "status": "succeeded"},
    "app, workflow and a rare status": {"app": "bank", "workflow": "rare", "status": "dead"},
    "app, workflow and a status of none": {"app": "shop", "workflow": "work-7", "status": "dead"},
    "a version and a rare status": {"version": "v0", "status": "dead"},
    "a version and a status of none": {"version": "v2", "status": "dead"},
    "before a day that is to come": {"created_before": "2999-01-01"},
    "after a day long ago": {"created_after": "2000-01-01"},
    "after a day that is to come": {"created_after": "2999-01-01"},
    "a rare status and times": {
        "status": "dead",
        "created_after": "2000-01-01",
        "created_before": "2999-01-01",
    },
}
CONDITIONS = {
    "attributes": "attributes @> %(attributes)s::jsonb",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
}


class Ledgers:
    """A database with so many finished runs, of which the planner knows nothing."""

    def __init__(self, admin: Session, session: Session, seen: str) -> None:
        admin.connection.execute("set synchronous_commit = off")
        if seen == "a thousand alike":
            self._execute(admin, ALIKE)
        admin.run("analyze")
        for table in ("run", "outcome", "task", "run_key"):
            admin.run(f"alter table rowlock.{table} set (autovacuum_enabled = false)")
        self._execute(admin, LOAD.replace("%(n)s", str(RUNS)).replace("%%", "%"))
        self.session = session
        self.session.run("set plan_cache_mode = force_generic_plan")
        self.middle: UUID = admin.ask("select id from made where n = %s", RUNS // 2)

    @staticmethod
    def _execute(admin: Session, script: str) -> None:
        for statement in script.split(";\n"):
            admin.run(statement)

    def page(self, **filters: Any) -> list[UUID]:
        rows = self.session.connection.execute(self._query(filters).encode(), filters).fetchall()
        return [run for (run,) in rows]

    def cost(self, **filters: Any) -> Cost:
        return cost_of(self.session, self._query(filters), filters)

    @staticmethod
    def _query(filters: dict[str, Any]) -> str:
        arguments = ", ".join(f"{name} => %({name})s" for name in filters)
        return f"select run_id from rowlock.list_runs({arguments})"

    def expected(self, **filters: Any) -> list[UUID]:
        """The same page, asked of the view."""
        conditions = [CONDITIONS.get(name, f"{name} = %({name})s") for name in filters]
        rows = self.session.connection.execute(
            f"select run_id from rowlock.runs where {' and '.join(conditions) or 'true'}"
            " order by run_id desc limit 50".encode(),
            filters,
        ).fetchall()
        return [run for (run,) in rows]


@pytest.fixture(scope="module", params=["nothing", "a thousand alike"])
def ledgers(server: Server, template: str, request: pytest.FixtureRequest) -> Iterator[Ledgers]:
    with postgres.new_database(server, template) as url:
        connections = Connections(url)
        world = World(connections)
        yield Ledgers(world.anybody, world.session(), request.param)
        world.close()
        connections.close()


@pytest.fixture(scope="module")
def ledgers_of_the_bank() -> Iterator[Ledgers]:
    """The same, read by who may see the rare app alone."""
    with estate() as home:
        home.look.execute("update rowlock.app_member set app = 'bank' where role = 'shop_reader'")
        connections, readers = Connections(home.url), Connections(home.url_of("shop_reader"))
        admin, reader = Session(connections), Session(readers)
        yield Ledgers(admin, reader, "nothing")
        for each in (reader, admin, readers, connections):
            each.close()


@pytest.mark.parametrize("name", FILTERS)
def test_a_page_is_cheap_among_many_runs(ledgers: Ledgers, name: str) -> None:
    cost = ledgers.cost(**FILTERS[name])
    assert cost.scanned == set()
    assert cost.buffers <= MOST_BUFFERS + (FIRST_LOOK if name == "rare attributes" else 0)
    assert ledgers.page(**FILTERS[name]) == ledgers.expected(**FILTERS[name])


@pytest.mark.parametrize("name", FILTERS)
def test_a_page_in_the_middle_is_as_cheap(ledgers: Ledgers, name: str) -> None:
    cost = ledgers.cost(**FILTERS[name], before=ledgers.middle)
    assert cost.scanned == set()
    assert cost.buffers <= MOST_BUFFERS + (FIRST_LOOK if name == "rare attributes" else 0)


def test_a_page_of_a_thousand_costs_no_more_for_each_of_its_runs(ledgers: Ledgers) -> None:
    arguments = "status => 'succeeded', \"limit\" => 1000"
    cost = cost_of(ledgers.session, f"select run_id from rowlock.list_runs({arguments})", {})
    assert cost.buffers <= 25 * 1000


def test_whether_a_name_is_known_is_cheap_to_say(ledgers: Ledgers) -> None:
    """An empty page of runs that nobody has declared."""
    undeclared = {"app": "shop", "workflow": "work-7", "queue": "queue-1", "version": "v4"}
    cost = ledgers.cost(**undeclared, status="dead")
    assert cost.scanned <= {"workflow", "queue", "version"}
    assert cost.buffers <= MOST_BUFFERS


OF_THE_BANK = (
    "nothing",
    "a rare app",
    "the status of nearly all",
    "a rare status",
    "the state of none",
    "a rare workflow",
    "a rare queue",
    "a rare version",
    "a key",
    "rare attributes",
    "app, workflow and a rare status",
    "a version and a rare status",
    "before a day that is to come",
    "after a day long ago",
    "a rare status and times",
)


@pytest.mark.parametrize("name", OF_THE_BANK)
def test_a_page_is_cheap_for_who_may_see_a_rare_app_alone(
    ledgers_of_the_bank: Ledgers, name: str
) -> None:
    """Row-level security hides the others' runs; a walk past all of them would still be one."""
    cost = ledgers_of_the_bank.cost(**FILTERS[name])
    assert cost.scanned <= {"app_member"}
    assert cost.buffers <= MOST_BUFFERS
    page = ledgers_of_the_bank.page(**FILTERS[name])
    assert page == ledgers_of_the_bank.expected(**FILTERS[name])
