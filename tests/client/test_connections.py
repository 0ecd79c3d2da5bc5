"""In the caller's own transaction, whatever his driver: it commits or vanishes with the rest."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext import asyncio as sa_asyncio

from client.drivers import ASYNC, SYNC, Caller, django_database, done, play, sqlalchemy_url
from rowlock import App, Settings
from rowlock.errors import InvalidValue, MisplacedCall, Refused, UnknownRun
from runtime.bench import Open
from workers.until import Sql

app = App("connections")
app.queue("other")
KINDS = SYNC | ASYNC
MONTH = timedelta(days=30)
every_kind = pytest.mark.parametrize("kind", KINDS)


@app.step
async def fetch(n: int) -> int:
    return n


@app.workflow
async def adds(n: int, note: str = "") -> int:
    return n + await fetch(1)


@app.workflow
async def fails() -> None:
    await fetch(1)
    raise ValueError("no luck")


def client_of(kind: str, database: str) -> Any:
    settings = Settings(database_url=database)
    return app.client(settings) if kind in ASYNC else app.blocking_client(settings)


class Playing:
    """A client and a caller with a transaction of his own, both of one kind.

    ``elsewhere``: the caller's database, where it is another.
    """

    def __init__(self, kind: str, database: str, elsewhere: str | None = None) -> None:
        self._kind = kind
        self._database = database
        self._elsewhere = elsewhere or database

    async def __aenter__(self) -> tuple[Any, Caller]:
        self._client = client_of(self._kind, self._database)
        self._opened = KINDS[self._kind](self._elsewhere)
        opening = "__aenter__" if self._kind in ASYNC else "__enter__"
        return await done(getattr(self._client, opening)()), await self._opened.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._opened.__aexit__(*error)
        finally:
            ending = "__aexit__" if self._kind in ASYNC else "__exit__"
            await done(getattr(self._client, ending)(*error))


def everything(sql: Sql) -> dict[str, list[Any]]:
    """All that Rowlock's tables hold."""
    tables = sql("select tablename from pg_tables where schemaname = 'rowlock' order by 1")
    return {
        name: sql(f"select row_to_json(x)::text from rowlock.{name} as x order by 1")
        for (name,) in tables
        if name not in ("listener", "queue_gate")
    }


async def three_failed(bench: Open) -> list[UUID]:
    async with bench(app) as work:
        runs = [await work.start(fails()) for _ in range(3)]
        for run in runs:
            await work.error_of(run)
        return [run.id for run in runs]


async def all_there_is(client: Any, tx: Any, old: dict[str, UUID]) -> list[UUID]:
    """Whatever can be done in a transaction of the caller's; gives what was started."""
    runs = {name: client.run(run_id) for name, run_id in old.items()}
    due = datetime.now(UTC) + MONTH
    started = [
        await done(client.start(adds(1, "é %s :x"), key="it's %", start_at=due, connection=tx)),
        await done(
            client.start(
                adds(2),
                queue="default",
                priority=7,
                delay=MONTH,
                deadline=60,
                attributes={"a": "%(b)s :c"},
                connection=tx,
            )
        ),
        *await done(
            client.start_many([adds(3), adds(4)], keys=["k", None], delay=1.5, connection=tx)
        ),
    ]
    await done(runs["waits"].send("topic", {"word": ":yes"}, key="m1", connection=tx))
    await done(runs["waits"].send("topic", None, connection=tx))
    await done(runs["waits"].set_event("seen", [1, "%"], connection=tx))
    assert await done(runs["waits"].emit("log", {"at": "%s"}, connection=tx)) == 0
    await done(runs["waits"].cancel(reason="enough: %s", connection=tx))
    await done(runs["unbegun"].cancel(grace=0, force=True, connection=tx))
    await done(runs["cancelled"].resume(connection=tx))
    await done(runs["failed 1"].retry(connection=tx))
    await done(runs["failed 2"].rewind("1", connection=tx))
    started.append(
        await done(runs["failed 3"].fork("1", version="v1", children=True, connection=tx))
    )
    await done(runs["goes"].delete(connection=tx))
    await done(runs["moves"].reprioritise(3, connection=tx))
    await done(runs["moves"].reschedule(due, connection=tx))
    await done(runs["moves"].move("other", connection=tx))
    await done(client.pause(queue="other", reason="50% :off", connection=tx))
    await done(client.pause(workflow="fails", connection=tx))
    await done(client.unpause(workflow="fails", connection=tx))
    await done(client.promote("v1", connection=tx))
    await done(client.retire("v0", connection=tx))
    [worker] = await done(client.workers())
    await done(client.drain_worker(worker.worker_id, connection=tx))
    return [run.id for run in started]


@every_kind
def test_it_commits_or_vanishes_with_the_rest(
    kind: str, database: str, bench: Open, sql: Sql
) -> None:
    sql("create table mine (n int)")
    failed = asyncio.run(three_failed(bench))
    with app.blocking_client(Settings(database_url=database)) as client:
        later = [client.start(adds(n), delay=MONTH).id for n in range(5)]
        for run_id in later[2], later[4]:
            client.run(run_id).cancel()
    for version in ("v0", "v1"):
        sql("select rowlock.register_worker('connections', %s, 'h', 1, 1, null, '1 hour')", version)
    sql("delete from rowlock.worker where version = 'v0'")
    names = ("failed 1", "failed 2", "failed 3", "waits", "unbegun", "cancelled", "moves", "goes")
    old = dict(zip(names, [*failed, *later], strict=True))
    before = everything(sql)

    async def scene() -> list[UUID]:
        async with Playing(kind, database) as (client, caller):
            await all_there_is(client, caller.connection, old)
            await done(caller.roll_back())
            assert everything(sql) == before
            started = await all_there_is(client, caller.connection, old)
            assert everything(sql) == before
            await done(caller.commit())
            return started

    started = play(kind, scene())
    assert all(type(run_id) is UUID for run_id in started)
    assert look(sql, started) == [
        ("adds", {"n": 1, "note": "é %s :x"}, "it's %", 50, None, "scheduled"),
        ("adds", {"n": 2, "note": ""}, None, 7, {"a": "%(b)s :c"}, "scheduled"),
        ("adds", {"n": 3, "note": ""}, "k", 50, None, "scheduled"),
        ("adds", {"n": 4, "note": ""}, None, 50, None, "scheduled"),
        ("fails", {}, None, 50, None, "ready"),
    ]
    assert sql("select topic, value::text, key from rowlock.message order by id") == [
        ("topic", '{"word": ":yes"}', "m1"),
        ("topic", "null", None),
    ]
    assert sql("select name, value::text from rowlock.event") == [("seen", '[1, "%"]')]
    found = dict(sql("select run_id, status from rowlock.runs"))
    assert {name: found.get(run_id) for name, run_id in old.items()} == {
        "failed 1": "ready",
        "failed 2": "ready",
        "failed 3": "failed",
        "waits": "cancelled",
        "unbegun": "cancelled",
        "cancelled": "ready",
        "moves": "scheduled",
        "goes": None,
    }
    moved = sql.one("select (queue, priority)::text from rowlock.runs where run_id = %s", later[3])
    assert moved == "(other,3)"
    assert sql("select queue, workflow, reason from rowlock.pauses") == [
        ("other", None, "50% :off")
    ]
    assert sql(
        "select version, current, retired_at is not null from rowlock.versions order by version"
    ) == [("v0", False, True), ("v1", True, False)]
    assert sql("select draining from rowlock.workers") == [(True,)]
    assert sql.one("select error::text from rowlock.outcome where run_id = %s", old["waits"])


def look(sql: Sql, ids: list[UUID]) -> list[tuple[Any, ...]]:
    return sql(
        "select r.workflow, r.input, r.key, r.priority, r.attributes, r.status"
        " from unnest(%s::uuid[]) with ordinality as x (id, n)"
        " join rowlock.runs as r on r.run_id = x.id order by x.n",
        ids,
    )


@every_kind
def test_a_refusal_is_the_same_from_every_driver(kind: str, database: str, sql: Sql) -> None:
    unknown = uuid4()

    async def scene() -> None:
        async with Playing(kind, database) as (client, caller):
            for options, state, why in (
                ({"queue": "nowhere"}, "RLN01", "names queue nowhere"),
                ({"priority": 101}, "RLV01", "priority of 101, but it must"),
                ({"key": ""}, "RLV01", "key that is empty"),
            ):
                with pytest.raises(Refused, match=why) as refused:
                    await done(client.start(adds(1), connection=caller.connection, **options))
                await done(caller.roll_back())
                with pytest.raises(Refused) as alone:
                    await done(client.start(adds(1), **options))
                assert str(refused.value) == str(alone.value)
                assert refused.value.sqlstate == alone.value.sqlstate == state
                assert refused.value.hint == alone.value.hint
                assert str(refused.value.hint).startswith("Nothing was started.")
            with pytest.raises(UnknownRun) as nobody:
                await done(client.run(unknown).send("topic", 1, connection=caller.connection))
            assert nobody.value.run_id == unknown
            await done(caller.roll_back())

    play(kind, scene())
    assert sql.one("select count(*) from rowlock.run") == 0


@every_kind
def test_what_a_refusal_does_to_the_callers_transaction(kind: str, database: str, sql: Sql) -> None:
    """PostgreSQL aborts it, a savepoint saves it; what is refused unsent does nothing."""

    async def scene() -> None:
        async with Playing(kind, database) as (client, caller):
            tx = caller.connection
            await done(client.start(adds(1), key="first", connection=tx))
            with pytest.raises(InvalidValue):
                await done(client.start(adds(1), attributes={"x": object()}, connection=tx))
            with pytest.raises(MisplacedCall):
                await done(client.start("adds", connection=tx))
            with pytest.raises(Refused):
                async with caller.nested():
                    await done(client.start(adds(2), queue="nowhere", connection=tx))
            await done(client.start(adds(3), key="third", connection=tx))
            await done(caller.commit())
            with pytest.raises(Refused):
                await done(client.start(adds(4), queue="nowhere", connection=tx))
            with pytest.raises(Exception, match="aborted"):  # the driver's own error
                await done(client.start(adds(5), connection=tx))
            await done(caller.roll_back())

    play(kind, scene())
    assert sql("select key from rowlock.run order by key") == [("first",), ("third",)]


def test_a_database_without_rowlock_says_what_to_do(database: str, empty_database: str) -> None:
    async def scene(kind: str) -> None:
        async with Playing(kind, database, empty_database) as (client, caller):
            with pytest.raises(Refused, match=r"not ready for Rowlock.*rowlock migrate"):
                await done(client.start(adds(1), connection=caller.connection))
            await done(caller.roll_back())

    for kind in KINDS:
        play(kind, scene(kind))


def test_what_happens_to_the_callers_transaction_is_told_as_his_driver_tells_it(
    database: str, sql: Sql
) -> None:
    sql(
        "insert into rowlock.run_key (app, key, run_id)"
        " values ('connections', 'held', gen_random_uuid())"
    )
    sql(f"alter database \"{sql.connection.info.dbname}\" set lock_timeout = '10ms'")
    told: dict[str, str] = {}

    async def scene(kind: str) -> None:
        async with Playing(kind, database) as (client, caller):
            with pytest.raises(Exception, match="lock timeout") as timed_out:
                await done(client.start(adds(1), key="held", connection=caller.connection))
            told[kind] = type(timed_out.value).__module__.partition(".")[0]
            await done(caller.roll_back())

    with psycopg.connect(database) as other:
        other.execute("delete from rowlock.run_key")
        for kind in KINDS:
            play(kind, scene(kind))
    assert told == {kind: kind.partition(" ")[0].strip(",").lower() for kind in KINDS}


async def test_an_async_client_refuses_what_is_not_for_it(database: str) -> None:
    async with app.client(Settings(database_url=database)) as client:
        run = await client.start(adds(1))
        engine = sa.create_engine(sqlalchemy_url(database, "psycopg"))
        with psycopg.connect(database) as plain, engine.connect() as connection:
            for wrong in (plain, connection, sa.orm.Session(engine), engine, "dsn", object()):
                with pytest.raises(MisplacedCall, match="needs psycopg's AsyncConnection") as no:
                    await client.start(adds(1), connection=wrong)
                assert "app.blocking_client()" in str(no.value)
                assert "call.sql()" in str(no.value)
                with pytest.raises(MisplacedCall, match="an async client can't use"):
                    await run.cancel(connection=wrong)
        engine.dispose()
        assert len(await client.runs()) == 1


async def test_a_blocking_client_refuses_what_is_not_for_it(database: str, sql: Sql) -> None:
    engine = sa_asyncio.create_async_engine(sqlalchemy_url(database, "asyncpg"))
    one, other = await psycopg.AsyncConnection.connect(database), sa_asyncio.AsyncSession(engine)
    with app.blocking_client(Settings(database_url=database)) as client:
        for wrong in (one, other, sa_asyncio.AsyncConnection(engine), "dsn", object()):
            with pytest.raises(MisplacedCall, match="needs psycopg's Connection") as no:
                client.start(adds(1), connection=wrong)
            assert "app.client()" in str(no.value)
    await one.close()
    await engine.dispose()
    assert sql.one("select count(*) from rowlock.run") == 0


def test_djangos_connection_to_another_database_is_refused(database: str, tmp_path: Any) -> None:
    from django.db import connection  # noqa: PLC0415  configured by now

    file = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    with (
        django_database(file),
        app.blocking_client(Settings(database_url=database)) as client,
        pytest.raises(MisplacedCall, match="ConnectionProxy to sqlite"),
    ):
        client.start(adds(1), connection=connection)
