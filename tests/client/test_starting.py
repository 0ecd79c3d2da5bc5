"""The rarer options of a start mean the same by every face: async, blocking, `call.sql()`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack
from uuid import UUID

import asyncpg
import psycopg
import pytest

from rowlock import App, Client, Debounce, Dedup, Settings
from rowlock.codecs import Zlib
from rowlock.errors import ConfigurationError, Refused
from rowlock.starting import StartOptions
from workers.until import Sql

app = App("starting", codec=Zlib())
tenants = app.queue("tenants")
LONG = "word " * 1000
AT = datetime(2090, 1, 2, 3, 4, 5, tzinfo=UTC)
Start = Callable[[str, StartOptions], Awaitable[UUID]]


@app.workflow
async def echo(text: str) -> str:
    return text


def by_client(url: str) -> Start:
    async def start(text: str, options: StartOptions) -> UUID:
        async with app.client(Settings(database_url=url)) as client:
            return (await client.start(echo(text), **options)).id

    return start


def by_start_many(url: str) -> Start:
    async def start(text: str, options: StartOptions) -> UUID:
        async with app.client(Settings(database_url=url)) as client:
            [run] = await client.start_many([echo(text)], **options)
            return run.id

    return start


def by_blocking_client(url: str) -> Start:
    async def start(text: str, options: StartOptions) -> UUID:
        with app.blocking_client(Settings(database_url=url)) as client:
            return client.start(echo(text), **options).id

    return start


def by_sql(url: str) -> Start:
    async def start(text: str, options: StartOptions) -> UUID:
        said = echo(text).sql(style="numeric", **options)
        connection = await asyncpg.connect(url)
        try:
            run_id: UUID = await connection.fetchval(said.text, *said.parameters)
        except asyncpg.PostgresError as error:
            raise Refused(error.args[0], error.sqlstate or "", None) from None
        finally:
            await connection.close()
        return run_id

    return start


@pytest.fixture(params=[by_client, by_start_many, by_blocking_client, by_sql])
async def start(
    request: pytest.FixtureRequest, database: str, sql: Sql
) -> Callable[[str, Unpack[StartOptions]], Awaitable[UUID]]:
    async with app.client(Settings(database_url=database)):
        pass  # which shows the app
    sql("update rowlock.queue set partitions = true where name = 'tenants'")
    way: Start = request.param(database)

    async def start(text: str, **options: Unpack[StartOptions]) -> UUID:
        return await way(text, options)

    return start


async def test_partition_and_the_time_to_begin_by(start: Any, database: str) -> None:
    run_id = await start("x", queue="tenants", partition="acme", start_before=AT)
    async with Client(Settings(database_url=database), app="starting", codec=Zlib()) as client:
        info = await client.run(run_id).info()
    assert (info.queue, info.partition, info.start_before) == ("tenants", "acme", AT)
    with pytest.raises(Refused, match="queue default of app starting has no partitions"):
        await start("x", partition="acme")
    with pytest.raises(ConfigurationError, match="start_before is 2090"):
        await start("x", start_before=AT.replace(tzinfo=None))


async def test_dedup_with_each_policy(start: Any, sql: Sql) -> None:
    first = await start("x", dedup="customer-7")
    assert await start("x", dedup=Dedup("customer-7")) == first
    with pytest.raises(Refused, match=f"run {first} of echo has the dedup key") as told:
        await start("x", dedup=Dedup("customer-7", "reject"))
    assert told.value.sqlstate == "RLS06"
    second = await start("x", dedup=Dedup("customer-7", "replace"))
    assert sql("select run_id, status, dedup from rowlock.runs order by 1") == [
        (first, "cancelled", "customer-7"),
        (second, "ready", "customer-7"),
    ]


async def test_debounce_takes_the_last_input_as_it_is_stored(start: Any, sql: Sql) -> None:
    how = Debounce("page-7", timedelta(hours=1), most=7200)
    first = await start("early " * 1000, debounce=how)
    assert await start(LONG, debounce=how) == first
    [[stored, quiet, debounce]] = sql(
        "select input -> 'text', due_at > now() + interval '50 minutes', debounce from rowlock.runs"
    )
    assert stored["$codec"] == "zlib"
    assert (quiet, debounce) == (True, "page-7")


async def test_an_open_transaction_of_ours_starts_it_or_not(database: str, sql: Sql) -> None:
    async with app.client(Settings(database_url=database)) as client:
        connection = await psycopg.AsyncConnection.connect(database)
        lost = await client.start(echo("x"), dedup="k", connection=connection)
        await connection.rollback()
        kept = await client.start(echo("x"), dedup="k", connection=connection)
        await connection.commit()
        await connection.close()
    assert lost.id != kept.id
    assert sql("select id from rowlock.run") == [(kept.id,)]
