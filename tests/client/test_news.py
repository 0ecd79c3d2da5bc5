"""Who waits long listens, and is told; nobody notifies while nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from rowlock import App, Client, Run, Settings
from rowlock.client import news
from rowlock.errors import EventNeverSet, ReceiveTimeout, ResultTimeout
from runtime.bench import Bench, Open, until
from workers.until import Sql

app = App("news")
DEADLINE_S = 25.0
NEVER_S = 3600.0


@app.workflow
async def obeys() -> str:
    """Does what it is told until it is told to end."""
    while True:
        what: str = await app.receive("do", str)
        if what == "end":
            return "ended"
        if what == "event":
            await app.set_event("said", what)
        elif what == "emit":
            await app.emit("log", what)
        elif what == "step emits":
            await emits()


@app.step
async def emits() -> None:
    await app.emit("log", "from a step")


@pytest.fixture
def only_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens looks again only when it is told."""
    monkeypatch.setattr(news, "MOST_S", NEVER_S)
    monkeypatch.setattr(news, "GROWTH", 1e9)


def watches(client: Client) -> list[news.Watch]:
    assert client._news is not None
    return [watch for all_of_one in client._news._watches.values() for watch in all_of_one]


async def deaf_to_time(client: Client, n: int = 1) -> None:
    """Wait until so many wait, and will not look by themselves."""
    await until(
        lambda: (
            [watch._pause_s for watch in watches(client)] == [NEVER_S] * n
            and all(not watch._told.is_set() for watch in watches(client))
        )
    )
    await asyncio.sleep(0.3)  # their last short pause is over, too


async def told(work: Bench, waits: Callable[[Run[str]], Awaitable[Any]], *orders: str) -> Any:
    run = await work.start(obeys())
    waiting = asyncio.ensure_future(waits(run))
    await deaf_to_time(work.client)
    for order in orders:
        await run.send("do", order)
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await waiting
    finally:
        waiting.cancel()
        if "end" not in orders:
            await run.send("do", "end")
        async with asyncio.timeout(DEADLINE_S):
            while await run.status() != "succeeded":
                await asyncio.sleep(0.02)


async def first_entry(run: Run[str]) -> Any:
    async for entry in run.stream("log"):
        return entry.value
    return None


@pytest.mark.usefixtures("only_told")
async def test_the_end_of_a_run_is_told(bench: Open) -> None:
    async with bench(app) as work:
        assert await told(work, lambda run: run.result(), "end") == "ended"


@pytest.mark.usefixtures("only_told")
async def test_an_event_is_told(bench: Open) -> None:
    async with bench(app) as work:
        assert await told(work, lambda run: run.event("said"), "event") == "event"


@pytest.mark.usefixtures("only_told")
async def test_that_there_will_be_no_event_is_told(bench: Open) -> None:
    async with bench(app) as work:
        with pytest.raises(EventNeverSet):
            await told(work, lambda run: run.event("said"), "end")


@pytest.mark.usefixtures("only_told")
@pytest.mark.parametrize("order", ["emit", "step emits"])
async def test_an_entry_of_a_stream_is_told(bench: Open, order: str) -> None:
    async with bench(app) as work:
        found = await told(work, first_entry, order)
        assert found == {"emit": "emit", "step emits": "from a step"}[order]


@pytest.mark.usefixtures("only_told")
@pytest.mark.parametrize(
    ("statement", "waits"),
    [
        ("select rowlock.set_event(%s, 'said', '1')", lambda run: run.event("said")),
        ("select rowlock.emit(%s, 'log', '1')", first_entry),
        ("select rowlock.cancel(%s)", lambda run: _cancelled(run)),
    ],
    ids=["event", "entry", "cancel of what never began"],
)
async def test_what_sql_does_is_told(
    database: str, sql: Sql, statement: str, waits: Callable[[Run[str]], Awaitable[Any]]
) -> None:
    async with app.client(Settings(database_url=database)) as client:
        run = await client.start(obeys())  # there is no worker
        waiting = asyncio.ensure_future(waits(run))
        await deaf_to_time(client)
        sql(statement, run.id)
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == 1


async def _cancelled(run: Run[str]) -> int:
    with pytest.raises(Exception, match="cancelled"):
        await run.result()
    return 1


@pytest.mark.usefixtures("only_told")
async def test_one_connection_and_one_row_serve_all_who_wait(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        runs = await work.client.start_many([obeys() for _ in range(30)])
        waiting = [asyncio.ensure_future(run.result()) for run in runs]
        await deaf_to_time(work.client, 30)
        assert sql("select count(*) from rowlock.listener") == [(1,)]
        listening = sql(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and query ilike 'listen %rowlock_news%'"
        )
        assert listening == [(1,)]
        for run in runs:
            await run.send("do", "end")
        async with asyncio.timeout(DEADLINE_S):
            assert await asyncio.gather(*waiting) == ["ended"] * 30
    assert sql("select count(*) from rowlock.listener") == [(0,)], "a client that closes says so"


@pytest.mark.usefixtures("only_told")
async def test_what_happened_while_the_listener_was_cut_off_is_found(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(obeys())
        waiting = asyncio.ensure_future(run.result())
        await deaf_to_time(work.client)
        sql("delete from rowlock.listener")  # nobody will tell
        await run.send("do", "end")
        await work.status(run, "succeeded")
        assert not waiting.done()
        sql(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query ilike 'listen %rowlock_news%'"
        )
        async with asyncio.timeout(DEADLINE_S):
            assert await waiting == "ended"


async def heard(ear: psycopg.Connection[Any], timeout: float, most: int | None = None) -> list[str]:
    listening = ear.notifies(timeout=timeout, stop_after=most)
    return [notice.payload for notice in await asyncio.to_thread(list, listening)]


async def test_nobody_notifies_while_nobody_listens(
    bench: Open, database: str, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "LISTENING_FROM_S", NEVER_S)
    ear = psycopg.connect(database, autocommit=True)
    ear.execute("listen rowlock_news")
    async with bench(app) as work:
        run = await work.start(obeys())
        await run.send("do", "emit")
        await run.send("do", "event")
        await run.send("do", "end")
        await run.result(DEADLINE_S)
        assert await heard(ear, 0.2) == []
        # One whose time is over is nobody, and is cleared away by the next who comes.
        sql("insert into rowlock.listener values (gen_random_uuid(), now() - interval '1 s')")
        other = await work.start(obeys())
        await other.send("do", "end")
        await other.result(DEADLINE_S)
        assert await heard(ear, 0.2) == []
        sql("select rowlock.listen(gen_random_uuid(), '1 hour')")
        assert sql("select count(*) from rowlock.listener") == [(1,)]
        third = await work.start(obeys())
        await third.send("do", "end")
        await third.result(DEADLINE_S)
        assert await heard(ear, 10, 1) == [str(third.id)]
    ear.close()


def test_many_runs_are_told_in_several_notifications(database: str, sql: Sql) -> None:
    with psycopg.connect(database, autocommit=True) as ear:
        ear.execute("listen rowlock_news")
        sql("select rowlock.listen(gen_random_uuid(), '1 hour')")
        sql("select rowlock.tell(array(select gen_random_uuid() from generate_series(1, 450)))")
        told_ids = [
            text for notice in ear.notifies(timeout=5, stop_after=3)
            for text in notice.payload.split(",")
        ]  # fmt: skip
        assert len(set(told_ids)) == 450


async def test_a_timeout_of_zero_looks_once(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(obeys())
        with pytest.raises(ResultTimeout):
            await run.result(0)
        with pytest.raises(ReceiveTimeout):
            await run.event("said", timeout=0)
        await run.send("do", "event")
        await run.send("do", "end")
        assert await run.result(DEADLINE_S) == "ended"
        assert await run.result(0) == "ended"
        assert await run.event("said", timeout=0) == "event"


async def test_a_role_that_may_not_listen_looks(
    bench: Open, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "GROWTH", 100)
    async with bench(app, noise=("can't listen",)) as work:
        sql("drop function rowlock.listen")
        run = await work.start(obeys())
        waiting = asyncio.ensure_future(run.result(DEADLINE_S))
        assert work.client._news is not None
        news_of = work.client._news
        await until(lambda: not news_of._can_listen)
        await run.send("do", "end")
        assert await waiting == "ended"
