"""Asyncio's own means between branches: queues, locks, groups, shields, callbacks."""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import Any

from runtime.seen import app, fail, scenario, slow, spawn, work


@scenario
async def producers_and_consumers_share_a_queue(_: random.Random) -> list[str]:
    queue: asyncio.Queue[int | None] = asyncio.Queue(maxsize=2)
    seen: list[str] = []

    async def produce(first: int) -> None:
        for n in range(first, first + 3):
            await queue.put(await work(n, 0.005))

    async def consume(name: str) -> None:
        while (n := await queue.get()) is not None:
            seen.append(f"{name}{await work(n, 0.005)}")

    consumers = spawn([consume("a"), consume("b")])
    await asyncio.gather(produce(0), produce(10), produce(20))
    await app.sleep(0.005)
    for _consumer in consumers:
        await queue.put(None)
    await asyncio.gather(*consumers)
    return seen


@scenario
async def a_semaphore_and_a_lock(_: random.Random) -> list[str]:
    few, one = asyncio.Semaphore(2), asyncio.Lock()
    seen: list[str] = []

    async def visit(n: int) -> None:
        async with few:
            await work(n, 0.005)
            async with one:
                seen.append(f"in {n}")
                await app.sleep(0.001)
                seen.append(f"out {n}")

    await asyncio.gather(*(visit(n) for n in range(6)))
    return seen


@scenario
async def conditions_events_and_barriers(_: random.Random) -> list[str]:
    condition, event, barrier = asyncio.Condition(), asyncio.Event(), asyncio.Barrier(3)
    seen: list[str] = []

    async def waiter(n: int) -> None:
        await event.wait()
        await work(n, 0.005)
        async with condition:
            await condition.wait_for(lambda: len(seen) >= n)
            seen.append(f"step {n}")
            condition.notify_all()
        await barrier.wait()
        seen.append(f"through {n}")

    tasks = spawn([waiter(n) for n in range(3)])
    await app.sleep(0.005)
    event.set()
    await asyncio.gather(*tasks)
    return seen


@scenario
async def gathers_of_gathers_with_errors(_: random.Random) -> list[Any]:
    inner = asyncio.gather(work(1), fail(2), work(3), return_exceptions=True)
    other = asyncio.gather(work(4), asyncio.gather(work(5), work(6)))
    results: list[Any] = list(await asyncio.gather(inner, other))
    await app.sleep(0.005)
    try:
        await asyncio.gather(work(7, 0.01), fail(8), work(9, 0.01))
    except ValueError as error:
        results.append(str(error))
    return [repr(one) for one in results]


@scenario
async def a_shield_outlives_its_waiter(_: random.Random) -> list[str]:
    inner = asyncio.create_task(work(1, 0.01))

    async def wait() -> None:
        await asyncio.shield(inner)

    outer = asyncio.create_task(wait())
    await app.sleep(0)
    outer.cancel()
    await asyncio.wait([outer])
    return [f"outer {outer.cancelled()}", f"inner {await inner}"]


@scenario
async def callbacks_of_tasks_and_the_loop(_: random.Random) -> list[str]:
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    later: list[asyncio.Task[int]] = []

    def on_done(task: asyncio.Task[int]) -> None:
        seen.append(f"{task.result()} is done")
        later.append(asyncio.create_task(work(10 + task.result())))

    tasks = spawn([work(n, 0.01) for n in range(4)])
    for task in tasks:
        task.add_done_callback(on_done)
    loop.call_soon(seen.append, "soon")
    await asyncio.gather(*tasks)
    await app.sleep(0.005)
    return seen + [str(n) for n in await asyncio.gather(*later)]


@scenario
async def a_group_that_fails_cancels_its_other_branches(_: random.Random) -> list[str]:
    seen: list[str] = []

    async def careful(n: int) -> None:
        try:
            await slow(n)
        finally:
            seen.append(f"{n} leaves")
            await work(n)
            seen.append(f"{n} has left")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(careful(1))
            group.create_task(careful(2))
            group.create_task(fail(3, 0.01))
            group.create_task(fail(4, 0.01))
    except* ValueError as errors:
        seen += [str(error) for error in errors.exceptions]
    await app.sleep(0.005)
    return seen


def hand_on(future: asyncio.Future[int], task: asyncio.Task[int]) -> None:
    future.set_result(task.result())


@scenario
async def sets_of_shields_and_futures(_: random.Random) -> list[int]:
    loop = asyncio.get_running_loop()
    futures: dict[asyncio.Future[int], int] = {loop.create_future(): n for n in range(10)}
    tasks = spawn([work(n, 0.005) for n in range(10)])
    for future, task in zip(futures, tasks, strict=True):
        task.add_done_callback(partial(hand_on, future))
    shields = {asyncio.shield(task): n for n, task in enumerate(tasks)}
    await app.sleep(0.005)
    done, _pending = await asyncio.wait([*shields, *futures])
    return [(shields | futures)[one] for one in done]


@scenario
async def callbacks_that_raise(_: random.Random) -> list[str]:
    seen: list[str] = []

    def broken() -> None:
        seen.append("called")
        raise ValueError("in a callback")

    asyncio.get_running_loop().call_soon(broken)
    await work(1)
    await app.sleep(0.005)
    return [*seen, str(await work(2))]


@scenario
async def one_call_awaited_twice(_: random.Random) -> list[int]:
    call = work(5)
    task = asyncio.create_task(work(6))
    both = await asyncio.gather(task, task)
    await app.sleep(0.005)
    return [await call, await call, *both]


@scenario
async def a_worker_pool_that_is_cancelled(_: random.Random) -> list[str]:
    """The textbook: workers on a queue, joined, then cancelled."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    seen: list[str] = []

    async def worker(name: str) -> None:
        while True:
            n = await queue.get()
            try:
                seen.append(f"{name}{await work(n, 0.005)}")
            finally:
                queue.task_done()

    for n in range(9):
        queue.put_nowait(n)
    workers = spawn([worker(name) for name in "abc"])
    await queue.join()
    for one in workers:
        one.cancel()
    results = await asyncio.gather(*workers, return_exceptions=True)
    await app.sleep(0.005)
    return [*seen, *(type(one).__name__ for one in results)]


@scenario
async def a_task_that_is_cancelled_and_shielded_work(_: random.Random) -> list[str]:
    """Cleaning up under a shield, as libraries do it."""
    seen: list[str] = []

    async def clean_up() -> None:
        seen.append(f"cleaned {await work(1, 0.01)}")

    async def job() -> None:
        try:
            await slow(1)
        finally:
            await asyncio.shield(clean_up())

    task = asyncio.create_task(job())
    await app.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    return [*seen, str(task.cancelled())]
