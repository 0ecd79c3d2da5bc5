"""Events: what a run shows to others. The latest value counts; who waits goes on."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from rowlock import App
from rowlock.errors import EventNeverSet, ReceiveTimeout, Refused
from runtime.bench import Open, Way
from workers.until import Sql

app = App("events")


@app.workflow
async def shows(values: list[int], pause: float = 0.01) -> str:
    for value in values:
        await app.sleep(pause)
        await app.set_event("progress", value)
    return "shown"


@app.workflow
async def watches(run: UUID, timeout: float | None = None) -> int:
    return await app.get_event(run, "progress", int, timeout=timeout)


@app.workflow
async def watches_in_vain(run: UUID, timeout: float | None = None) -> str:
    try:
        await app.get_event(run, "never", timeout=timeout)
    except (EventNeverSet, ReceiveTimeout) as error:
        return type(error).__name__
    return "came"


@app.workflow
def watches_in_a_thread(run: UUID) -> int:
    return app.get_event(run, "progress", int).wait()


@app.workflow
async def waits() -> str:
    return await app.receive("go", str)


async def test_a_waiter_sleeps_until_the_event_is_set(bench: Open) -> None:
    async with bench(app) as work:
        shown = await work.start(shows([7], 0.3))
        watching = [await work.start(watches(shown.id)) for _ in range(3)]
        thread = await work.start(watches_in_a_thread(shown.id))
        assert [await one.result(25) for one in watching] == [7, 7, 7]
        assert await thread.result(25) == 7
        assert await shown.result(25) == "shown"


async def test_the_latest_value_stays_after_the_end(bench: Open) -> None:
    async with bench(app) as work:
        shown = await work.start(shows([1, 2, 3]))
        await shown.result(25)
        assert await shown.event("progress", int) == 3
        for way in Way:
            async with work.living(way):
                assert await work.result(watches(shown.id)) == 3


async def test_waiting_for_what_never_comes_ends(bench: Open) -> None:
    async with bench(app) as work:
        shown = await work.start(shows([1], 0.3))
        in_vain = await work.start(watches_in_vain(shown.id))
        assert await in_vain.result(25) == "EventNeverSet"
        assert await work.result(watches_in_vain(uuid4())) == "EventNeverSet"
        asleep = await work.start(waits())
        assert await work.result(watches_in_vain(asleep.id, 0.05)) == "ReceiveTimeout"
        with pytest.raises(ReceiveTimeout):
            await asleep.event("never", timeout=0)
        with pytest.raises(EventNeverSet):
            await shown.event("never")
        await asleep.send("go", "on")
        assert await asleep.result(25) == "on"


async def test_others_set_events_too(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        asleep = await work.start(waits())
        watching = await work.start(watches(asleep.id))
        await work.status(watching, "waiting")
        await asleep.set_event("progress", 5)
        assert await watching.result(25) == 5
        assert sql("select rowlock.get_event(%s, 'progress')", asleep.id) == [(5,)]
        await asleep.send("go", "on")
        await asleep.result(25)
        with pytest.raises(Refused, match="has ended"):
            await asleep.set_event("progress", 6)
        assert await asleep.event("progress") == 5


async def test_a_caller_that_keeps_its_transaction_open_holds_up_only_the_one_run(
    bench: Open, database: str
) -> None:
    """Others that wait for the event of that run still hear of everything else."""
    import psycopg  # noqa: PLC0415

    async with bench(app) as work:
        asleep = await work.start(waits())
        watching = await work.start(watches(asleep.id, 0.5))
        await work.status(watching, "waiting")
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await asleep.set_event("progress", 5, connection=connection)
            assert "did not come within" in str(await work.error_of(watching))
        await asleep.send("go", "on")
        assert await asleep.result(25) == "on"
        assert await asleep.event("progress") == 5
        await asyncio.sleep(0)
