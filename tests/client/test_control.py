"""What whoever watches over runs can do, from async code and from code that is not."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from rowlock import App, Client, Settings
from rowlock.errors import ConfigurationError, Refused, UnknownRun
from runtime.bench import Bench, Open
from workers.until import Sql

app = App("control")
app.queue("slow")
DEADLINE_S = 25.0
begun: list[str] = []
go_on = asyncio.Event()


@app.workflow
async def notes(name: str) -> str:
    begun.append(name)
    return name


@app.workflow
async def waits() -> str:
    return await app.receive("go", str)


@app.step
async def lasts() -> None:
    await go_on.wait()


@app.workflow
async def works() -> None:
    await lasts()


@pytest.fixture(autouse=True)
def fresh() -> None:
    begun.clear()
    go_on.clear()


async def explained(work: Bench, run: object, cause: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await run.explain()).cause != cause:  # type: ignore[attr-defined]
            await asyncio.sleep(0.02)


async def test_a_paused_queue_holds_its_runs_back(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.client.pause(queue="slow", reason="the bank is closed")
        assert not await work.client.pause(queue="slow"), "it is paused already"
        held = await work.client.start(notes("held"), queue="slow")
        free = await work.client.start(notes("free"))
        assert await free.result(DEADLINE_S) == "free"
        why = await held.explain()
        assert why.cause == "queue_paused"
        assert "the bank is closed" in why.message
        queues = {row.queue: row for row in await work.client.queues()}
        assert queues["slow"].paused_at is not None
        assert queues["slow"].ready == 1
        assert queues["default"].paused_at is None
        assert await work.client.unpause(queue="slow")
        assert await held.result(DEADLINE_S) == "held"
        assert not await work.client.unpause(queue="slow")


async def test_a_paused_workflow_and_app(bench: Open) -> None:
    async with bench(app) as work:
        await work.client.pause(workflow="notes")
        held = await work.client.start(notes("held"))
        await work.status(held, "blocked")
        await work.client.unpause(workflow="notes")
        assert await held.result(DEADLINE_S) == "held"
        await work.client.pause()
        held = await work.client.start(notes("again"))
        await explained(work, held, "app_paused")
        await work.client.unpause()
        assert await held.result(DEADLINE_S) == "again"


async def test_runs_change_places(bench: Open) -> None:
    async with bench(app, slots=1) as work:
        await work.client.pause(queue="slow")
        later = datetime.now(UTC) + timedelta(hours=1)
        first, second, third, moved = [
            await work.client.start(notes(name), queue="slow")
            for name in ("first", "second", "third", "moved")
        ]
        assert await third.reprioritise(1)
        assert not await third.reprioritise(1)
        await first.reschedule(later)
        assert (await first.explain()).cause == "not_due"
        assert await moved.move("default")
        assert await moved.result(DEADLINE_S) == "moved"
        await work.client.unpause(queue="slow")
        assert await second.result(DEADLINE_S) == "second"
        assert begun == ["moved", "third", "second"]
        await first.reschedule(datetime.now(UTC) - timedelta(days=1))
        assert await first.result(DEADLINE_S) == "first"
        info = await moved.info()
        assert info.queue == "default"


async def test_explain_names_the_step_that_takes_long(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rowlock.runtime import steps  # noqa: PLC0415

    monkeypatch.setattr(steps, "LONG_S", 0.0)
    async with bench(app, lease_seconds=3.0) as work:
        run = await work.client.start(works())
        async with asyncio.timeout(DEADLINE_S):
            while "step lasts at place 1, attempt 1, since" not in (await run.explain()).message:
                await asyncio.sleep(0.05)
        go_on.set()
        await run.result(DEADLINE_S)
        assert (await run.explain()).cause == "finished"
        assert (await work.client.run(uuid4()).explain()).cause == "unknown"


async def test_refusals_say_what_and_why(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.client.start(notes("done"))
        await run.result(DEADLINE_S)
        for attempt in (
            run.reprioritise(3),
            run.reschedule(datetime.now(UTC)),
            run.move("slow"),
            work.client.pause(queue="typo"),
            work.client.pause(queue="slow", workflow="notes"),
            work.client.retire("v9"),
            work.client.drain_worker(10**9),
            run.fork(version="v9"),
        ):
            with pytest.raises(Refused) as caught:
                await attempt
            assert caught.value.hint
        with pytest.raises(ConfigurationError, match="no time zone"):
            await run.reschedule(datetime(2030, 1, 1))


async def test_a_drained_worker_takes_nothing_new(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        work.leftovers.add("task")
        [worker] = await work.client.workers()
        assert worker.alive
        assert await work.client.drain_worker(worker.worker_id)
        assert not await work.client.drain_worker(worker.worker_id)
        run = await work.client.start(notes("nobody"))
        await explained(work, run, "workers_draining")


async def test_an_ended_run_is_deleted(bench: Open) -> None:
    async with bench(app) as work:
        waiting = await work.client.start(waits())
        await work.status(waiting, "waiting")
        with pytest.raises(Refused):
            await waiting.delete()
        await waiting.send("go", "now")
        assert await waiting.result(DEADLINE_S) == "now"
        await waiting.delete()
        with pytest.raises(UnknownRun):
            await waiting.info()
        with pytest.raises(UnknownRun):
            await waiting.delete()


async def test_versions(bench: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with bench(app, version="v1") as work:
        run = await work.client.start(notes("one"))
        await run.result(DEADLINE_S)
        [version] = await work.client.versions()
        assert (version.version, version.current, version.workers) == ("v1", True, 1)
        with pytest.raises(Refused):
            await work.client.retire("v1")
        copy = await run.fork(version="v1")
        assert await copy.result(DEADLINE_S) == "one"


def test_without_async_and_in_the_callers_transaction(database: str, sql: Sql) -> None:
    with (
        app.blocking_client(Settings(database_url=database)) as client,
        psycopg.connect(database) as mine,
    ):
        run = client.start(notes("x"))
        assert client.pause(queue="slow", connection=mine)
        assert run.reprioritise(7, connection=mine)
        assert run.move("slow", connection=mine)
        assert client.queues()[1].paused_at is None
        mine.commit()
        assert client.queues()[1].paused_at is not None
        assert (run.info().queue, run.info().priority) == ("slow", 7)
        assert run.explain().cause == "queue_paused"
        assert client.unpause(queue="slow")
        assert run.reschedule(datetime.now(UTC) + timedelta(hours=1))
        assert run.explain().cause == "not_due"
        assert client.workers() == []
        assert client.versions() == []
        audited = [
            operation for (operation,) in sql("select operation from rowlock.audit order by at")
        ]
        assert audited == ["pause", "reprioritise", "move", "unpause", "reschedule"]


async def test_where_there_is_one_app_it_need_not_be_named(database: str) -> None:
    settings = Settings(database_url=database)
    another = App("another")

    @another.workflow
    async def sings() -> None: ...

    async with app.client(settings), Client(settings) as anybody:
        assert await anybody.pause(queue="slow")
        assert await anybody.unpause(queue="slow")
        with pytest.raises(Refused, match="app alone means all of it"):
            await anybody.pause()
        async with another.client(settings):
            with pytest.raises(Refused) as caught:
                await anybody.pause(queue="slow")
    assert caught.value.sqlstate == "RLA01"
