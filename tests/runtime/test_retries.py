"""Steps that fail are tried again as their policy says; those that take too long are given up."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from itertools import pairwise

import pytest

from rowlock import App, Retry
from rowlock.errors import InvalidValue, StepFailed, StepTimeout
from runtime.bench import Open, Way, until

app = App("retries")
tried: list[float] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    tried.clear()


SOON = timedelta(milliseconds=10)


@app.step(retry=Retry(attempts=4, first_delay=SOON, factor=2, jitter=0))
async def third_time_lucky() -> int:
    tried.append(time.monotonic())
    if len(tried) < 3:
        raise OSError(f"attempt {len(tried)}")
    return len(tried)


@app.step(retry=Retry(attempts=3, first_delay=SOON, factor=3, jitter=0))
def never_lucky() -> None:
    tried.append(time.monotonic())
    raise OSError(f"attempt {len(tried)}")


@app.step(retry=Retry(attempts=5, first_delay=SOON, give_up_on=(KeyError,)))
async def gives_up() -> None:
    tried.append(time.monotonic())
    if len(tried) == 2:
        raise KeyError("not again")
    raise OSError


@app.step(retry=Retry(attempts=5, first_delay=SOON, retry_on=(OSError,)))
async def picky() -> None:
    tried.append(time.monotonic())
    if len(tried) == 2:
        raise ValueError("not one of those")
    raise OSError


@app.step(retry=Retry(attempts=4, first_delay=timedelta(seconds=1.1), factor=1, jitter=0))
async def patient() -> int:
    tried.append(time.monotonic())
    if len(tried) < 3:
        raise OSError(f"attempt {len(tried)}")
    return len(tried)


@app.step(retry=Retry(attempts=9, first_delay=SOON))
async def unstorable() -> object:
    tried.append(time.monotonic())
    return {"good": 1, "bad": [object()]}


@app.step(timeout=0.05, retry=Retry(attempts=2, first_delay=SOON))
async def too_slow() -> None:
    tried.append(time.monotonic())
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        tried.append(-1)
        raise


@app.step(timeout=timedelta(seconds=5))
async def own_timeout() -> None:
    raise TimeoutError("the step's own")


@app.step(timeout=0.05)
def blocks() -> str:
    RELEASE.wait(10)
    tried.append(-1)
    return "too late"


RELEASE = threading.Event()


@app.step(retry=Retry(attempts=2, first_delay=SOON))
def stops_iterating() -> int:
    tried.append(0)
    return next(iter([]))


@app.step
def exits() -> None:
    raise SystemExit(3)


@app.step
async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


STEPS = {
    step.name: step
    for step in (third_time_lucky, gives_up, picky, patient, unstorable, too_slow, own_timeout)
} | {"cancels_itself": cancels_itself}
PLAIN_STEPS = {step.name: step for step in (never_lucky, blocks, stops_iterating, exits)}


@app.workflow
async def tries(name: str) -> object:
    if name in STEPS:
        return await STEPS[name]()
    return await PLAIN_STEPS[name].in_thread()


async def test_attempts_and_delays_grow_as_the_policy_says(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            tried.clear()
            async with work.living(way):
                run = await work.start(tries("third_time_lucky"))
                assert await run.result(20) == 3
            assert len(tried) == 3
            first, second = (b - a for a, b in pairwise(tried))
            assert first >= 0.01
            assert second >= 0.02
            assert [step.attempts for step in await run.steps()] == [3]


async def test_the_last_error_counts_when_all_attempts_failed(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(tries("never_lucky"))
        error = await work.error_of(run)
        assert isinstance(error, OSError)
        assert str(error) == "attempt 3"
        assert [step.attempts for step in await run.steps()] == [3]
    assert len(tried) == 3


async def test_errors_to_give_up_on_and_errors_not_to_retry_on_end_it(bench: Open) -> None:
    async with bench(app) as work:
        assert isinstance(await work.error(tries("gives_up")), KeyError)
        assert len(tried) == 2
        tried.clear()
        assert isinstance(await work.error(tries("picky")), ValueError)
        assert len(tried) == 2


async def test_a_long_delay_waits_in_the_database_and_attempts_count_on(bench: Open) -> None:
    async with bench(app, way=None) as work:
        run = await work.start(tries("patient"))
        for attempt in (1, 2):
            await work.status(run, "waiting")
            [(kind, counted, error)] = work.sql("select kind, attempt, error from rowlock.wait")
            assert (kind, counted) == ("retry", attempt)
            assert error["message"] == f"attempt {attempt}"
            await until(lambda: not work.loaded())  # the database knows a moment earlier
            async with asyncio.timeout(5):
                while len(tried) == attempt:
                    await asyncio.sleep(0.01)
        assert await run.result(20) == 3
        assert [step.attempts for step in await run.steps()] == [3]
    assert all(b - a >= 1.1 for a, b in pairwise(tried))


async def test_a_value_that_cant_be_stored_fails_the_step_at_once(bench: Open) -> None:
    async with bench(app) as work:
        error = await work.error(tries("unstorable"))
        assert isinstance(error, InvalidValue)
        assert "bad[0]" in str(error)
        assert "step unstorable" in str(error)
    assert len(tried) == 1


async def test_an_async_step_is_cancelled_at_its_timeout_and_tried_again(bench: Open) -> None:
    async with bench(app) as work:
        error = await work.error(tries("too_slow"))
        assert isinstance(error, StepTimeout)
        assert (error.step, error.seconds) == ("too_slow", 0.05)
    assert len(tried) == 4  # twice begun, twice cancelled


async def test_a_steps_own_timeout_error_is_its_own(bench: Open) -> None:
    async with bench(app) as work:
        error = await work.error(tries("own_timeout"))
        assert type(error) is TimeoutError
        assert str(error) == "the step's own"


async def test_a_sync_step_is_abandoned_at_its_timeout_and_its_late_result_is_void(
    bench: Open,
) -> None:
    RELEASE.clear()
    async with bench(app, noise=("goes on in its thread",)) as work:
        run = await work.start(tries("blocks"))
        assert isinstance(await work.error_of(run), StepTimeout)
        RELEASE.set()
        async with asyncio.timeout(5):
            while not tried:
                await asyncio.sleep(0.01)
        [step] = await run.steps()
        assert step.output is None


async def test_a_step_that_raises_what_no_future_takes_fails_and_does_not_hang(
    bench: Open,
) -> None:
    async with bench(app) as work:
        error = await work.error(tries("stops_iterating"))
        assert "StopIteration" in str(error)
        assert len(tried) == 2
        for name in ("exits", "cancels_itself"):
            assert isinstance(await work.error(tries(name)), StepFailed)
