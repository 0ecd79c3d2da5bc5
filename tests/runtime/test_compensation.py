"""Sagas: what was registered with ``compensate`` is done in reverse when the run fails."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from rowlock import App, Retry
from rowlock.errors import MisplacedCall, Refused, RunFailed
from runtime.bench import Open, Way
from workers.until import Sql

app = App("sagas")
did: list[str] = []
left_to_fail: dict[str, int] = {}


@pytest.fixture(autouse=True)
def fresh() -> None:
    did.clear()
    left_to_fail.clear()


@app.step
async def book(what: str) -> str:
    did.append(f"book {what}")
    if what == "car":
        raise ValueError("no car is free")
    return what


@app.step(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=5)))
async def unbook(what: str) -> None:
    did.append(f"unbook {what}")
    if left_to_fail.get(what, 0) > 0:
        left_to_fail[what] -= 1
        raise ConnectionError(f"{what} can't be reached")


@app.step
def unbook_in_thread(what: str) -> None:
    did.append(f"unbook {what} in a thread")


@app.workflow
async def trip(things: list[str], wait: bool = False) -> str:
    for thing in things:
        app.compensate(unbook, thing)
        await book(thing)
        await app.sleep(0.005)
    if wait:
        await app.receive("go")
    app.compensate(unbook_in_thread, "all")
    return "booked"


@app.workflow
def trip_in_a_thread() -> str:
    app.compensate(unbook, "hotel")
    book.blocking("hotel")
    app.compensate(unbook, "car")
    return book.blocking("car")


async def test_what_was_done_is_undone_in_reverse(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                did.clear()
                run = await work.start(trip(["flight", "hotel", "car"]))
                error = await work.error_of(run)
                assert isinstance(error, ValueError)
                assert did == [
                    "book flight",
                    "book hotel",
                    "book car",
                    "unbook car",
                    "unbook hotel",
                    "unbook flight",
                ]
                places = await work.places(run)
                assert places[-3:] == [f"undo.{n} step unbook" for n in (1, 2, 3)]


async def test_nothing_is_undone_of_what_succeeds(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(trip(["flight"])) == "booked"
        assert did == ["book flight"]


async def test_a_cancelled_run_is_undone_too_after_its_grace(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(trip(["flight", "hotel"], wait=True))
        await work.status(run, "waiting")
        while len(did) < 2 or await run.status() != "waiting":
            await asyncio.sleep(0.01)
        await run.cancel(grace=0.0)
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result(25)
        assert did[2:] == ["unbook hotel", "unbook flight"]


async def test_an_undo_is_retried_and_one_that_fails_for_good_is_shown(bench: Open) -> None:
    left_to_fail.update(hotel=2, flight=99)
    async with bench(app, noise=("the undo unbook failed for good",)) as work:
        run = await work.start(trip(["flight", "hotel", "car"]))
        error = await work.error_of(run)
        assert did.count("unbook hotel") == 3
        assert did.count("unbook flight") == 3
        assert "its undo unbook failed: ConnectionError" in "".join(error.__notes__)


async def test_sync_workflows_are_undone(bench: Open) -> None:
    async with bench(app) as work:
        await work.error_of(await work.start(trip_in_a_thread()))
        assert did == ["book hotel", "book car", "unbook car", "unbook hotel"]


async def test_what_was_undone_can_not_pass_as_done(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(trip(["flight", "car"]))
        await work.error_of(run)
        with pytest.raises(Refused, match="undone") as caught:
            await run.retry()
        assert caught.value.sqlstate == "RLS03"
        did.clear()
        await run.rewind("1", call=trip(["flight", "hotel"]))
        assert await run.result(25) == "booked"
        assert did == ["book flight", "book hotel"]


async def test_compensate_belongs_into_a_workflow() -> None:
    with pytest.raises(MisplacedCall, match="outside a run"):
        app.compensate(unbook, "flight")
    wrong: Any = 7
    with pytest.raises(MisplacedCall, match="step"):
        app.compensate(wrong)
