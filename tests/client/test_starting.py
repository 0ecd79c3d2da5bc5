"""The rarer options of a start mean the same by every face: async, blocking, `call.sql()`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Unpack
from uuid import UUID

import asyncpg
import psycopg
import pytest

from rowlock import App, Batch, Client, Debounce, Dedup, Settings, call
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


plain = App("plain")


@plain.workflow
async def index(pages: list[int], site: str = "here") -> int:
    return sum(pages)


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


async def test_what_a_codec_wrote_is_not_gathered(start: Any, sql: Sql) -> None:
    with pytest.raises(Refused, match="its argument text was written by a codec") as told:
        await start(LONG, batch=Batch("pages"))
    assert told.value.sqlstate == "RLV01"
    assert sql("select count(*) from rowlock.run") == [(0,)]


async def test_a_batch_is_one_by_every_face(database: str, sql: Sql) -> None:
    how = Batch("pages", size=10, wait=timedelta(hours=1))
    said = index([5]).sql(style="named", batch=how)
    assert said.parameters["wait"] == 3600
    async with plain.client(Settings(database_url=database)) as client:
        first = await client.start(index([1]), batch=how)
        second, third = await client.start_many([index([2]), index([3, 4])], batch=how)
        by_name = call("index", pages=[6], site="here")
        fourth = await client.start(by_name, batch=how)
        with plain.blocking_client(Settings(database_url=database)) as blocking:
            fifth = await asyncio.to_thread(blocking.start, index([7]), batch=how)
        numeric = index([5]).sql(style="numeric", batch=how)
        connection = await asyncpg.connect(database)
        sixth = await connection.fetchval(numeric.text, *numeric.parameters)
        await connection.close()
        assert {one.id for one in (first, second, third, fourth, fifth)} == {first.id} == {sixth}
        info = await first.info()
        assert (info.batch, info.status) == ("pages", "scheduled")
        assert info.input == {"pages": [1, 2, 3, 4, 6, 7, 5], "site": "here"}
        with pytest.raises(Refused, match="arguments beside the list pages are not those of run"):
            await client.start(index([8], site="there"), batch=how)
        with pytest.raises(Refused, match="a size of 0"):
            await client.start(index([8]), batch=Batch("pages", 0))


async def test_a_worker_takes_batches_that_are_full_and_those_that_waited(database: str) -> None:
    settings = Settings(database_url=database)
    async with plain.client(settings) as client, plain.worker(settings=settings):
        full = Batch("full", size=3, wait=timedelta(days=1))
        runs = [await client.start(index([n]), batch=full) for n in range(6)]
        assert [await run.result(60) for run in runs] == [3, 3, 3, 12, 12, 12]
        waited = [await client.start(index([n]), batch=Batch("soon", 1000, 0.2)) for n in (1, 2)]
        sums = {run.id: await run.result(60) for run in waited}
        assert sum(sums.values()) == 3


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
