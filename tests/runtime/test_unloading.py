"""A waiting run is thrown out of memory, whatever its code does about it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from rowlock import App
from rowlock.errors import Suspended
from rowlock.workflow import Workflow
from runtime.bench import Open

app = App("unloading")
log: list[str] = []
"""What the code did, outside of all records: also what a replay or an unloading did."""


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    log.clear()


@app.step
async def note(what: str) -> str:
    log.append(f"step {what}")
    return what


@app.step
def note_sync(what: str) -> str:
    log.append(f"step {what}")
    return what


@app.workflow
async def tidy() -> str:
    try:
        await app.sleep(0.05)
        return "slept"
    finally:
        log.append("finally")


@app.workflow
async def tries_a_step_in_finally() -> str:
    try:
        await app.sleep(0.05)
    finally:
        try:
            await note("in finally")
        except Suspended as error:
            log.append(str(error))
            raise
    return "slept"


@app.workflow
async def swallows_in_gather() -> list[str]:
    results = await asyncio.gather(
        app.sleep(0.05), app.sleep(0.05), note("beside"), return_exceptions=True
    )
    return [type(one).__name__ for one in results]


@app.workflow
async def swallows_everything() -> str:
    with contextlib.suppress(BaseException):
        await app.sleep(0.05)
    with contextlib.suppress(BaseException):
        await note("after")
    return "came through"


@app.workflow
async def tries_for_ever() -> str:
    while True:
        try:
            await app.sleep(0.05)
            return await note("done")
        except BaseException:
            continue


@app.workflow
async def waits_on_in_finally() -> str:
    try:
        await app.sleep(0.05)
    finally:
        log.append("finally")
        if len(log) == 1:
            await asyncio.Event().wait()
    return "slept"


@app.workflow
async def spawns_in_finally() -> str:
    try:
        await app.sleep(0.05)
    finally:
        tasks = [asyncio.create_task(note(f"late {n}")) for n in range(3)]
        if len(log) < 1:
            log.append("unloaded")
            await asyncio.wait(tasks)
    return "+".join(await asyncio.gather(*tasks))


@app.workflow
def sync_tidy() -> str:
    try:
        app.sleep(0.05).wait()
    finally:
        log.append("finally")
    return note_sync("slept")


@app.workflow
def sync_swallows_everything() -> str:
    with contextlib.suppress(BaseException):
        app.sleep(0.05).wait()
    with contextlib.suppress(BaseException):
        note_sync("after")
    return "came through"


@app.workflow
def sync_tries_for_ever() -> str:
    while True:
        try:
            app.sleep(0.05).wait()
            return note_sync("done")
        except BaseException:
            continue


async def test_finally_blocks_run_on_every_unloading(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(tidy()) == "slept"
        assert await work.result(sync_tidy()) == "slept"
    assert log == ["finally", "finally", "finally", "finally", "step slept"]


async def test_a_step_tried_in_finally_is_refused_while_unloading(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(tries_a_step_in_finally())
        assert await run.result(20) == "slept"
        assert await work.places(run) == ["1 sleep", "2 step note"]
    refused, executed = log
    assert "step note was refused" in refused
    assert "can't use steps" in refused
    assert executed == "step in finally"


@pytest.mark.parametrize(
    "flow", [swallows_everything, sync_swallows_everything], ids=["async", "sync"]
)
async def test_code_that_swallows_its_unloading_does_not_change_the_outcome(
    bench: Open, flow: Workflow[[], str]
) -> None:
    async with bench(app) as work:
        run = await work.start(flow())
        assert await run.result(20) == "came through"
        assert len(await run.steps()) == 2
    assert log == ["step after"]


async def test_a_gather_that_returns_exceptions_is_replayed_without_them(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(swallows_in_gather()) == ["NoneType", "NoneType", "str"]
    assert log == ["step beside"]


async def test_code_that_tries_for_ever_does_not_freeze_the_worker(bench: Open) -> None:
    async with bench(app, noise=("caught its cancellation",)) as work:
        assert await work.result(tries_for_ever()) == "done"
    assert log == ["step done"]


async def test_a_thread_that_tries_for_ever_rests_in_the_end(bench: Open) -> None:
    async with bench(app, stuck_threads=1) as work:
        assert await work.result(sync_tries_for_ever()) == "done"
    assert log == ["step done"]


async def test_code_that_goes_on_waiting_is_cancelled(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(waits_on_in_finally()) == "slept"
        assert await work.result(spawns_in_finally()) == "late 0+late 1+late 2"
