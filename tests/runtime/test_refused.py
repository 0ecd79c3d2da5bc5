"""What can't work in a workflow is refused: the run fails with what to do, and never hangs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from rowlock import App
from rowlock.errors import MisplacedCall
from runtime.bench import Open

app = App("refused")


@app.step
async def one() -> int:
    return 1


@app.step
def plain() -> int:
    return 1


@app.transaction
def plain_transaction(tx: Any) -> int:
    return 1


@app.workflow
async def attempts(what: str) -> None:
    before = await one()
    assert before == 1
    await ATTEMPTS[what]()


@app.workflow
async def fine() -> str:
    await app.sleep(0.01)
    return "fine"


async def sleep() -> None:
    await asyncio.sleep(0.1)


async def timeout() -> None:
    async with asyncio.timeout(1):
        await one()


async def timeout_at() -> None:
    async with asyncio.timeout_at(1):
        await one()


async def wait_for() -> None:
    await asyncio.wait_for(one(), 1)


async def wait_with_timeout() -> None:
    await asyncio.wait([asyncio.create_task(one())], timeout=1)


async def as_completed_with_timeout() -> None:
    for first in asyncio.as_completed([asyncio.create_task(one())], timeout=1):
        await first


async def loop_time() -> None:
    asyncio.get_running_loop().time()


async def call_later() -> None:
    asyncio.get_running_loop().call_later(1, print)


async def to_thread() -> None:
    await asyncio.to_thread(print)


async def run_in_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, print)


async def open_connection() -> None:
    await asyncio.open_connection("localhost", 1)


async def subprocess() -> None:
    await asyncio.create_subprocess_exec("true")


async def as_completed_of_coroutines() -> None:
    for first in asyncio.as_completed([one(), one()]):
        await first


async def wait_for_gathers() -> None:
    await asyncio.wait([asyncio.gather(one(), one()), asyncio.gather(one(), one())])


async def plain_step() -> None:
    plain()


async def plain_transaction_step() -> None:
    plain_transaction()


async def blocking_verb() -> None:
    app.sleep(0).wait()


async def blocking_child() -> None:
    fine().wait()


async def blocking_step() -> None:
    one.blocking()


async def event_never_set() -> None:
    await asyncio.Event().wait()


async def queue_never_filled() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    await asyncio.gather(queue.get(), one())


async def spinning() -> None:
    while True:
        await asyncio.sleep(0)


async def spinning_stubbornly() -> None:
    while True:
        with suppress(BaseException):
            await asyncio.sleep(0)


async def exits() -> None:
    sys.exit("enough")


async def exits_in_a_branch() -> None:
    await asyncio.gather(one(), exits())


ATTEMPTS: dict[str, Callable[[], Awaitable[None]]] = {
    function.__name__: function
    for function in (
        *(sleep, timeout, timeout_at, wait_for, wait_with_timeout, as_completed_with_timeout),
        *(loop_time, call_later, to_thread, run_in_executor, open_connection, subprocess),
        *(
            as_completed_of_coroutines,
            wait_for_gathers,
            plain_step,
            plain_transaction_step,
            blocking_verb,
        ),
        *(blocking_child, blocking_step, event_never_set, queue_never_filled),
        *(spinning, spinning_stubbornly, exits, exits_in_a_branch),
    )
}

HINTS = {
    "sleep": "await app.sleep",
    "timeout": "async with app.timeout",
    "timeout_at": "async with app.timeout",
    "wait_for": "async with app.timeout",
    "wait_with_timeout": "async with app.timeout",
    "as_completed_with_timeout": "async with app.timeout",
    "loop_time": "await app.sleep",
    "call_later": "await app.sleep",
    "to_thread": "into a step",
    "run_in_executor": "into a step",
    "open_connection": "into a step",
    "subprocess": "into a step",
    "as_completed_of_coroutines": "asyncio.create_task(c)",
    "wait_for_gathers": "Make a task of it",
    "plain_step": "await plain.in_thread(",
    "plain_transaction_step": "await plain_transaction.in_thread(",
    "blocking_verb": "Await the call",
    "blocking_child": "Await the call",
    "blocking_step": "await one(",
    "event_never_set": "an asyncio.Event that is never set",
    "queue_never_filled": "nothing in this run will ever bring about",
}


@pytest.mark.parametrize("what", HINTS)
async def test_the_run_fails_and_names_the_alternative_to(bench: Open, what: str) -> None:
    async with bench(app) as work:
        error = await work.error(attempts(what))
        assert isinstance(error, MisplacedCall)
        assert HINTS[what] in str(error)


@pytest.mark.parametrize("what", ["spinning", "spinning_stubbornly"])
async def test_a_run_that_polls_for_ever_fails_and_others_go_on(
    bench: Open, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowlock.runtime.branches.MOST_CALLBACKS", 100_000)
    noise = ("caught its cancellation",) if what == "spinning_stubbornly" else ()
    async with bench(app, noise=noise) as work:
        spins = await work.start(attempts(what))
        others = [await work.start(fine()) for _ in range(5)]
        error = await work.error_of(spins)
        assert isinstance(error, MisplacedCall)
        assert "polls with asyncio.sleep(0)" in str(error)
        assert [await other.result(20) for other in others] == ["fine"] * 5


@pytest.mark.parametrize("what", ["exits", "exits_in_a_branch"])
async def test_sys_exit_ends_the_run_and_not_the_worker(bench: Open, what: str) -> None:
    async with bench(app) as work:
        error = await work.error(attempts(what))
        assert "SystemExit" in str(error)
        assert await work.result(fine()) == "fine"
