"""A step can ask whether anybody still waits for it, and one that goes on regardless is counted."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from rowlock import App, Retry
from rowlock.errors import ConfigurationError, MisplacedCall, RunFailed, StepTimeout
from rowlock.runtime.step_threads import StepThreads
from runtime.bench import Bench, Open, until

app = App("abandoned")
log: list[str] = []
BEGAN = threading.Event()
RELEASE = threading.Event()

PATIENCE_S = 30.0
LIMIT_S = 0.5
"""Long enough for a thread to begin, on a machine that others use too."""
AT_ONCE = timedelta(0)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    log.clear()
    BEGAN.clear()
    RELEASE.clear()
    yield
    RELEASE.set()


def work_until_cancelled(name: str) -> str:
    """What a plain function with a loop of its own should do."""
    log.append(f"{name} begins")
    BEGAN.set()
    end = time.monotonic() + PATIENCE_S
    while not app.cancelled():
        assert time.monotonic() < end, f"{name} was never told"
        time.sleep(0.001)
    log.append(f"{name} was told")
    return "half of it"


@app.step(timeout=LIMIT_S)
def limited() -> str:
    return work_until_cancelled("limited")


@app.step(timeout=LIMIT_S)
def gives_up_by_itself() -> str:
    work_until_cancelled("gives up by itself")
    raise ValueError("I was too late")


@app.step
def unlimited() -> str:
    assert not app.cancelled()
    return work_until_cancelled("unlimited")


@app.step(timeout=LIMIT_S)
async def limited_async() -> str:
    assert not app.cancelled()
    try:
        await asyncio.sleep(PATIENCE_S)
    finally:
        log.append(f"told: {app.cancelled()}")
    return "never"


@app.step(timeout=LIMIT_S)
async def never_awaits() -> str:
    """Blocks the loop, so no timer of it can tell."""
    return work_until_cancelled("never awaits")


@app.step(timeout=LIMIT_S)
async def shrugs() -> str:
    try:
        await asyncio.sleep(PATIENCE_S)
    except asyncio.CancelledError:
        return "too late"
    return "never"


@app.step(timeout=LIMIT_S, retry=Retry(attempts=2, first_delay=AT_ONCE))
def second_try() -> str:
    if "second try begins" in log:
        assert not app.cancelled()
        return "fine"
    return work_until_cancelled("second try")


@app.step(retry=Retry(attempts=9, first_delay=AT_ONCE))
async def fails_when_cancelled() -> str:
    log.append("attempt")
    BEGAN.set()
    try:
        await asyncio.sleep(PATIENCE_S)
    except asyncio.CancelledError:
        raise OSError("the connection broke while it was closed") from None
    return "never"


@app.step(timeout=LIMIT_S)
def hangs() -> str:
    RELEASE.wait(PATIENCE_S)
    return "too late"


@app.step
def hangs_without_limit() -> str:
    RELEASE.wait(PATIENCE_S)
    return "too late"


@app.step
def asks_in_threads() -> list[str]:
    seen = []

    def ask(name: str) -> None:
        try:
            seen.append(f"{name}: {app.cancelled()}")
        except MisplacedCall:
            seen.append(f"{name}: refused")

    context = contextvars.copy_context()
    for target, args in ((ask, ("bare",)), (context.run, (ask, "in its context"))):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()
    return seen


@app.transaction(timeout=LIMIT_S)
def books_until_cancelled(tx: psycopg.Connection[Any]) -> str:
    tx.execute("insert into booked values (1)")
    return work_until_cancelled("booking")


@app.transaction(timeout=LIMIT_S)
async def books_until_cancelled_async(tx: psycopg.AsyncConnection[Any]) -> str:
    await tx.execute("insert into booked values (1)")
    while not app.cancelled():
        await asyncio.sleep(0.001)
    return "half of it"


ASYNC = {
    step.name: step
    for step in (
        limited_async,
        never_awaits,
        shrugs,
        fails_when_cancelled,
        books_until_cancelled_async,
    )
}
PLAIN = {
    step.name: step
    for step in (
        limited,
        gives_up_by_itself,
        unlimited,
        second_try,
        hangs,
        hangs_without_limit,
        asks_in_threads,
        books_until_cancelled,
    )
}


@app.workflow
async def calls(name: str) -> Any:
    if name in ASYNC:
        return await ASYNC[name]()
    return await PLAIN[name].in_thread()


@app.workflow
async def asks_itself() -> bool:
    return app.cancelled()


@app.workflow
def asks_itself_sync() -> bool:
    return app.cancelled()


@app.workflow
async def lets_go(name: str, seconds: float) -> str:
    try:
        async with app.timeout(seconds):
            await (ASYNC[name]() if name in ASYNC else PLAIN[name].in_thread())
    except TimeoutError:
        return "let go"
    return "never"


def threads_of(work: Bench) -> StepThreads:
    tenure = work.process.tenure
    assert tenure is not None
    return tenure.steps._threads


NOISE = ("goes on in its thread",)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("limited", 4),
        ("gives_up_by_itself", 4),
        ("never_awaits", 4),
        ("books_until_cancelled", 4),
        ("books_until_cancelled_async", 0),  # it may be cancelled before it has asked
    ],
)
async def test_a_step_sees_that_its_time_is_up_and_what_it_gives_then_is_void(
    bench: Open, name: str, told: int
) -> None:
    async with bench(app, noise=NOISE) as work:
        work.sql("create table booked (n int)")
        # Several: each gives up in the same moment as the worker gives it up.
        for run in [await work.start(calls(name)) for _ in range(4)]:
            assert isinstance(await work.error_of(run), StepTimeout)
            [step] = await run.steps()
            assert step.output is None
        await until(lambda: sum("was told" in line for line in log) == told)
        await until(lambda: not threads_of(work).abandoned)
        assert work.sql("select * from booked") == []


async def test_an_async_step_is_told_when_it_is_cancelled(bench: Open) -> None:
    async with bench(app) as work:
        assert isinstance(await work.error(calls("limited_async")), StepTimeout)
        assert log == ["told: True"]
        assert isinstance(await work.error(calls("shrugs")), StepTimeout)


async def test_every_attempt_has_its_own_time(bench: Open) -> None:
    async with bench(app, noise=NOISE) as work:
        assert await work.result(calls("second_try")) == "fine"
        await until(lambda: log == ["second try begins", "second try was told"])


async def test_a_step_is_told_that_its_branch_gave_it_up(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(lets_go("unlimited", LIMIT_S)) == "let go"
        await until(lambda: log == ["unlimited begins", "unlimited was told"])


@pytest.mark.parametrize("force", [False, True])
async def test_a_step_is_told_that_its_run_is_cancelled(bench: Open, force: bool) -> None:
    async with bench(app, noise=("it was cancelled",)) as work:
        run = await work.start(calls("unlimited"))
        await until(BEGAN.is_set)
        await run.cancel(force=force)
        await until(lambda: log == ["unlimited begins", "unlimited was told"])
        with pytest.raises(RunFailed) as ended:
            await run.result(PATIENCE_S)
        assert ended.value.status == "cancelled"
        assert [step.name for step in await run.steps() if step.kind == "step"] == []


async def test_a_step_is_told_that_its_run_goes_on_elsewhere(bench: Open) -> None:
    async with bench(app, slots=1, noise=("lost the lease",)) as work:
        run = await work.start(calls("unlimited"))
        await until(BEGAN.is_set)
        BEGAN.clear()
        [first] = work.loaded()
        first.release()
        await until(lambda: "unlimited was told" in log)
        await until(BEGAN.is_set)  # the run again
        work.sql("update rowlock.task set epoch = epoch + 1")  # somebody else's now
        [second] = work.loaded()
        second.lost()
        await until(lambda: log.count("unlimited was told") == 2)
        work.sql("delete from rowlock.task")
        work.sql("delete from rowlock.run where id = %s", run.id)


async def test_a_step_that_fails_when_nobody_waits_is_not_tried_again(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(lets_go("fails_when_cancelled", LIMIT_S))
        assert await run.result(PATIENCE_S) == "let go"
        assert [step.name for step in await run.steps() if step.kind == "step"] == []
    assert log == ["attempt"]


async def test_abandoned_threads_are_counted_until_they_end(
    bench: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(app, noise=NOISE) as work:
        assert isinstance(await work.error(calls("hangs")), StepTimeout)
        threads = threads_of(work)
        assert await work.result(lets_go("hangs_without_limit", LIMIT_S)) == "let go"
        assert threads.abandoned == {"hangs": 1, "hangs_without_limit": 1}
        assert "step hangs goes on in its thread after its timeout; its result is void" in (
            caplog.text
        )
        RELEASE.set()
        await until(lambda: not threads.abandoned)


async def test_it_is_asked_inside_steps_only(bench: Open) -> None:
    async with bench(app) as work:
        for call in (asks_itself(), asks_itself_sync()):
            error = await work.error(call)
            assert isinstance(error, MisplacedCall)
            assert "outside a step" in str(error)
        assert await work.result(calls("asks_in_threads")) == [
            "bare: refused",
            "in its context: False",
        ]
    with pytest.raises(MisplacedCall):
        app.cancelled()


async def test_a_step_called_outside_a_run_is_never_cancelled() -> None:
    @app.step(name="outside")
    def plain() -> bool:
        return app.cancelled()

    @app.step(name="outside, async")
    async def asynchronous() -> bool:
        return app.cancelled() or plain()

    assert plain() is False
    assert await plain.in_thread() is False
    assert await asynchronous() is False
    assert await asyncio.to_thread(asynchronous.blocking) is False
    with pytest.raises(MisplacedCall):  # what comes after them is outside again
        app.cancelled()


def used_up(
    steps: int, transactions: int = 0, *, most: int = 3, connections: int = 2, lost_s: float = 0.0
) -> StepThreads:
    threads = StepThreads(10, most_abandoned=most, connections=connections, lost_s=lost_s)
    for _ in range(steps):
        threads.abandon("fetch")
    for _ in range(transactions):
        threads.abandon("book", has_connection=True)
    threads.close()
    return threads


def test_a_process_is_used_up_by_so_many_abandoned_steps() -> None:
    assert not used_up(2).are_used_up
    assert used_up(3).are_used_up
    assert used_up(2, 1).are_used_up
    assert not used_up(0, 1).are_used_up
    assert used_up(0, 2).are_used_up, "no connection is left for transactions"
    assert not used_up(100, 100, most=0).are_used_up
    assert not used_up(100, 100, lost_s=3600.0).are_used_up, "they may end in a moment"


def test_abandoned_steps_take_no_thread_from_the_others() -> None:
    threads = StepThreads(1, most_abandoned=20, connections=10)
    held = [threads.submit(lambda: RELEASE.wait(PATIENCE_S)) for _ in range(20)]
    others: list[Callable[[], int]] = [lambda n=n: n for n in range(5)]  # type: ignore[misc]
    assert [threads.submit(one).result(PATIENCE_S) for one in others] == [0, 1, 2, 3, 4]
    RELEASE.set()
    assert all(one.result(PATIENCE_S) for one in held)
    threads.close()


def test_a_policy_that_is_none_is_refused() -> None:
    for declare in (app.step, app.transaction):
        with pytest.raises(ConfigurationError, match="retry is 5, but must be a Retry"):
            declare(name=f"odd {declare.__name__}", retry=5)(lambda tx: tx)  # type: ignore[call-overload]
