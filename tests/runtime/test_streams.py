"""Streams: what a run emits, in order, for anybody who reads it, live or later."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from rowlock import App, Retry
from rowlock.client import Run
from rowlock.errors import MisplacedCall, Refused, UnknownRun
from runtime.bench import Open, Way
from workers.until import Sql

app = App("streams")
tries: list[int] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    tries.clear()


@app.step
async def says(what: str) -> None:
    await app.emit("log", f"step says {what}")


@app.step
def says_in_thread(what: str) -> None:
    app.emit("log", f"thread says {what}").wait()


@app.step(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=5)))
async def says_again() -> None:
    tries.append(1)
    await app.emit("tries", len(tries))
    if len(tries) < 3:
        raise ValueError("again")


@app.step
async def waits_in_a_loop() -> str:
    try:
        app.emit("log", 1).wait()
    except MisplacedCall as error:
        return str(error)
    return "waited"


@app.workflow
async def counts(n: int) -> None:
    for i in range(n):
        await app.emit("numbers", i)
        await app.sleep(0.005)


@app.workflow
async def talks() -> str:
    await app.emit("log", "begins")
    await says("hello")
    await says_in_thread.in_thread("hello")
    await says_again()
    await app.emit("log", "ends")
    return await waits_in_a_loop()


@app.workflow
def talks_in_a_thread() -> None:
    app.emit("log", 1).wait()
    says_in_thread("2")


@app.workflow
async def stays_open() -> None:
    await app.emit("log", "here")
    await app.receive("go")


async def read(run: Run[Any], stream: str, **options: Any) -> list[Any]:
    async with asyncio.timeout(25):
        return [entry.value async for entry in run.stream(stream, **options)]


async def test_a_reader_follows_live_to_the_end(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                run = await work.start(counts(20))
                readers = [read(run, "numbers", type=int, start=n) for n in (0, 0, 5)]
                first, second, later = await asyncio.gather(*readers)
                assert first == second == list(range(20))
                assert later == list(range(5, 20))
                await run.result(25)
        assert await read(run, "numbers", start=18) == [18, 19], "also after the end"
        assert await read(run, "nothing") == []


async def test_steps_emit_each_time_they_are_executed(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(talks())
        assert "would block the loop" in await run.result(25)
        assert await read(run, "log") == [
            "begins",
            "step says hello",
            "thread says hello",
            "ends",
        ]
        assert await read(run, "tries") == [1, 2, 3]
        threaded = await work.start(talks_in_a_thread())
        await threaded.result(25)
        assert await read(threaded, "log") == [1, "thread says 2"]


async def test_a_look_does_not_wait(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(stays_open())
        await work.status(run, "waiting")
        assert await read(run, "log", follow=False) == ["here"]
        assert sql("select rowlock.emit(%s, 'log', '\"from SQL\"')", run.id) == [(1,)]
        assert await read(run, "log", follow=False) == ["here", "from SQL"]
        await run.send("go")
        await run.result(25)
        assert await read(run, "log") == ["here", "from SQL"]
        with pytest.raises(UnknownRun):
            await read(work.client.run(uuid4()), "log")


async def test_a_rewind_emits_again_and_a_fork_has_streams_of_its_own(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(counts(3))
        await run.result(25)
        await run.rewind("3")
        await run.result(25)
        assert await read(run, "numbers") == [0, 1, 2, 1, 2]
        copy = await run.fork("5")
        await copy.result(25)
        assert await read(copy, "numbers") == [2]


async def test_steps_called_alone_show_nobody() -> None:
    await says("hello")
    says_in_thread("hello")
    with pytest.raises(MisplacedCall, match="outside a run"):
        await app.emit("log", 1)


async def test_streams_of_ended_runs_take_no_more(bench: Open, sql: Sql) -> None:
    import psycopg  # noqa: PLC0415

    async with bench(app) as work:
        run = await work.start(counts(0))
        await run.result(25)
        with pytest.raises(psycopg.Error, match="has ended"):
            sql("select rowlock.emit(%s, 'log', '1')", run.id)
        with pytest.raises(Refused):
            await run.send("go")


def test_a_blocking_client_reads_streams_too(database: str) -> None:
    from rowlock import Settings  # noqa: PLC0415
    from rowlock.runtime.process import WorkerProcess  # noqa: PLC0415
    from rowlock.runtime.tenure import WorkerOptions  # noqa: PLC0415

    settings = Settings(database_url=database)
    with app.blocking_client(settings) as client:
        run = client.start(stays_open())
        waiting = client.start(counts(3))

        async def work() -> None:
            process = WorkerProcess(settings, app.code, WorkerOptions(grace_s=2.0))
            working = asyncio.create_task(process.run(signals=False))
            while await asyncio.to_thread(run.status) != "waiting":
                await asyncio.sleep(0.02)
            run.send("go")
            await asyncio.to_thread(run.result, 25)
            await asyncio.to_thread(waiting.result, 25)
            process.drain()
            await working

        asyncio.run(work())
        assert [entry.value for entry in waiting.stream("numbers")] == [0, 1, 2]
