"""A server with two apps and a login role for each thing a role may be: for tests of rights.

Roles belong to a whole server, so it is one of its own. Nothing here runs as a superuser but what
looks on: the schema is owned by a plain role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

import postgres
from rowlock.embedded import Server
from rowlock.store.migrate import migrate
from rowlock.store.roles import make_roles

APPS = ("shop", "bank")
PASSWORD = "of a test"
CLASSES = ("client", "worker", "reader", "admin")
OWNER = "owner"
LOGINS: dict[str, str | None] = {
    "shop_client": "client",
    "shop_worker": "worker",
    "shop_reader": "reader",
    "the_admin": "admin",
    "nobody": None,
}
"""Login roles and what they are members of. All but the last two may use `shop`."""


@dataclass
class Estate:
    """The database, and what stands in it."""

    server: Server
    url: str
    look: psycopg.Connection[Any]
    """As the superuser: to see everything."""
    runs: dict[str, dict[str, UUID]] = field(default_factory=dict)
    """By app and by state, a run each."""
    workers: dict[str, int] = field(default_factory=dict)

    def url_of(self, role: str) -> str:
        return make_conninfo(self.url, user=role, password=PASSWORD)

    @contextmanager
    def as_(self, role: str) -> Iterator[psycopg.Connection[Any]]:
        """A connection of this role, in autocommit."""
        with psycopg.connect(self.url_of(role), autocommit=True) as connection:
            yield connection

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.look.execute(sql.encode(), values or None).fetchall()

    def all_rows(self) -> dict[str, list[Any]]:
        """Everything in every table, as JSON: to see that nothing changed."""
        tables = [
            name
            for [name] in self.rows(
                "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
                " and relkind = 'r' order by 1"
            )
        ]
        return {
            name: self.look.execute(
                SQL("select to_jsonb(x) from rowlock.{} as x order by to_jsonb(x)::text").format(
                    Identifier(name)
                )
            ).fetchall()
            for name in tables
        }


def make_logins(admin: psycopg.Connection[Any]) -> None:
    """The owner-to-be, and the login roles without what they are members of."""
    for role in (OWNER, *LOGINS):
        admin.execute(SQL("create role {} login password {}").format(Identifier(role), PASSWORD))
    admin.execute(SQL("alter role {} createrole").format(Identifier(OWNER)))


@contextmanager
def estate() -> Iterator[Estate]:
    with (
        postgres.running_server() as server,
        psycopg.connect(server.url("postgres"), autocommit=True) as admin,
    ):
        make_logins(admin)
        admin.execute(SQL("create database estate owner {}").format(Identifier(OWNER)))
        url = server.url("estate")
        owner = make_conninfo(url, user=OWNER, password=PASSWORD)
        migrate(owner)
        make_roles(owner)
        for role, kind in LOGINS.items():
            if kind is not None:
                admin.execute(
                    SQL("grant {} to {}").format(Identifier(f"rowlock_{kind}"), Identifier(role))
                )
        with psycopg.connect(url, autocommit=True) as look:
            made = Estate(server, url, look)
            for role in ("shop_client", "shop_worker", "shop_reader"):
                look.execute("select rowlock.grant_app(%s, 'shop')", [role])
            for app in APPS:
                _settle(made, app)
            yield made


def _settle(estate: Estate, app: str) -> None:
    """Queues, a version, a worker, and a run in every state, with something of every kind."""
    sql = estate.rows
    sql(
        "select rowlock.show_app(%s, array['default', 'slow'], array['fulfil', 'sort'],"
        " array['default', 'default'])",
        app,
    )
    sql(
        "update rowlock.queue set worker_concurrency = 100 where app = %s and name = 'slow'"
        " returning 1",
        app,
    )
    [[worker]] = sql(
        "select rowlock.register_worker(%s, 'v1', 'test', 1, 100, null, interval '1 hour')", app
    )
    sql("select rowlock.register_worker(%s, 'v0', 'test', 1, 100, null, interval '1 hour')", app)
    sql("select rowlock.promote(%s, 'v1')", app)
    estate.workers[app] = worker
    runs = estate.runs[app] = {}

    def start(state: str) -> UUID:
        [[run]] = sql(
            "select rowlock.start('fulfil', key => %s, app => %s, attributes => %s::jsonb)",
            state,
            app,
            f'{{"of": "{app}"}}',
        )
        runs[state] = run
        return UUID(str(run))

    ended = ("succeeded", "failed", "cancelled", "dead")
    for state in ("running", "waiting", "blocked", *ended):
        start(state)
    claimed = sql(
        "select run_id, epoch from rowlock.claim(%s, %s, 'v1', null, 100, false)", worker, app
    )
    for state in ("running", *ended):
        sql(
            "insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds,"
            " attempts, place, kind, name, output)"
            " values (%s, now(), 1, 1, 1, 0.1, 1, '1', 'step', 'charge', '1') returning 1",
            runs[state],
        )
    for state in ended:
        sql(
            "with gone as (delete from rowlock.task where run_id = %s returning *)"
            " insert into rowlock.outcome (run_id, finished_at, generation, epoch, app, workflow,"
            "  queue, version, status)"
            " select run_id, now(), 1, epoch, app, workflow, queue, 'v1', %s from gone"
            " returning 1",
            runs[state],
            state,
        )
    sql(
        "update rowlock.task set state = 'waiting', worker_id = null, epoch = epoch + 1,"
        " due_at = 'infinity' where run_id = %s returning 1",
        runs["waiting"],
    )
    sql(
        "insert into rowlock.wait (run_id, opened_at, generation, place, kind, name)"
        " values (%s, now(), 1, '1', 'message', 'approval') returning 1",
        runs["waiting"],
    )
    sql(
        "update rowlock.task set state = 'blocked', worker_id = null, epoch = epoch + 1,"
        ' reason = \'{"kind": "nondeterminism"}\' where run_id = %s returning 1',
        runs["blocked"],
    )
    start("ready")
    [[runs["scheduled"]]] = sql(
        "select rowlock.start('fulfil', delay => interval '1 day', app => %s,"
        " attributes => jsonb_build_object('of', %s::text))",
        app,
        app,
    )
    [[runs["child"]]] = sql(
        "select rowlock.start_many(jsonb_build_array(jsonb_build_object('workflow', 'fulfil',"
        " 'parent_id', %s::uuid, 'parent_generation', 1, 'parent_place', '1')), %s)",
        runs["running"],
        app,
    )
    sql("select rowlock.send(%s, 'other', '\"hello\"')", runs["waiting"])
    sql("select rowlock.set_event(%s, 'progress', '1')", runs["running"])
    sql("select rowlock.emit(%s, 'log', '\"line\"')", runs["running"])
    sql("select rowlock.cancel(%s)", runs["running"])
    sql("select rowlock.retry(%s)", start_failed(estate, app))
    sql("select rowlock.pause(workflow => 'sort', app => %s)", app)
    sql("select rowlock.set_retention(interval '1 hour', workflow => 'sort', app => %s)", app)
    sql("insert into rowlock.drain_request (worker_id) values (%s) returning 1", worker + 1)
    sql(
        "insert into rowlock.arrival (arrived_at, count, name) values (now(), 1, %s) returning 1",
        f"{runs['running']}:1:7",
    )
    sql("select rowlock.create_schedule('nightly', 'sort', '0 3 * * *', app => %s)", app)
    sql("select rowlock.backfill('nightly', '2026-01-01', '2026-01-02', %s)", app)
    sql(
        "insert into rowlock.schedule_run (app, name, run_id) values (%s, 'nightly', %s)"
        " returning 1",
        app,
        runs["ready"],
    )
    assert len(claimed) == 7


def start_failed(estate: Estate, app: str) -> UUID:
    """A run that has failed, to be retried."""
    [[run]] = estate.rows("select rowlock.start('fulfil', app => %s)", app)
    estate.rows(
        "with gone as (delete from rowlock.task where run_id = %s returning *)"
        " insert into rowlock.outcome (run_id, finished_at, generation, epoch, app, workflow,"
        "  queue, version, status)"
        " select run_id, now(), 1, epoch, app, workflow, queue, version, 'failed' from gone"
        " returning 1",
        run,
    )
    estate.runs[app]["retried"] = run
    return UUID(str(run))
