"""Redo: resume, retry, rewind, fork, continue as new: what is kept, what is done again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from rowlock import App
from rowlock.client import Run
from rowlock.errors import InvalidValue, MisplacedCall, Refused, RunFailed, UnknownRun
from runtime.bench import Bench, Open, Way
from workers.until import Sql

app = App("redo")
did: list[str] = []
broken: set[str] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    did.clear()
    broken.clear()


@app.step
async def do(what: str) -> str:
    did.append(what)
    if what in broken:
        raise ValueError(f"{what} is broken")
    return what


@app.workflow
async def three(first: str = "a") -> list[str]:
    return [await do(first), await do("b"), await do("c")]


@app.workflow
async def copes() -> list[str]:
    """Copes with a failed step, and fails of another."""
    with suppress(ValueError):
        await do("x")
    await do("y")
    return [await do("z")]


@app.workflow
async def asks() -> list[str]:
    await do("before")
    first = await app.receive("answer", str)
    await do(f"got {first}")
    second = await app.receive("answer", str)
    await do(f"got {second}")
    return [first, second]


@app.workflow
async def side_by_side() -> list[str]:
    async def branch(name: str) -> str:
        await do(f"{name}1")
        return await do(f"{name}2")

    return list(await asyncio.gather(branch("a"), branch("b")))


@app.workflow
async def has_a_child() -> str:
    child = await app.start_child(three("child"))
    await do("between")
    return "-".join(await child.result())


@app.workflow
async def sleeps_long() -> str:
    await do("before")
    await app.sleep(3600)
    return await do("after")


@app.workflow
async def counts(n: int, most: int) -> int:
    await do(f"round {n}")
    if n < most:
        counts.continue_as_new(n + 1, most)
    return n


@app.workflow
async def drains(got: list[str]) -> list[str]:
    got = [*got, await app.receive("item", str)]
    if len(got) < 3:
        drains.continue_as_new(got)
    return got


@app.workflow
def counts_in_a_thread(n: int) -> int:
    if n < 3:
        counts_in_a_thread.continue_as_new(n + 1)
    return n


@app.workflow
async def continues_as_another() -> None:
    three.continue_as_new("q")


async def failed(work: Bench, run: Run[Any]) -> None:
    with pytest.raises(RunFailed):
        await run.result(25)


# --- retry


async def test_retry_goes_on_from_the_failed_step(bench: Open) -> None:
    async with bench(app) as work:
        broken.add("b")
        run = await work.start(three())
        await failed(work, run)
        broken.clear()
        await run.retry()
        assert await run.result(25) == ["a", "b", "c"]
        assert did == ["a", "b", "b", "c"]
        info = await run.info()
        assert (info.generation, info.status) == (2, "succeeded")


async def test_a_failed_step_that_the_code_coped_with_stays(bench: Open) -> None:
    async with bench(app) as work:
        broken.update("xz")
        run = await work.start(copes())
        await failed(work, run)
        broken.clear()
        await run.retry()
        assert await run.result(25) == ["z"]
        assert did == ["x", "y", "z", "z"]


async def test_retry_again_and_again(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        broken.add("b")
        run = await work.start(three())
        for _ in range(3):
            await failed(work, run)
            await run.retry()
        await failed(work, run)
        assert did == ["a", "b", "b", "b", "b"]
        assert sql("select generation, reason, status from rowlock.generations order by 1") == [
            (1, "start", "failed"),
            (2, "retry", "failed"),
            (3, "retry", "failed"),
            (4, "retry", "failed"),
        ]
        epochs = [
            epoch for (epoch,) in sql("select epoch from rowlock.outcome order by generation")
        ]
        assert epochs == sorted(set(epochs)), "an epoch never comes twice"


# --- resume


async def test_resume_lets_a_cancelled_run_go_on(bench: Open, sql: Sql) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(asks())
        await run.send("answer", "one")
        while len(did) < 2:
            await asyncio.sleep(0.01)
        await work.status(run, "waiting")
        await run.cancel()
        await failed(work, run)
        await run.resume()
        await run.send("answer", "two")
        assert await run.result(25) == ["one", "two"]
        assert did == ["before", "got one", "got two"]


async def test_resume_of_one_that_never_began(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(three(), delay=3600)
        await run.cancel()
        await run.resume()
        assert await run.result(25) == ["a", "b", "c"]


# --- rewind


async def test_rewind_does_again_what_comes_from_a_place_on(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(three())
        await run.result(25)
        did.clear()
        await run.rewind("2")
        assert await run.result(25) == ["a", "b", "c"]
        assert did == ["b", "c"]


async def test_rewind_with_another_input(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(three())
        await run.result(25)
        await run.rewind("1", call=three("other"))
        assert await run.result(25) == ["other", "b", "c"]


async def test_rewind_gives_messages_back(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(asks())
        await run.send("answer", "one")
        await run.send("answer", "two")
        await run.result(25)
        did.clear()
        await run.rewind("4")  # the second receive
        assert await run.result(25) == ["one", "two"]
        assert did == ["got two"]
        did.clear()
        await run.rewind("2")  # what a generation before received, too
        assert await run.result(25) == ["one", "two"]
        assert did == ["got one", "got two"]


async def test_rewind_into_a_branch_drops_what_was_recorded_after_it(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(side_by_side())
        await run.result(25)
        steps = await run.steps()
        first_of_b = next(s for s in steps if s.place == "2.1")
        later = [s.place for s in steps if s.position >= first_of_b.position]
        did.clear()
        await run.rewind("2")
        assert await run.result(25) == ["a2", "b2"]
        assert len(did) == len(later)


async def test_rewind_starts_children_anew(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(has_a_child())
        assert await run.result(25) == "child-b-c"
        await run.rewind("2")  # the child stays
        assert await run.result(25) == "child-b-c"
        assert sql("select count(*) from rowlock.run where parent_id is not null") == [(1,)]
        await run.rewind("1")
        assert await run.result(25) == "child-b-c"
        assert sql("select count(*) from rowlock.run where parent_id is not null") == [(2,)]


# --- fork


async def test_a_fork_is_a_run_of_its_own_with_the_same_past(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(three(), key="order-7", attributes={"customer": 1})
        await run.result(25)
        did.clear()
        copy = await run.fork("3")
        assert await copy.result(25) == ["a", "b", "c"]
        assert did == ["c"]
        info = await copy.info()
        assert (info.key, info.attributes) == (None, {"customer": 1})
        assert sql("select forked_from from rowlock.runs where run_id = %s", copy.id) == [(run.id,)]
        whole = await run.fork()
        assert await whole.result(25) == ["a", "b", "c"]
        assert did == ["c"]
        assert (await run.info()).generation == 1, "the original is as it was"


async def test_a_fork_with_other_outcomes_and_input(bench: Open) -> None:
    async with bench(app) as work:
        broken.add("b")
        run = await work.start(three())
        await failed(work, run)
        did.clear()
        copy = await run.fork("2", outcomes={"1": "A", "2": "mended"}, call=three("zero"))
        assert await copy.result(25) == ["A", "mended", "c"]
        assert did == ["c"]


async def test_a_fork_of_a_run_at_work(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(asks())
        await run.send("answer", "one")
        while len(did) < 2:
            await asyncio.sleep(0.01)
        await work.status(run, "waiting")
        await run.send("other", "unread")
        copy = await run.fork("2")  # before the first receive: its message is received again
        await work.status(copy, "waiting")
        assert did == ["before", "got one", "got one"]
        for one in (run, copy):
            await one.send("answer", "two")
            assert await one.result(25) == ["one", "two"]


# --- of what was cancelled


@app.workflow
async def cleans_up() -> str:
    for what in ("first", "second"):
        app.compensate(do, f"undo {what}")
    await do("a")
    try:
        return await app.receive("go", str)
    finally:
        await do("clean")


@pytest.mark.parametrize("place", ["undo.1", "undo.2", "3"])
async def test_what_came_of_a_cancel_is_never_kept(bench: Open, place: str) -> None:
    """Without the cancel it would fit no code: the redo begins where the cancel was seen."""
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(cleans_up())
        await work.status(run, "waiting")
        await run.cancel()
        await failed(work, run)
        assert did == ["a", "clean", "undo second", "undo first"]
        did.clear()
        copies = [await run.fork(place), await run.fork()]
        await run.rewind(place)
        for redone in (run, *copies):
            await redone.send("go", "on")
            assert await redone.result(25) == "on"
        assert did == ["clean"] * 3


# --- what is refused


async def test_what_can_not_be_redone_is_refused_with_a_hint(bench: Open, sql: Sql) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        done = await work.start(three())
        await done.result(25)
        for redo, hint in [
            (done.resume(), "rewind"),
            (done.retry(), "rewind"),
            (done.rewind("9"), "rowlock.steps"),
            (done.fork("9"), "rowlock.steps"),
            (done.fork("2", outcomes={"7": 1}), "rowlock.steps"),
        ]:
            with pytest.raises(Refused) as caught:
                await redo
            assert hint in str(caught.value)
        asleep = await work.start(sleeps_long())
        await work.status(asleep, "waiting")
        for redo in (asleep.resume(), asleep.retry(), asleep.rewind("1")):
            with pytest.raises(Refused, match="has not ended"):
                await redo
        for redo in (
            work.client.run(uuid4()).retry(),
            work.client.run(uuid4()).rewind("1"),
            work.client.run(uuid4()).cancel(),
        ):
            with pytest.raises(UnknownRun):
                await redo
        with pytest.raises(UnknownRun):
            await work.client.run(uuid4()).fork()
        with pytest.raises(InvalidValue):
            await done.fork("2", outcomes={"1": float("nan")})
        assert sql("select count(*) from rowlock.run") == [(2,)]
        await asleep.cancel(force=True)
        await failed(work, asleep)
        assert sql("select count(*) from rowlock.outcome") == [(2,)]


# --- continue as new


async def test_continue_as_new_begins_with_nothing_recorded(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                did.clear()
                run = await work.start(counts(1, 4))
                assert await run.result(25) == 4
                assert did == [f"round {n}" for n in range(1, 5)]
        assert sql(
            "select generation, reason, status from rowlock.generations"
            " where run_id = %s order by 1",
            run.id,
        ) == [
            (1, "start", "continued"),
            (2, "continued", "continued"),
            (3, "continued", "continued"),
            (4, "continued", "succeeded"),
        ]
        assert await work.result(counts_in_a_thread(1)) == 3


async def test_unread_messages_stay_when_a_run_continues_as_new(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(drains([]))
        for item in "abc":
            await run.send("item", item)
        assert await run.result(25) == ["a", "b", "c"]


async def test_a_parent_waits_for_the_last_generation(bench: Open) -> None:
    @app.workflow
    async def waits_for_the_last() -> int:
        return await counts(1, 3)

    async with bench(app) as work:
        assert await work.result(waits_for_the_last()) == 3


async def test_continue_as_new_is_only_for_the_run_itself(bench: Open) -> None:
    with pytest.raises(MisplacedCall, match="outside a run"):
        counts.continue_as_new(1, 2)
    async with bench(app) as work:
        error = await work.error_of(await work.start(continues_as_another()))
        assert isinstance(error, MisplacedCall)
        assert "continue as itself" in str(error)


async def test_cancel_reaches_a_run_that_continues_again_and_again(bench: Open) -> None:
    @app.workflow
    async def for_ever(n: int) -> None:
        await app.sleep(0.01)
        for_ever.continue_as_new(n + 1)

    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(for_ever(1))
        await asyncio.sleep(0.1)
        await run.cancel()
        with pytest.raises(RunFailed, match="cancelled"):
            await run.result(25)
