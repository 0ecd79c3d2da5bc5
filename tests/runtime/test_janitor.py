"""Every worker removes what the policies don't keep any longer; nothing depends on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from rowlock import App, Settings
from rowlock.runtime import janitor
from rowlock.runtime.janitor import Janitor
from rowlock.store.connection import Session
from rowlock.telemetry.observer import Observer
from runtime.bench import Open
from workers.until import Sql

app = App("tidy")


@app.workflow
async def echo(value: int) -> int:
    return value


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "LOOK_EVERY_S", 0.02)


def grow_old(sql: Sql) -> None:
    """All that has ended did so a day ago, and nobody has walked over it since."""
    sql("update rowlock.outcome set finished_at = finished_at - interval '1 day'")
    name = sql.one("select current_database()")
    sql(f"alter database {name} set rowlock.test_offset = '1 day'")
    sql("update rowlock.retention_walk set next_at = clock_timestamp()")


def keep(sql: Sql, *, archive: bool = False) -> None:
    sql("select rowlock.show_app('tidy', '{default}', '{}', '{}')")  # known, before it works
    sql("select rowlock.set_retention('1 hour', archive => %s, app => 'tidy')", archive)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def runs(sql: Sql) -> int:
    return int(sql.one("select count(*) from rowlock.run"))


def connections(sql: Sql) -> int:
    return int(
        sql.one(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = 'rowlock janitor'"
        )
    )


class Batches(Observer):
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def removed(self, runs: int) -> None:
        self.sizes.append(runs)


@asynccontextmanager
async def working(database: str) -> AsyncIterator[Batches]:
    """A janitor by itself, and what it tells its observer."""
    settings = Settings(database_url=database)
    batches = Batches()
    control = Session(settings, "control")
    service = asyncio.create_task(Janitor(settings, control, batches).run())
    try:
        yield batches
    finally:
        service.cancel()
        with suppress(asyncio.CancelledError):
            await service
        await control.close()


async def test_a_worker_removes_what_is_old_by_itself(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        keep(sql)
        assert await work.result(echo(1)) == 1
        await work.start(echo(2), key="stays for a day")
        await until(lambda: sql.one("select count(*) from rowlock.outcome") == 2)
        grow_old(sql)
        await until(lambda: runs(sql) == 0)
        assert await work.result(echo(3)) == 3


async def test_batch_by_batch_and_counted_over_a_connection_that_goes_again(
    database: str, sql: Sql, bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 3)
    async with bench(app) as work:
        await asyncio.gather(*(work.result(echo(n)) for n in range(10)))
    keep(sql)
    grow_old(sql)
    async with working(database) as batches:
        await until(lambda: batches.sizes == [3, 3, 3, 1])
        assert runs(sql) == 0
        await until(lambda: connections(sql) == 0)
        assert sql.one("select next_at > clock_timestamp() from rowlock.retention_walk")


async def test_what_is_to_be_archived_is_left_to_who_archives(
    database: str, sql: Sql, bench: Open
) -> None:
    async with bench(app) as work:
        await work.result(echo(1))
    keep(sql, archive=True)
    grow_old(sql)
    asked = "select coalesce(sum(calls), 0) from pg_stat_statements where query like '%house_due%'"
    sql("create extension if not exists pg_stat_statements")
    before = sql.one(asked)
    async with working(database):
        await until(lambda: sql.one(asked) > before + 5)
        assert sql.one("select count(*) from rowlock.retention_walk") == 0, "it has begun no walk"
    assert runs(sql) == 1


async def test_what_fails_is_told_and_tried_again_and_hurts_nobody(
    bench: Open, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    def warned() -> bool:
        told = {r.levelno for r in caplog.records if "could not be removed" in r.getMessage()}
        return told == {logging.WARNING}

    keep(sql)
    sql("alter function rowlock.keep_house(integer) rename to keep_house_away")
    async with bench(app, noise=("could not be removed",)) as work:
        assert await work.result(echo(1)) == 1
        grow_old(sql)
        await until(warned)
        assert await work.result(echo(2)) == 2
        sql("alter function rowlock.keep_house_away(integer) rename to keep_house")
        grow_old(sql)
        await until(lambda: runs(sql) == 0)
