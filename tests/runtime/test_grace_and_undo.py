"""Undoing a run whose code did not end by itself, or was told to stop while it failed."""

from __future__ import annotations

import asyncio

import pytest

from rowlock import App
from rowlock.errors import MisplacedCall, RunFailed
from rowlock.runtime.stopping import CancelRequest
from runtime.bench import Bench, Open, until

app = App("grace_and_undo")
did: list[str] = []
holds: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    did.clear()
    holds[:] = [asyncio.Event()]


@app.step
async def do(what: str) -> str:
    did.append(what)
    return what


@app.step
async def unbook(what: str) -> None:
    did.append(f"unbook {what}")
    if what == "first":
        await holds[0].wait()


@app.workflow
async def books_and_never_ends() -> None:
    app.compensate(unbook, "first")
    await do("first")
    app.compensate(unbook, "second")
    try:
        await app.receive("never")
    finally:
        app.compensate(unbook, "third")
        await do("cleans")
        await app.receive("never either")


async def test_a_replay_of_what_was_undone_after_its_grace_comes_there_again(bench: Open) -> None:
    noise = ("was cancelled", "was dropped")
    async with bench(app, noise=noise) as work:
        run = await work.start(books_and_never_ends())
        await work.status(run, "waiting")
        await run.cancel(grace=0.05)
        await until(lambda: "unbook first" in did)
        [loaded] = work.loaded()
        loaded.release()
        await until(lambda: did.count("unbook first") == 2)
        holds[0].set()
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result(25)
        assert did == [
            "first",
            "cleans",
            "unbook third",
            "unbook second",
            "unbook first",
            "unbook first",
        ]


@app.workflow
async def waits_for_nothing() -> None:
    for what in ("first", "second"):
        app.compensate(unbook, what)
    await do("first")
    await asyncio.Event().wait()


async def test_a_replay_of_code_that_was_stuck_is_undone_too(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(waits_for_nothing())
        await until(lambda: "unbook first" in did)
        [loaded] = work.loaded()
        loaded.release()
        await until(lambda: did.count("unbook first") == 2)
        holds[0].set()
        assert isinstance(await work.error_of(run), MisplacedCall)


async def test_force_undoes_nothing_even_of_a_run_that_cleans_up(bench: Open) -> None:
    async with bench(app, noise=("was cancelled", "was dropped")) as work:
        run = await work.start(books_and_never_ends())
        await work.status(run, "waiting")
        await run.cancel()
        await until(lambda: "cleans" in did)
        await run.cancel(force=True)
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result(25)
        assert did == ["first", "cleans"]


@app.workflow
def never_ends_in_a_thread() -> None:
    app.compensate(unbook, "second")
    try:
        app.receive("never").wait()
    finally:
        try:
            app.receive("never either").wait()
        finally:
            app.compensate(unbook, "too late")


async def test_a_thread_that_was_dropped_registers_no_undo_any_more(bench: Open) -> None:
    async with bench(app, noise=("was cancelled", "was dropped")) as work:
        run = await work.start(never_ends_in_a_thread())
        await work.status(run, "waiting")
        await run.cancel(grace=0.05)
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result(25)
        assert did == ["unbook second"]


current: list[Bench] = []


@app.step
async def fails_and_is_cancelled() -> None:
    [loaded] = current[0].loaded()
    # After this step's error has gone to the journal, and before it is delivered.
    asyncio.get_running_loop().call_soon(loaded.on_cancel, CancelRequest(30.0))
    raise ValueError("by itself")


@app.workflow
async def fails_while_it_is_cancelled() -> None:
    for what in ("third", "second"):
        app.compensate(unbook, what)
    await fails_and_is_cancelled()


async def test_a_cancel_that_comes_while_the_code_fails_does_not_stop_the_undoing(
    bench: Open,
) -> None:
    async with bench(app) as work:
        current[:] = [work]
        error = await work.error_of(await work.start(fails_while_it_is_cancelled()))
        assert isinstance(error, ValueError)
        assert did == ["unbook second", "unbook third"]
