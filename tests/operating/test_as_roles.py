"""A worker and a client that are nobody special: each a plain role with the rights of its kind.

All the ways in which they speak to the database, with row-level security in force; what else a role
may or may not is in tests/store/test_roles.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from rowlock import App, Settings
from rowlock.errors import Refused, UnknownRun
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.tenure import WorkerOptions
from rowlock.store.roles import make_roles

PASSWORD = "of a test"
DEADLINE_S = 60

app = App("roles")
stranger = App("strangers")


@app.step
async def double(n: int) -> int:
    return 2 * n


@app.transaction
async def book(tx: AsyncConnection, n: int) -> int:
    await tx.execute("insert into public.book (n) values (%s)", [n])
    return n


@app.workflow
async def part(n: int) -> int:
    await app.sleep(0.05)
    return await double(n)


@app.workflow
async def listens() -> str:
    await app.set_event("ready", value=True)
    return await app.receive("word", str)


@app.workflow
async def everything(n: int) -> dict[str, Any]:
    group = await app.map(part(i) for i in range(n))
    alone = await part(7)
    keyed = await app.start_child(listens(), key="the listener")
    ready = await app.get_event(keyed.run_id, "ready", bool)
    await app.send(keyed.run_id, "word", "hello")
    heard = await keyed.result()
    await app.emit("log", "a line")
    return {
        "group": group,
        "alone": alone,
        "ready": ready,
        "heard": heard,
        "booked": await book(n),
        "at": (await app.now()).year,
    }


@app.workflow
async def waits() -> str:
    return await app.receive("never", str)


@stranger.workflow
async def theirs() -> str:
    return "theirs"


@pytest.fixture
def people(database: str) -> Iterator[dict[str, str]]:
    """URLs of a worker and a client of one app."""
    make_roles(database)
    roles = {"worker": "rowlock_test_worker", "client": "rowlock_test_client"}
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create table public.book (n integer)")
        for kind, role in roles.items():
            admin.execute(
                SQL("create role {} login password {} in role {}").format(
                    Identifier(role), PASSWORD, Identifier(f"rowlock_{kind}")
                )
            )
            admin.execute("select rowlock.grant_app(%s, 'roles')", [role])
        admin.execute("grant insert on public.book to rowlock_test_worker")
        yield {
            kind: make_conninfo(database, user=role, password=PASSWORD)
            for kind, role in roles.items()
        }
        for role in roles.values():
            admin.execute(SQL("drop owned by {0}; drop role {0}").format(Identifier(role)))


@asynccontextmanager
async def working(url: str) -> Any:
    # Short timers as rows too: so runs sleep, and are claimed and read again.
    options = WorkerOptions(slots=20, grace_s=2.0, in_memory_s=0.001)
    process = WorkerProcess(Settings(database_url=url, poll_seconds=0.5), app.code, options)
    work = asyncio.create_task(process.run(signals=False))
    try:
        yield process
    finally:
        process.drain()
        async with asyncio.timeout(DEADLINE_S):
            await work


async def test_a_worker_and_a_client_need_no_more_than_their_roles(
    people: dict[str, str], database: str
) -> None:
    async with (
        working(people["worker"]),
        app.client(Settings(database_url=people["client"])) as client,
    ):
        run = await client.start(everything(5), key="once")
        assert (await client.start(everything(5), key="once")).id == run.id
        result = await run.result(DEADLINE_S)
        assert result["group"] == [0, 2, 4, 6, 8]
        assert (result["alone"], result["ready"], result["heard"]) == (14, True, "hello")
        assert result["booked"] == 5
        assert len(await run.steps()) >= 8
        assert [entry.value async for entry in run.stream("log", str)] == ["a line"]

        stopped = await client.start(waits())
        await stopped.send("word", "not this one")
        await stopped.cancel()
        async with asyncio.timeout(DEADLINE_S):
            while await stopped.status() != "cancelled":
                await asyncio.sleep(0.02)
        assert {one.status for one in await client.runs()} == {"succeeded", "cancelled"}


async def test_what_a_client_may_not_is_said_so(people: dict[str, str], database: str) -> None:
    async with (
        stranger.client(Settings(database_url=database)) as owner,
        app.client(Settings(database_url=people["client"])) as client,
    ):
        hidden = await owner.start(theirs())
        with pytest.raises(UnknownRun):
            await client.run(hidden.id).status()
        with pytest.raises((UnknownRun, Refused)):
            await client.run(hidden.id).cancel()
        mine = await client.start(waits())
        with pytest.raises(Refused, match=r"permission denied.*docs/operations.md"):
            await mine.retry()
        assert [one.id for one in await client.runs()] == [mine.id]
