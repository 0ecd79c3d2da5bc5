"""What callers do, with the types it has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from psycopg import AsyncConnection, Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from rowlock import (
    App,
    Batch,
    BlockingRun,
    Client,
    Debounce,
    Dedup,
    Run,
    RunInfo,
    Settings,
    WorkflowCall,
    call,
)
from rowlock.scheduling import next_ticks
from rowlock.starting import Sql
from rowlock.store.controls import Explanation

app = App("typed client", settings=Settings(database_url="postgresql://…"))


@app.workflow
async def fulfil(order: int, gift: bool = False) -> str:
    return f"{order} {gift}"


@app.schedule(timedelta(minutes=15), name="often", args={"order": 7}, overlap="queue")
@app.schedule("0 3 * * *", timezone="Europe/Berlin", jitter=30, args={"order": 8})
@app.workflow
async def nightly(order: int) -> str:
    return f"{order}"


async def schedules(client: Client, mine: AsyncConnection[Any]) -> None:
    assert_type(nightly(7), WorkflowCall[str])
    await client.create_schedule("tea", "0 16 * * *", nightly, args={"order": 9}, window=60)
    await client.create_schedule("tea", timedelta(hours=1), "by name", connection=mine)
    assert_type(await client.update_schedule("tea", when="0 17 * * *", overlap="allow"), bool)
    assert_type(await client.unset_schedule("tea", "end"), bool)
    assert_type(await client.pause_schedule("tea", reason="closed"), bool)
    assert_type(await client.resume_schedule("tea"), bool)
    assert_type(await client.trigger_schedule("tea"), Run[Any])
    assert_type(await client.backfill("tea", datetime.now(UTC), datetime.now(UTC)), int)
    await client.delete_schedule("tea")
    assert_type(await client.explain_schedule("tea"), Explanation)
    [row] = await client.schedules("tea")
    assert_type(row.next_tick, datetime | None)
    assert_type(next_ticks(row), list[datetime])
    with app.blocking_client() as blocking_client:
        assert_type(blocking_client.trigger_schedule("tea"), BlockingRun[Any])


async def starts(mine: AsyncConnection[Any], session: AsyncSession) -> None:
    async with app.client() as client, app.worker(slots=20, queues=["default"], grace=5) as worker:
        assert_type(worker.is_ready, bool)
        run = await client.start(fulfil(7), key="order-7")
        assert_type(run, Run[str])
        assert_type(run.id, UUID)
        assert_type(await run.result(), str)
        assert_type(await run.result(timedelta(seconds=5)), str)
        assert_type(await run.status(), str)
        assert_type(await run.info(), RunInfo)
        await client.start(
            fulfil(7, gift=True),
            queue="default",
            priority=5,
            delay=timedelta(hours=1),
            deadline=60.0,
            attributes={"customer": 42},
            connection=mine,
        )
        await client.start(fulfil(7), start_at=datetime.now(UTC), connection=session)
        await client.start(fulfil(7), partition="acme", start_before=datetime.now(UTC), dedup="k")
        await client.start(fulfil(7), dedup=Dedup("k", policy="replace"))
        await client.start_many([fulfil(7)], debounce=Debounce("k", 5, most=timedelta(minutes=1)))
        await client.start(fulfil(7), batch=Batch("k", size=10, wait=timedelta(minutes=1)))
        many = await client.start_many((fulfil(n) for n in range(3)), keys=["a", None, "c"])
        assert_type(many, list[Run[str]])
        assert_type(await client.runs(status="failed", limit=10), list[RunInfo])
        assert_type(await client.start(call("fulfil", order=7)), Run[Any])


async def handles(client: Client, run: Run[str]) -> None:
    await run.send("approval", True, key="click")
    await run.set_event("seen", [1, 2])
    assert_type(await run.event("progress", timeout=5), Any)
    assert_type(await run.event("progress", int | None, timeout=5), int | None)
    async for entry in run.stream("words", list[str], follow=False):
        assert_type(entry.offset, int)
        assert_type(entry.value, list[str])
        assert_type(entry.emitted_at, datetime)
    await run.cancel(grace=timedelta(seconds=3), reason="enough")
    await run.resume()
    await run.retry()
    await run.rewind("3", call=fulfil(8))
    assert_type(await run.fork("3", outcomes={"2": None}), Run[str])
    assert_type(client.run("018f0000-0000-7000-8000-000000000000"), Run[Any])
    assert_type(client.run(run.id, fulfil), Run[str])


def blocking(mine: Connection[Any], session: Session) -> None:
    with app.blocking_client() as client, app.blocking_worker():
        run = client.start(fulfil(7), key="order-7", connection=mine)
        assert_type(run, BlockingRun[str])
        assert_type(run.result(timeout=5), str)
        assert_type(client.start_many([fulfil(7)], connection=session), list[BlockingRun[str]])
        assert_type(run.fork(), BlockingRun[str])
        assert_type(run.event("progress", int), int)
        assert_type([entry.value for entry in run.stream("words", str)], list[str])
        assert_type(client.run(run.id, fulfil), BlockingRun[str])
    assert_type(fulfil(7).sql(key="k", style="numeric"), Sql)
    assert_type(fulfil(7).sql(dedup=Dedup("k"), style="numeric"), Sql)
