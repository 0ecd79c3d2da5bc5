"""Cancel: a run gets CancelledError where it waits, may clean up, and ends; its children too."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from rowlock import App
from rowlock.client import Run
from rowlock.errors import DeadlineExceeded, Refused, RunFailed
from runtime.bench import Bench, Open, Way
from workers.until import Sql

app = App("cancel")
did: list[str] = []
go_on = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh() -> None:
    did.clear()
    go_on.clear()


@app.step
async def do(what: str) -> str:
    did.append(what)
    return what


@app.step
async def hang() -> str:
    did.append("hangs")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        did.append("stopped")
        raise
    return "never"


@app.workflow
async def tidies_up() -> str:
    await do("begins")
    try:
        await app.receive("never")
    finally:
        await do("cleans")
        await app.sleep(0.02)
        await do("up")
    return "never"


@app.workflow
async def swallows() -> str:
    try:
        await app.receive("never")
    except asyncio.CancelledError:
        await do("regrets")
    return "it was too late"


@app.workflow
async def fails_to_clean() -> None:
    try:
        await app.receive("never")
    finally:
        raise ValueError("the cleaning failed")


@app.workflow
async def hangs_in_a_step() -> str:
    try:
        return await hang()
    finally:
        await do("after the step")


@app.workflow
async def never_ends_its_cleaning() -> None:
    try:
        await app.receive("never")
    finally:
        await app.receive("never either")


@app.workflow
async def child(n: int) -> None:
    try:
        await app.receive("never")
    finally:
        await do(f"child {n}")


@app.workflow
async def parent() -> None:
    children = [await app.start_child(child(n)) for n in range(3)]
    await app.start_child(waits(), detached=True)
    try:
        await asyncio.gather(*(one.result() for one in children))
    finally:
        await do("parent")
        await quick()


@app.workflow
async def quick() -> str:
    return await do("a child that cleans up for it")


@app.workflow
async def waits() -> str:
    return await app.receive("go", str)


@app.workflow
async def gathers() -> None:
    async def branch(n: int) -> None:
        try:
            await app.receive(f"never {n}")
        finally:
            await do(f"branch {n}")

    async with asyncio.TaskGroup() as group:
        for n in range(3):
            group.create_task(branch(n))


@app.workflow
def in_a_thread() -> None:
    try:
        app.receive("never").wait()
    except asyncio.CancelledError:
        do.blocking("thread cleans")
        raise


async def cancelled(run: Run[Any]) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        await run.result(25)
    assert caught.value.status == "cancelled"
    return caught.value


async def waiting(work: Bench, run: Run[Any]) -> Run[Any]:
    await work.status(run, "waiting")
    return run


async def test_a_sleeping_run_is_woken_to_clean_up(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await waiting(work, await work.start(tidies_up()))
        await run.cancel(reason="not needed any more")
        error = await cancelled(run)
        assert "not needed any more" in str(error)
        assert did == ["begins", "cleans", "up"]
        assert (await work.places(run))[:3] == ["1 step do", "cancel cancel request", "3 step do"]


async def test_cleaning_up_goes_on_where_it_was_after_a_crash(bench: Open) -> None:
    """Handed back at random moments: what was recorded is not done again."""
    async with bench(app, noise=("was cancelled",)) as work:
        for way in Way:
            async with work.living(way):
                did.clear()
                run = await work.start(tidies_up())
                await asyncio.sleep(0.05)
                await run.cancel()
                await cancelled(run)
                assert did in (["begins", "cleans", "up"], [])


async def test_a_run_that_never_began_ends_at_once(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(tidies_up(), delay=3600)
        await run.cancel()
        assert await run.status() == "cancelled"
        assert did == []
        assert sql("select status, error ->> 'type' from rowlock.outcome") == [
            ("cancelled", "rowlock.errors.Cancelled")
        ]


async def test_a_running_step_is_stopped(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(hangs_in_a_step())
        while not did:
            await asyncio.sleep(0.01)
        await run.cancel()
        await cancelled(run)
        assert did == ["hangs", "stopped", "after the step"]


async def test_code_that_goes_on_regardless_ends_as_it_wants(bench: Open) -> None:
    async with bench(app) as work:
        run = await waiting(work, await work.start(swallows()))
        await run.cancel()
        assert await run.result(25) == "it was too late"
        failing = await waiting(work, await work.start(fails_to_clean()))
        await failing.cancel()
        error = await work.error_of(failing)
        assert isinstance(error, ValueError)


async def test_the_grace_ends_what_does_not_end(bench: Open) -> None:
    async with bench(app, noise=("was cancelled", "was dropped")) as work:
        run = await waiting(work, await work.start(never_ends_its_cleaning()))
        await run.cancel(grace=0.2)
        await cancelled(run)


async def test_force_skips_the_cleaning(bench: Open) -> None:
    async with bench(app, noise=("was cancelled", "was dropped")) as work:
        run = await waiting(work, await work.start(tidies_up()))
        await run.cancel(force=True)
        await cancelled(run)
        running = await work.start(hangs_in_a_step())
        while "hangs" not in did:
            await asyncio.sleep(0.01)
        await running.cancel(force=True)
        await cancelled(running)
        assert did == ["begins", "hangs", "stopped"]


async def test_children_are_cancelled_with_their_parent_unless_detached(
    bench: Open, sql: Sql
) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await waiting(work, await work.start(parent()))
        while sql("select count(*) from rowlock.task where state = 'waiting'") != [(5,)]:
            await asyncio.sleep(0.02)
        await run.cancel()
        await cancelled(run)
        while sql("select count(*) from rowlock.task where workflow = 'child'") != [(0,)]:
            await asyncio.sleep(0.02)
        assert sorted(did) == sorted(
            ["child 0", "child 1", "child 2", "parent", "a child that cleans up for it"]
        )
        assert sql(
            "select status, count(*) from rowlock.runs where workflow = 'child' group by 1"
        ) == [("cancelled", 3)]
        [[detached]] = sql("select run_id from rowlock.runs where workflow = 'waits'")
        assert await work.client.run(detached).status() == "waiting"
        await work.client.run(detached).send("go", "on")
        assert await work.client.run(detached).result(25) == "on"


async def test_every_branch_cleans_up(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await waiting(work, await work.start(gathers()))
        await run.cancel()
        await cancelled(run)
        assert sorted(did) == ["branch 0", "branch 1", "branch 2"]


async def test_sync_workflows_get_it_where_they_wait(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await waiting(work, await work.start(in_a_thread()))
        await run.cancel()
        await cancelled(run)
        assert did == ["thread cleans"]


async def test_a_finished_run_can_not_be_cancelled(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(quick())
        await run.result(25)
        with pytest.raises(Refused, match="has ended") as caught:
            await run.cancel()
        assert caught.value.sqlstate == "RLS02"
        with pytest.raises(Refused, match="grace"):
            await run.cancel(grace=-1)
        assert sql("select * from rowlock.cancel_request") == []


async def test_waiters_of_a_cancelled_run_are_woken(bench: Open) -> None:
    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(waits_for_child())
        while not (rows := await work.client.runs(workflow="tidies_up", status="waiting")):
            await asyncio.sleep(0.02)
        await work.client.run(rows[0].id).cancel()
        assert await run.result(25) == "cancelled"


@app.workflow
async def waits_for_child() -> str:
    try:
        await tidies_up()
    except RunFailed as error:
        return error.status
    return "not cancelled"


# --- deadlines


@app.workflow
async def too_long() -> None:
    try:
        await app.sleep(3600)
    finally:
        await do("cleans up")


async def test_a_run_past_its_deadline_fails_after_cleaning_up(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            async with work.living(way):
                did.clear()
                began = time.monotonic()
                run = await work.start(too_long(), deadline=1.5)
                assert isinstance(await work.error_of(run), DeadlineExceeded)
                assert time.monotonic() - began >= 1.5
                assert did == ["cleans up"]


async def test_a_run_that_is_claimed_too_late_does_not_begin(bench: Open) -> None:
    async with bench(app, way=None) as work:
        work.process.drain()  # nobody works until the deadline has passed
        run = await work.start(tidies_up(), deadline=0.05)
        await asyncio.sleep(0.1)
        work.leftovers.add("task")
        assert await run.status() == "ready"
    async with bench(app) as work:
        assert isinstance(await work.error_of(work.client.run(run.id)), DeadlineExceeded)
        assert did == []


async def test_a_deadline_must_be_a_duration(bench: Open) -> None:
    async with bench(app) as work:
        with pytest.raises(Refused, match="deadline"):
            await work.start(quick(), deadline=0)
        with pytest.raises(Refused, match="deadline"):
            await work.client.start_many([quick()], deadline=-1)
