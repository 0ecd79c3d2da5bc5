"""Branches that are cancelled, by hand, by a group or by a timeout: live and on replay."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest

from rowlock import App
from runtime.bench import Open, Way

app = App("cancelling")
log: list[str] = []
RELEASE = threading.Event()


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    log.clear()


@app.step
async def quick(n: int) -> int:
    log.append(f"quick {n}")
    return n


@app.step
async def slow(n: int) -> int:
    log.append(f"slow {n}")
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        log.append(f"cancelled {n}")
        raise
    return n


@app.step
async def stubborn(n: int) -> int:
    """Goes on for a while after it was cancelled."""
    log.append(f"stubborn {n}")
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        log.append(f"stubborn {n} ends")
    return n


@app.step
def blocking(n: int) -> int:
    log.append(f"blocking {n}")
    RELEASE.wait(10)
    log.append(f"blocking {n} ends")
    raise ValueError("nobody should hear of this")


@app.workflow
async def cancels_a_task() -> list[str]:
    task = asyncio.create_task(slow(1))
    await app.sleep(0.02)
    task.cancel()
    seen = []
    try:
        await task
    except asyncio.CancelledError:
        seen.append("cancelled")
    await app.sleep(0.02)
    return [*seen, str(await quick(2))]


@app.workflow
async def cancels_before_it_began() -> str:
    task = asyncio.create_task(slow(1))
    task.cancel()
    await asyncio.wait([task])
    await app.sleep(0.02)
    return str(task.cancelled())


@app.workflow
async def group_fails() -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(slow(1))
            group.create_task(app.sleep(3600))
            group.create_task(quickly_fails())
    except* ValueError as errors:
        seen = str(errors.exceptions)
    await app.sleep(0.02)
    return seen


async def quickly_fails() -> None:
    await quick(2)
    raise ValueError("enough")


@app.workflow
async def waits_for_a_child(seconds: float) -> str:
    try:
        async with app.timeout(seconds):
            await sleeper(0.3)
    except TimeoutError as error:
        await app.sleep(0.02)
        return str(error)
    return "in time"


@app.workflow
async def sleeper(seconds: float) -> None:
    await app.sleep(seconds)


@app.workflow
async def long_timeout() -> str:
    """The step is done before; the timer that nobody waits for leaves nothing."""
    async with app.timeout(3600) as scope:
        await quick(1)
        await app.sleep(0.02)
    await app.sleep(0.02)
    return str(scope.expired)


@app.workflow
async def fires() -> str:
    try:
        async with app.timeout(0.05):
            await slow(1)
    except TimeoutError:
        await app.sleep(0.02)
        return "late"
    return "in time"


@app.workflow
async def someone_else_cancels() -> str:
    """A cancellation that is not the timeout's own passes through it."""

    async def guarded() -> None:
        async with app.timeout(3600):
            await slow(1)

    task = asyncio.create_task(guarded())
    await app.sleep(0.02)
    task.cancel()
    await asyncio.wait([task])
    await app.sleep(0.02)
    return f"cancelled {task.cancelled()}"


@app.workflow
async def sleeps_beside_steps() -> list[int]:
    """One branch sleeps while the others work; the sleepers sleep side by side."""

    async def works() -> int:
        return sum([await quick(n) for n in range(5)])

    sleepers = asyncio.gather(*(app.sleep(0.2) for _ in range(20)))
    total = await works()
    await sleepers
    return [total]


@app.workflow
async def lets_go(kind: str) -> int:
    try:
        async with app.timeout(0.03):
            return await (stubborn(1) if kind == "stubborn" else blocking.in_thread(1))
    except TimeoutError:
        return await quick(2)


@app.workflow
async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await quick(1)


@app.workflow
async def lets_a_cancellation_out() -> None:
    task = asyncio.create_task(slow(1))
    await quick(2)
    task.cancel()
    await task


@app.workflow
async def returns_over_work() -> str:
    left: list[asyncio.Task[Any]] = [asyncio.create_task(slow(n)) for n in range(3)]
    left.append(asyncio.create_task(fails_later()))
    await quick(9)
    return f"{len(left)} left"


async def fails_later() -> None:
    try:
        await slow(5)
    finally:
        raise ValueError("raised after the workflow has returned")


async def test_a_cancelled_step_ends_and_is_not_executed_again_by_a_replay(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            log.clear()
            assert await work.result_when(way, cancels_a_task()) == ["cancelled", "2"]
            # Its record would be an outcome; it has none, and the replay begins nothing.
            assert log == ["slow 1", "cancelled 1", "quick 2"]
        assert await work.result_when(Way.HANDED_BACK, cancels_a_task()) == ["cancelled", "2"]


async def test_a_step_cancelled_before_it_began_is_never_executed(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(cancels_before_it_began) == "True"
    assert log == []


async def test_a_failing_group_cancels_steps_and_sleeps_the_same_on_replay(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            log.clear()
            assert "enough" in await work.result_when(way, group_fails())
            assert sorted(log) == ["cancelled 1", "quick 2", "slow 1"]
        await work.every_way(group_fails)


async def test_a_timeout_fires_and_its_step_is_cancelled(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            log.clear()
            assert await work.result_when(way, fires()) == "late"
            assert log[0] == "slow 1"
            assert log[-1] == "cancelled 1"
        assert await work.every_way(fires) == "late"


async def test_a_timeout_that_does_not_fire_leaves_nothing(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(long_timeout) == "False"


async def test_a_timeout_gives_up_on_a_child_that_goes_on(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(lambda: waits_for_a_child(5)) == "in time"
        assert await work.every_way(lambda: waits_for_a_child(0.1)) == "app.timeout of 0.1 s"
        for child in await work.client.runs(workflow="sleeper"):
            assert await work.client.run(child.id).result(20) is None


async def test_a_cancellation_from_outside_passes_through_a_timeout(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(someone_else_cancels) == "cancelled True"


async def test_sleeps_go_side_by_side_with_steps(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            run = None
            async with work.living(way):
                run = await work.start(sleeps_beside_steps())
                assert await run.result(20) == [10]
            info = await run.info()
            assert info.started_at is not None
            assert info.finished_at is not None
            assert 0.2 <= (info.finished_at - info.started_at).total_seconds() < 2


@pytest.mark.parametrize("kind", ["stubborn", "blocking"])
async def test_a_step_that_ignores_its_cancellation_is_let_go(bench: Open, kind: str) -> None:
    RELEASE.clear()
    async with bench(app, noise=("goes on in its thread",)) as work:
        assert await work.result(lets_go(kind)) == 2
        RELEASE.set()
        async with asyncio.timeout(5):
            while f"{kind} 1 ends" not in log:
                await asyncio.sleep(0.01)


async def test_a_workflow_that_cancels_itself_fails(bench: Open) -> None:
    async with bench(app) as work:
        assert "CancelledError" in str(await work.error(cancels_itself()))
        assert "CancelledError" in str(await work.error(lets_a_cancellation_out()))
        assert await work.result(cancels_before_it_began()) == "True"


async def test_what_still_works_when_the_workflow_returns_is_cancelled(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(returns_over_work()) == "4 left"
        async with asyncio.timeout(5):
            while log.count("cancelled 5") < 1:
                await asyncio.sleep(0.01)
    assert sorted(log) == sorted(
        ["quick 9", *(f"{what} {n}" for what in ("slow", "cancelled") for n in (0, 1, 2, 5))]
    )


async def test_random_cancellations_leave_a_history_that_replays(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                runs = [await work.start(cancels_at_random(seed)) for seed in range(20)]
                for run in runs:
                    seen, replayed = await run.result(30)
                    assert seen == replayed


@app.workflow
async def cancels_at_random(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    seen = []
    for n in range(4):
        task = asyncio.create_task(short(n))
        await app.sleep(rng.random() * 0.01)
        task.cancel()
        await asyncio.wait([task])
        seen.append("cancelled" if task.cancelled() else "done")
    return [await keep(seen), seen]


@app.step
async def short(n: int) -> int:
    await asyncio.sleep(random.random() * 0.01)
    return n


@app.step
async def keep(seen: list[str]) -> list[str]:
    return seen
