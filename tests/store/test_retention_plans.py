"""Retention costs what it removes, not what there is: neither what stays nor what is too young.

As in test_plans.py the tables are analyzed while they are empty, every plan is generic, and costs
are buffers touched. At the low end of the ids stands, in this order: what has no policy, what
another run needs, what ran so long that it is not old enough; then what leaves; then what is too
young.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from uuid import UUID

import pytest

import postgres
from rowlock.embedded import Server
from rowlock.store.connection import Statement
from rowlock.store.statements import CHOOSE_RUNS, HOUSE_DUE, REMOVE_CHOSEN, RETAIN_PLAN, Chosen
from store.costs import DEEP, SHALLOW
from store.races.sessions import Connections, World

LEDGERS = ["run", "step", "outcome", "task", "wait", "run_key", "generation", "message", "event"]
LEDGERS += ["stream_entry", "cancel_request", "arrival", "adoption"]
LEAVE = 300
BATCH = 100
LANE = ["shop", "fulfil", "default", "succeeded"]
FEW = 48
"""Buffers that a deeper index may cost on top: a level more here and there."""

# Ids carry the time at which their run was made, so many days ago.
LOAD = """
create table public.made (id uuid, kind text, workflow text, status text, ended interval);
insert into public.made
select (lpad(to_hex((extract(epoch from now() - days * interval '1 day') * 1000)::bigint), 12, '0')
        || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
       kind, workflow, status, ended
  from (values (400, 'no policy', 'audit', 'succeeded', interval '400 days', %(n)s),
               (300, 'parent', 'parent', null, null, 1),
               (200, 'needed', 'fulfil', 'succeeded', '200 days', %(n)s),
               (150, 'ran for long', 'fulfil', 'succeeded', '1 hour', %(n)s),
               (100, 'leaves', 'fulfil', 'succeeded', '100 days', %(leave)s),
               (0.01, 'young', 'fulfil', 'succeeded', '0', %(n)s / 4)
       ) as x (days, kind, workflow, status, ended, count)
 cross join lateral generate_series(1, count) as n;
create view public.rich as select * from public.made where kind in ('leaves', 'ran for long');
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input, key,
                         parent_id, parent_generation)
select m.id, now(), 50, 'shop', m.workflow, 'default', '{}', m.id::text, p.id, 1
  from public.made as m
  left join public.made as p on m.kind = 'needed' and p.kind = 'parent';
insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)
select id, 'infinity', 50, 'waiting', 'shop', 'default', workflow
  from public.made where status is null;
insert into rowlock.outcome
      (run_id, finished_at, generation, epoch, app, workflow, queue, version, status)
select id, now() - ended, 1, 1, 'shop', workflow, 'default', '', status
  from public.made where status is not null;
insert into rowlock.step
      (run_id, recorded_at, generation, position, epoch, seconds, attempts, place, kind, name)
select id, now(), 1, n, 1, 0.1, 1, n::text, 'step', 'work'
  from public.rich cross join generate_series(1, 3) as n;
insert into rowlock.message (run_id, sent_at, topic, value)
select id, now(), 'approval', 'true' from public.rich;
insert into rowlock.event (run_id, set_at, name, value)
select id, now(), 'progress', 'true' from public.rich;
insert into rowlock.stream_entry (run_id, emitted_at, "offset", stream, value)
select id, now(), 0, 'log', 'true' from public.rich;
insert into rowlock.wait (run_id, opened_at, on_run_id, generation, place, kind)
select id, now(), gen_random_uuid(), 1, n::text, 'run'
  from public.made cross join generate_series(1, %(n)s) as n where kind = 'parent';
insert into rowlock.cancel_request (run_id, requested_at, generation, grace_s, force)
select id, now(), 1, 30, false from public.rich;
insert into rowlock.arrival (arrived_at, count, name)
select now(), 1, id || ':1:1' from public.rich;
insert into rowlock.adoption (run_id, parent_id, parent_generation)
select id, gen_random_uuid(), 1 from public.rich;
insert into rowlock.run_key (run_id, app, key) select id, 'shop', id::text from public.made;
select rowlock.set_retention('1 day', keep_keys => '2 years', app => 'shop');
select rowlock.set_retention(null, workflow => 'audit', app => 'shop');
"""


class History:
    """A database with so many ended runs of each kind."""

    def __init__(self, world: World, depth: int) -> None:
        self.depth = depth
        self.session = world.session("remover")
        self.session.run("analyze")
        for table in LEDGERS:
            self.session.run(f"alter table rowlock.{table} set (autovacuum_enabled = false)")
        self.session.run("set synchronous_commit = off")
        load = LOAD.replace("%(n)s", str(depth)).replace("%(leave)s", str(LEAVE))
        for statement in load.split(";\n"):
            if statement.strip():
                self.session.run(statement)
        self.session.run("set plan_cache_mode = force_generic_plan")
        self.leaves: list[UUID] = [
            row[0]
            for row in self.session.run("select id from made where kind = 'leaves' order by id")
        ]

    def cost(self, statement: Statement[Any], given: dict[str, Any]) -> int:
        """Buffers that a call touches when its plans are made; nothing of it remains.

        And none of the ledgers is read from end to end.
        """
        with self.undone():
            self.session.connection.execute(statement.sql.encode(), given)
        with self.undone():
            before = self._scans()
            [plan] = self.session.connection.execute(
                b"explain (analyze, buffers, format json) " + statement.sql.encode(), given
            ).fetchone() or [None]
            after = self._scans()
        assert [name for name in LEDGERS if after[name] > before[name]] == []
        top = plan[0]["Plan"]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    def _scans(self) -> dict[str, int]:
        rows = self.session.run(
            "select relname, seq_scan from pg_stat_xact_user_tables where schemaname = 'rowlock'"
        )
        return {str(name): int(count or 0) for name, count in rows}

    @contextmanager
    def undone(self) -> Iterator[None]:
        self.session.begin()
        try:
            yield
        finally:
            self.session.rollback()

    def choose(self, lane: list[str] | None, after: UUID | None) -> dict[str, Any]:
        return {"limit": BATCH, "app": None, "archived": False, "lane": lane, "after_id": after}

    @cached_property
    def walk(self) -> list[tuple[Chosen, dict[str, Any]]]:
        """Batch by batch over all of it, removing nothing; each with what it was asked."""
        return list(self._walk())

    def _walk(self) -> Iterator[tuple[Chosen, dict[str, Any]]]:
        lane, after, done = None, None, False
        while not done:
            asked = self.choose(lane, after)
            with self.undone():
                [chosen] = self.session.call(CHOOSE_RUNS, **asked)
            yield chosen, asked
            lane, after, done = chosen.lane, chosen.after_id, chosen.done


@pytest.fixture(scope="module")
def histories(server: Server, template: str) -> Iterator[tuple[History, History]]:
    """A shallow one and a deep one."""
    with (
        postgres.new_database(server, template) as shallow,
        postgres.new_database(server, template) as deep,
    ):
        connections = [Connections(url) for url in (shallow, deep)]
        worlds = [World(each) for each in connections]
        yield History(worlds[0], SHALLOW), History(worlds[1], DEEP)
        for world in worlds:
            world.close()
        for each in connections:
            each.close()


def same(shallow: int, deep: int) -> bool:
    return deep <= 2 * shallow + FEW


def test_a_batch_costs_the_same_however_much_stays(histories: tuple[History, History]) -> None:
    """At the begin of the walk, amidst what stays, where it finds some that leave, at its end."""
    costs: list[list[int]] = []
    for history in histories:
        walk = history.walk
        removing = [asked for chosen, asked in walk if chosen.runs]
        where = [walk[0][1], removing[0], removing[-1], walk[-1][1]]
        for kind in ("needed", "ran for long"):
            [(middle,)] = history.session.run(
                "select id from made where kind = %s order by id offset %s limit 1",
                kind,
                history.depth // 2 - 1,
            )
            where.append(history.choose(LANE, middle))
        costs.append([history.cost(CHOOSE_RUNS, asked) for asked in where])
    assert all(map(same, *costs)), costs
    assert max(costs[1]) < 40 * 5 * BATCH, costs


def test_a_walk_comes_through_what_stays(histories: tuple[History, History]) -> None:
    """And looks at nothing twice, nor at what is too young."""
    for history in histories:
        found = [run for chosen, _ in history.walk for run in chosen.runs]
        assert found == history.leaves
        # five times a batch is looked at, at most, of the two kinds that stay
        assert len(history.walk) <= 2 * history.depth / (5 * BATCH) + LEAVE / BATCH + 2


def test_what_stays_is_passed_by_without_a_lock(histories: tuple[History, History]) -> None:
    """Nobody who wants to redo a run waits for those who look at it."""
    history = histories[0]
    with history.undone():
        [chosen] = history.session.call(CHOOSE_RUNS, **history.choose(None, None))
        assert chosen.runs == []
        locks = history.session.ask(
            "select count(*) from rowlock.run where xmax::text = pg_current_xact_id()::text"
        )
    assert locks == 0


def test_a_removal_costs_the_same_however_much_there_is(
    histories: tuple[History, History],
) -> None:
    shallow, deep = (
        history.cost(REMOVE_CHOSEN, {"runs": history.leaves[:BATCH]}) for history in histories
    )
    assert same(shallow, deep), (shallow, deep)
    assert deep < 150 * BATCH


ONE = {
    "delete": "select rowlock.delete(%(run)s)",
    "why_kept": "select rowlock.why_kept(%(run)s)",
}


@pytest.mark.parametrize("name", ONE)
def test_one_run_costs_the_same_however_many_there_are(
    histories: tuple[History, History], name: str
) -> None:
    statement: Statement[Any] = Statement(name, ONE[name], lambda *_: None)
    shallow, deep = (history.cost(statement, {"run": history.leaves[0]}) for history in histories)
    assert same(shallow, deep), (shallow, deep)
    assert deep < 400


def test_to_ask_whether_something_is_due_costs_next_to_nothing(
    histories: tuple[History, History],
) -> None:
    for history in histories:
        assert history.cost(HOUSE_DUE, {}) < 30


def test_the_plan_is_bounded(histories: tuple[History, History]) -> None:
    shallow, deep = histories
    assert deep.cost(RETAIN_PLAN, {"app": None}) < 100 * 10_000
    [whole] = shallow.session.call(RETAIN_PLAN, app=None)
    assert (whole.runs, whole.at_least) == (LEAVE, False)
    assert whole.held_back == {"its parent is there": SHALLOW}
    [part] = deep.session.call(RETAIN_PLAN, app=None)
    assert (part.runs, part.at_least) == (0, True), "it has looked at the first 10,000"
    assert part.held_back == {"its parent is there": 10_000}


def test_lanes_are_what_a_policy_reaches(histories: tuple[History, History]) -> None:
    lanes = "select lane, keep::text from rowlock.retention_lanes({}, {})"
    for history in histories:
        assert history.session.run(lanes.format("null", "false")) == [(LANE, "1 day")]
        assert history.session.run(lanes.format("'bank'", "false")) == []
        with history.undone():
            history.session.run(
                "select rowlock.set_retention('1 day', archive => true, app => 'shop')"
            )
            assert history.session.run(lanes.format("null", "false")) == []
            assert history.session.run(lanes.format("null", "true")) == [(LANE, "1 day")]
