"""rowlock.list_runs gives what a plain condition on the view rowlock.runs gives, in pages.

Runs go through everything that can happen to them, at random by a seed; then every list, page by
page, is what the view says under the same filters. Pages are short, so that all sources of a list
are asked: one page of a small database would come from the newest runs alone.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from rowlock.model.states import Outcome, TaskState
from rowlock.store import migrate as migrations
from rowlock.store.migrate import Change
from rowlock.store.statements import CLAIM, REGISTER_WORKER, SHOW_APP, Claimed
from store.races.sessions import (
    Session,
    Worker,
    World,
    child,
    children,
    finish,
    go_on,
    release,
    step,
    suspend,
    timer,
)

APPS = ("shop", "bank")
WORKFLOWS = ("fulfil", "invoice", "audit")
QUEUES = ("default", "other")
VERSIONS = ("", "v1", "v2")
ATTRIBUTES: tuple[dict[str, Any], ...] = (
    {"customer": 1},
    {"customer": 2},
    {"customer": 1, "eu": True},
)
STATUSES = (*TaskState, *Outcome)
OPERATIONS = 120
REFUSED = ("RLS01", "RLS02", "RLS03", "RLN04")
"""What a random request may be answered with: the run has not ended, or not so."""

FILTERS = (
    "app",
    "status",
    "workflow",
    "queue",
    "version",
    "key",
    "parent_id",
    "attributes",
    "created_after",
    "created_before",
)
CONDITIONS = {
    "attributes": "attributes @> %(attributes)s::jsonb",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
}

STANDS_ONCE = """
select r.id
  from rowlock.run as r
 where 1 <> (select count(*) from rowlock.task as t where t.run_id = r.id)
          + (select count(*) from rowlock.outcome as o
              where o.run_id = r.id and o.redone_at is null and o.status <> 'continued')"""
"""Runs that don't either wait for something or have one outcome that counts: there are none."""


def listed(
    session: Session, limit: int = 50, before: UUID | None = None, **filters: Any
) -> list[UUID]:
    """One page."""
    given = filters | {"before": before, "limit": limit}
    arguments = ", ".join(f'"{name}" => %({name})s' for name in given)
    rows = session.connection.execute(
        f"select run_id from rowlock.list_runs({arguments})".encode(), adapted(given)
    ).fetchall()
    return [run for (run,) in rows]


def paged(session: Session, limit: int, **filters: Any) -> list[UUID]:
    """All pages."""
    runs: list[UUID] = []
    while page := listed(session, limit, runs[-1] if runs else None, **filters):
        runs += page
        assert len(page) <= limit
    return runs


def expected(session: Session, **filters: Any) -> list[UUID]:
    """The same, asked of the view."""
    conditions = [CONDITIONS.get(name, f"{name} = %({name})s") for name in filters]
    rows = session.connection.execute(
        f"select run_id from rowlock.runs where {' and '.join(conditions) or 'true'}"
        " order by run_id desc".encode(),
        adapted(filters),
    ).fetchall()
    return [run for (run,) in rows]


def adapted(filters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in filters.items()
    }


class Life:
    """Two apps with workers of several versions, and what can happen to their runs."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.chance = random.Random(seed)
        self.sql = world.anybody
        self.workers: list[tuple[str, str, Worker]] = []
        self.claimed: list[tuple[Worker, Claimed]] = []
        self.places = 0
        for app in APPS:
            self.sql.call(
                SHOW_APP,
                app=app,
                queues=list(QUEUES),
                workflows=list(WORKFLOWS),
                workflow_queues=["default"] * len(WORKFLOWS),
            )
            for version in VERSIONS:
                [number] = self.sql.call(
                    REGISTER_WORKER,
                    app=app,
                    version=version,
                    host="test",
                    pid=1,
                    slots=100,
                    queues=None,
                    lease=3600.0,
                )
                self.workers.append((app, version, world.connect_again(number)))

    def operations(self) -> list[Callable[[], object]]:
        return [
            self.start,
            self.start,
            self.start_many,
            self.claim,
            self.claim,
            self.claim,
            self.finish,
            self.finish,
            self.finish,
            self.sleep,
            self.block,
            self.continue_as_new,
            self.start_children,
            self.cancel,
            self.redo,
            self.redo,
            self.redo,
            self.fork,
            self.move,
            self.give_up,
            self.let_time_pass,
        ]

    def live(self) -> None:
        for _ in range(OPERATIONS):
            try:
                self.chance.choice(self.operations())()
            except psycopg.Error as error:
                if error.sqlstate not in REFUSED:
                    raise

    # --- what happens

    def start(self) -> None:
        self.sql.run(
            "select rowlock.start(%s, app => %s, queue => %s, key => %s, attributes => %s,"
            " delay => %s)",
            self.chance.choice(WORKFLOWS),
            self.chance.choice(APPS),
            self.chance.choice((None, *QUEUES)),
            self.chance.choice((None, None, f"key-{self.chance.randrange(9)}")),
            self.chance.choice((None, *map(json.dumps, ATTRIBUTES))),
            self.chance.choice((None, None, None, timedelta(hours=1))),
        )

    def start_many(self) -> None:
        """A batch whose ids come some time after its call; or before, as a fork's children's do."""
        runs = [{"workflow": self.chance.choice(WORKFLOWS)}] * self.chance.randint(1, 6)
        made = self.sql.run(
            "select rowlock.start_many(%s, %s)", json.dumps(runs), self.chance.choice(APPS)
        )
        self.sql.run(
            "update rowlock.run set created_at = created_at - make_interval(secs => %s)"
            " where id = any (%s)",
            self.chance.choice((-3.0, 0.0, 0.5, 5.0)),
            [run for (run,) in made],
        )

    def claim(self) -> None:
        app, version, worker = self.chance.choice(self.workers)
        self.claimed += [
            (worker, one)
            for one in worker.call(
                CLAIM,
                worker=worker.worker_id,
                app=app,
                version=version,
                queues=None,
                after=None,
                want=self.chance.randint(2, 9),
                listening=False,
                memory=None,
            )
        ]

    def place(self) -> str:
        """A new one."""
        self.places += 1
        return str(self.places)

    def own(self) -> tuple[Worker, Claimed] | None:
        """One that is claimed, and is not any more after this."""
        if not self.claimed:
            return None
        return self.claimed.pop(self.chance.randrange(len(self.claimed)))

    def finish(self) -> None:
        """Half of what is claimed."""
        for _ in range(len(self.claimed) // 2 + 1):
            if own := self.own():
                worker, one = own
                status = self.chance.choice(("succeeded", "failed", "failed", "cancelled"))
                worker.write(step(one, self.place()), finish(one, status, waited=True))

    def sleep(self) -> None:
        if own := self.own():
            worker, one = own
            place = self.place()
            worker.write(timer(one, place), suspend(one, timers=(place,)))

    def block(self) -> None:
        if own := self.own():
            own[0].write(release(own[1], "nondeterminism"))

    def continue_as_new(self) -> None:
        if own := self.own():
            own[0].write(go_on(own[1]))

    def start_children(self) -> None:
        if own := self.own():
            worker, one = own
            self.claimed.append(own)
            worker.write(child(one, self.place()), children(one, self.place(), 3))

    def cancel(self) -> None:
        if run := self.any_run():
            self.sql.cancel(run, force=self.chance.random() < 0.5)

    def redo(self) -> None:
        if run := self.any_run("outcome"):
            how = self.chance.choice(("resume", "retry", "retry", "rewind"))
            at = ", (select min(place) from rowlock.steps where run_id = %(run)s)"
            self.sql.connection.execute(
                f"select rowlock.{how}(%(run)s{at if how == 'rewind' else ''})".encode(),
                {"run": run},
            )

    def fork(self) -> None:
        if run := self.any_run("outcome"):
            self.sql.fork(run)

    def move(self) -> None:
        """To another queue, as only a ready task may be."""
        if run := self.any_run():
            self.sql.run(
                "update rowlock.task set queue = %s where run_id = %s and state = 'ready'",
                self.chance.choice(QUEUES),
                run,
            )

    def give_up(self) -> None:
        """A worker dies, and one of its runs is taken for what killed it."""
        worker = self.claimed[0][0] if self.claimed else self.workers[0][2]
        [(app, version)] = [each[:2] for each in self.workers if each[2] is worker]
        self.world.expire(worker)
        self.sql.reap(limit=self.chance.randint(1, 3), max_takeovers=self.chance.choice((1, 3)))
        self.claimed = [(each, one) for each, one in self.claimed if each is not worker]
        self.workers.remove((app, version, worker))
        [number] = self.sql.call(
            REGISTER_WORKER,
            app=app,
            version=version,
            host="test",
            pid=1,
            slots=100,
            queues=None,
            lease=3600.0,
        )
        self.workers.append((app, version, self.world.connect_again(number)))

    def let_time_pass(self) -> None:
        """As tests do: all that is there grows older, ids don't."""
        self.sql.run("update rowlock.run set created_at = created_at - interval '3 days'")

    def any_run(self, table: str = "task") -> UUID | None:
        run: UUID | None = self.sql.ask(
            f"select run_id from rowlock.{table} order by md5(run_id::text || %s) limit 1",
            str(self.chance.random()),
        )
        return run

    # --- what is asked for

    def values(self) -> dict[str, list[Any]]:
        """What to filter by."""
        times = [
            at + self.chance.choice((timedelta(0), timedelta(microseconds=1), timedelta(seconds=1)))
            for (at,) in self.sql.run("select distinct created_at from rowlock.run order by 1")
        ]
        parents = self.sql.run(
            "select distinct parent_id from rowlock.run where parent_id is not null"
        )
        return {
            "app": list(APPS),
            "status": list(map(str, STATUSES)),
            "workflow": list(WORKFLOWS),
            "queue": list(QUEUES),
            "version": ["v1", "v2"],
            "key": [f"key-{n}" for n in range(9)],
            "parent_id": [UUID(int=7), *(parent for (parent,) in parents)],
            "attributes": [*ATTRIBUTES, {}, {"nobody": True}],
            "created_after": times,
            "created_before": times,
        }


@pytest.mark.parametrize("seed", range(12))
def test_a_list_is_what_the_view_says(world: World, seed: int) -> None:
    life = Life(world, seed)
    life.live()
    sql, chance, values = life.sql, life.chance, life.values()
    assert sql.run(STANDS_ONCE) == []
    asked: list[dict[str, Any]] = [{}]
    asked += [{name: value} for name in FILTERS for value in values[name]]
    for _ in range(60):
        names = chance.sample(FILTERS, chance.randint(2, 4))
        asked.append({name: chance.choice(values[name]) for name in names})
    for filters in asked:
        wanted = expected(sql, **filters)
        for limit in (1, chance.randint(2, 9)):
            assert paged(sql, limit, **filters) == wanted, (limit, filters)


# --- what is refused, and what an empty page means


@pytest.mark.parametrize("limit", [0, -1, 1001, None])
def test_a_limit_out_of_bounds_is_refused(world: World, limit: int | None) -> None:
    with pytest.raises(psycopg.Error, match="must be between 1 and 1000") as refused:
        world.anybody.run('select from rowlock.list_runs("limit" => %s)', limit)
    assert refused.value.sqlstate == "RLV02"


def test_a_status_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(psycopg.Error, match="there is no status sleeping") as refused:
        listed(world.anybody, status="sleeping")
    assert refused.value.sqlstate == "RLV02"
    for status in STATUSES:
        assert status in (refused.value.diag.message_hint or "")
        assert listed(world.anybody, status=str(status)) == []


def test_attributes_that_are_no_object_are_refused(world: World) -> None:
    with pytest.raises(psycopg.Error, match="not a JSON object") as refused:
        listed(world.anybody, attributes="[1]")
    assert refused.value.sqlstate == "RLV01"


UNKNOWN = {
    "app": ("RLN07", "there is no app typo", "bank, shop"),
    "workflow": ("RLN05", "no app has workflow typo", "fulfil, invoice, lend"),
    "queue": ("RLN01", "no app has queue typo", "default, other"),
    "version": ("RLN02", "no app has version typo", "v1"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_empty_page_of_a_name_that_nobody_knows_is_refused(world: World, name: str) -> None:
    show_bank(world)
    code, message, known = UNKNOWN[name]
    slip: dict[str, Any] = {name: "typo"}
    with pytest.raises(psycopg.Error, match=message) as refused:
        listed(world.anybody, **slip)
    assert refused.value.sqlstate == code
    assert f"There are: {known}." in (refused.value.diag.message_hint or "")


def test_a_name_of_another_app_is_unknown_in_this_one(world: World) -> None:
    show_bank(world)
    assert listed(world.anybody, workflow="lend") == []
    assert listed(world.anybody, workflow="lend", app="bank") == []
    with pytest.raises(psycopg.Error, match="app shop has no workflow lend"):
        listed(world.anybody, workflow="lend", app="shop")
    with pytest.raises(psycopg.Error, match="app shop has no version v1"):
        listed(world.anybody, version="v1", app="shop")


def test_of_many_known_names_a_few_are_told(world: World) -> None:
    names = [f"queue-{n:02}" for n in range(30)]
    world.anybody.call(SHOW_APP, app="bank", queues=names, workflows=[], workflow_queues=[])
    with pytest.raises(psycopg.Error) as refused:
        listed(world.anybody, app="bank", queue="typo")
    assert (refused.value.diag.message_hint or "").endswith("queue-09, ….")


@pytest.mark.parametrize("ended", [False, True])
def test_a_name_that_some_run_has_is_known(world: World, ended: bool) -> None:
    """A run may be of a workflow, and wait in a queue, that nobody has declared."""
    run = world.anybody.ask("select rowlock.start('undeclared', app => 'lonely')")
    names: dict[str, Any] = {"workflow": "undeclared", "queue": "default", "app": "lonely"}
    if ended:
        world.anybody.cancel(run)
    status = "failed"
    for name, value in names.items():
        assert listed(world.anybody, **{name: value}) == [run]
        assert listed(world.anybody, **{name: value}, status=status) == []
    assert listed(world.anybody, status=status, **names) == []


def show_bank(world: World) -> None:
    world.anybody.call(
        SHOW_APP, app="bank", queues=["default"], workflows=["lend"], workflow_queues=["default"]
    )
    world.anybody.run("insert into rowlock.version (app, name) values ('bank', 'v1')")


# --- databases that are older than lists


HISTORY = """
insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)
select id, now(), 50, 'shop', 'fulfil', 'default', '{}' from unnest(%(runs)s::uuid[]) as id;
insert into rowlock.outcome
      (run_id, finished_at, generation, epoch, app, workflow, queue, version, status)
select %(runs)s[x.nth], now(), x.generation, 1, 'shop', 'fulfil', 'default', '', x.status
  from (values (1, 1, 'failed'), (1, 2, 'succeeded'), (2, 1, 'cancelled'), (3, 1, 'continued'),
               (3, 2, 'failed')) as x (nth, generation, status);
insert into rowlock.generation (run_id, created_at, generation, reason, input)
select %(runs)s[x.nth], now(), 2, x.reason, '{}'
  from (values (1, 'retry'), (2, 'resume'), (3, 'continued')) as x (nth, reason);
insert into rowlock.task (run_id, due_at, generation, priority, state, app, queue, workflow)
select %(runs)s[2], now(), 2, 50, 'ready', 'shop', 'default', 'fulfil'
"""


def test_what_was_redone_before_is_marked_by_the_migration(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    retried, resumed, continued = runs = [UUID(int=n) for n in (1, 2, 3)]
    with monkeypatch.context() as patch:
        known = migrations.steps()
        patch.setattr(migrations, "steps", lambda: known[:4])
        patch.setattr(migrations, "functions", lambda: Change(None, "functions", "select 1"))
        patch.setattr(migrations, "LEVEL", 4)
        assert migrations.migrate(empty_database).level == 4
    with psycopg.connect(empty_database, autocommit=True) as connection:
        for statement in HISTORY.split(";\n"):
            connection.execute(statement.encode(), {"runs": runs})
        migrations.migrate(empty_database)
        assert connection.execute(STANDS_ONCE.encode()).fetchall() == []
        for status, wanted in {
            "failed": [continued],
            "succeeded": [retried],
            "cancelled": [],
            "ready": [resumed],
        }.items():
            listed = connection.execute(
                'select run_id from rowlock.list_runs(status => %s, "limit" => 1)', [status]
            ).fetchall()
            assert [run for (run,) in listed] == wanted, status
