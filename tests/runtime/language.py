"""What the language offers (contexts, generators, recursion), and timeouts around it."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from runtime.seen import NAME, app, my_name, scenario, slow, work


@scenario
async def contexts_are_inherited_by_branches_and_steps(_: random.Random) -> list[str]:
    NAME.set("main")

    async def branch(name: str) -> str:
        before = await my_name()
        NAME.set(name)
        return before + " then " + await my_name()

    both = await asyncio.gather(branch("left"), branch("right"))
    await app.sleep(0.005)
    in_context = asyncio.create_task(my_name(), context=contextvars.Context())
    return [*both, await my_name(), await in_context]


@scenario
async def generators_managers_and_comprehensions(_: random.Random) -> list[Any]:
    seen: list[str] = []

    @asynccontextmanager
    async def resource(n: int) -> AsyncIterator[int]:
        yield await work(n)
        seen.append(f"gave back {await work(n)}")

    async def numbers(count: int) -> AsyncGenerator[int, None]:
        try:
            for n in range(count):
                async with resource(n) as one:
                    yield one
                    await app.sleep(0.002)
        finally:
            seen.append("numbers end")

    listed = [n async for n in numbers(3)]
    awaited = [await work(n) for n in range(3)]
    async with aclosing(numbers(9)) as some:
        async for n in some:
            if n == 1:
                break
    return [listed, awaited, seen]


@scenario
async def a_generator_that_is_left_early_cleans_up(_: random.Random) -> list[str]:
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            for n in range(9):
                yield await work(n)
        finally:
            seen.append("leaving")
            await work(99)
            seen.append("left")

    async for n in numbers():
        if n == 1:
            break
    await work(3)
    await app.sleep(0.005)
    return seen


@scenario
async def recursion(_: random.Random) -> int:
    async def down(n: int) -> int:
        if n == 0:
            return await work(0)
        return 1 + await down(n - 1)

    await app.sleep(0.005)
    return await down(200)


@scenario
async def branches_fifty_deep(_: random.Random) -> int:
    async def down(n: int) -> int:
        await work(n)
        if n == 0:
            return 0
        return 1 + await asyncio.create_task(down(n - 1))

    depth = await down(50)
    await app.sleep(0.005)
    return depth


@scenario
async def a_thousand_branches(_: random.Random) -> int:
    numbers = await asyncio.gather(*(work(n) for n in range(1000)))
    await app.sleep(0.005)
    return sum(numbers)


@scenario
async def branches_that_nobody_awaits(_: random.Random) -> str:
    asyncio.create_task(work(1))  # noqa: RUF006 - that is the point
    asyncio.create_task(slow(2))  # noqa: RUF006
    asyncio.create_task(app.sleep(3600))  # noqa: RUF006
    await app.sleep(0.005)
    return "main goes on"


@scenario
async def timeouts_that_race_with_what_they_guard(_: random.Random) -> list[str]:
    seen = []
    for n in range(6):
        try:
            async with app.timeout(0.005) as scope:
                await work(n, 0.01)
            seen.append(f"{n} in time")
        except TimeoutError as error:
            seen.append(f"{n} {error} {scope.expired}")
    return seen


@scenario
async def timeouts_within_timeouts(_: random.Random) -> list[str]:
    seen = []
    try:
        async with app.timeout(1):
            try:
                async with app.timeout(0.01):
                    await slow(1)
            except TimeoutError:
                seen.append("inner")
            await work(2)
            try:
                async with app.timeout(60):
                    await slow(3)
            finally:
                seen.append("through the wide one")
    except TimeoutError:
        seen.append("outer")
    return seen


@scenario
async def a_timeout_around_many_branches(_: random.Random) -> list[str]:
    seen: list[str] = []

    async def member(n: int) -> None:
        try:
            await slow(n)
        except asyncio.CancelledError:
            seen.append(f"{n} told")
            raise

    try:
        async with app.timeout(0.01), asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(member(n))
            await app.sleep(60)
    except TimeoutError:
        seen.append("late")
    return seen


@scenario
async def zero_is_a_time_too(_: random.Random) -> list[str]:
    await app.sleep(0)
    seen = ["slept"]
    try:
        async with app.timeout(0):
            await slow(1)
    except TimeoutError:
        seen.append("late")
    async with app.timeout(0):
        seen.append("nothing to wait for")
    return seen
