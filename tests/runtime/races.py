"""Branches that race, in one process or in several: the winners must be the same on replay."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

from runtime.seen import app, keep, scenario, spawn, work


@scenario
async def winners_of_first_completed(_: random.Random) -> list[str]:
    pending: set[asyncio.Task[int]] = set(spawn([work(n, 0.02) for n in range(8)]))
    seen = []
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        seen.append("+".join(task.get_name() for task in done))
        if len(seen) == 3:
            await app.sleep(0.005)
    return seen


@scenario
async def order_of_as_completed(_: random.Random) -> list[int]:
    seen = []
    for first in asyncio.as_completed(spawn([work(n, 0.02) for n in range(8)])):
        seen.append(await first)
        if len(seen) == 4:
            await app.sleep(0.005)
    return seen


@scenario
async def sets_of_wait(_: random.Random) -> list[str]:
    tasks = set(spawn([work(n, 0.01) for n in range(30)]))
    before = [task.get_name() for task in tasks]
    done, _pending = await asyncio.wait(tasks)
    await app.sleep(0.005)
    return before + [task.get_name() for task in done]


@scenario
async def the_winner_cancels_the_others(_: random.Random) -> list[str]:
    seen: list[str] = []

    async def racer(n: int) -> int:
        try:
            await work(n, 0.02)
            await work(n, 0.02)
        except asyncio.CancelledError:
            seen.append(f"{n} cleans up")
            await work(-n)
            seen.append(f"{n} is clean")
            raise
        return n

    tasks = spawn([racer(n) for n in range(6)])
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    seen += [f"{task.result()} wins" for task in done]
    for task in pending:
        task.cancel()
    await app.sleep(0.005)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return seen + [type(one).__name__ for one in results]


@scenario
async def racing_appends(rng: random.Random) -> list[str]:
    """Branches draw from one generator: any other order gives other names and places."""
    seen: list[str] = []

    async def branch(name: str, depth: int) -> None:
        for _ in range(rng.randint(1, 3)):
            match rng.randint(0, 6):
                case 0:
                    await app.sleep(rng.random() * 0.01)
                case 1 if depth < 3:
                    inner = [branch(f"{name}.{n}", depth + 1) for n in range(rng.randint(1, 3))]
                    await asyncio.gather(*inner)
                case 2 if depth < 3:
                    tasks = spawn([branch(f"{name}:{n}", depth + 1) for n in range(2)])
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    tasks[rng.randint(0, 1)].cancel()
                    await asyncio.wait(tasks)
                case 3:
                    with suppress(TimeoutError):
                        async with app.timeout(0.005):
                            await work(1, 0.01)
                case 4:
                    await app.random()
                case _:
                    await work(rng.randint(0, 9), 0.003)
            seen.append(f"{name} {rng.randint(0, 99)}")

    await asyncio.gather(*(branch(str(n), 0) for n in range(4)))
    return list(seen)  # branches that were left behind go on


RACES = (
    winners_of_first_completed,
    order_of_as_completed,
    sets_of_wait,
    the_winner_cancels_the_others,
    racing_appends,
)


@app.workflow
async def races(rounds: int) -> list[Any]:
    """All the races, kept; then replayed as often as it sleeps."""
    seen = [await race(random.Random(7)) for race in RACES]
    kept = await keep(seen)
    for _ in range(rounds):
        await app.sleep(1.05)
        if kept != seen:
            raise AssertionError(f"live saw {kept}, a replay {seen}")
    return seen


async def dig(rng: random.Random, depth: int) -> int:
    """Branches within branches, with all kinds of numbers on the way."""
    for _ in range(rng.randint(0, 8)):
        asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006
    if depth == 0:
        return await work(1)
    return await asyncio.create_task(dig(rng, depth - 1))


@app.workflow
async def digs(depth: int) -> int:
    return await dig(random.Random(depth), depth)
