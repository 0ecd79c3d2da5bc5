"""Time, UUIDs and chance are recorded; functions that can't be decorated are steps by name."""

from __future__ import annotations

import asyncio
import functools
import os.path
from datetime import UTC, datetime
from typing import Any

from rowlock import App
from rowlock.errors import ConfigurationError
from runtime.bench import Open, Way

app = App("notes")
calls: list[str] = []


@app.step
async def keep(seen: list[str]) -> list[str]:
    return seen


@app.workflow
async def notes() -> list[list[str]]:
    seen = [str(one) for one in (await app.now(), await app.uuid(), await app.random())]
    await app.sleep(0.02)
    seen += [str(one) for one in await asyncio.gather(app.random(), app.now(), app.uuid())]
    kept = await keep(seen)
    await app.sleep(0.02)
    return [kept, seen]


async def slow_length(text: str) -> int:
    calls.append("slow_length")
    await asyncio.sleep(0)
    return len(text)


def shout(text: str, *, mark: str = "!") -> str:
    calls.append("shout")
    return text.upper() + mark


class Tool:
    def method(self) -> int:
        return 1

    @staticmethod
    def static(n: int) -> int:
        return n + 1

    def __call__(self) -> int:
        return 5


@app.workflow
async def functions() -> list[Any]:
    found: list[Any] = [
        await app.run_step("length", slow_length, "four"),
        await app.run_step("shout", shout, "hey", mark="?"),
        await app.run_step("join", os.path.join, "a", "b"),
        await app.run_step("sum", sum, [1, 2, 3]),
        await app.run_step("sorted", sorted, {3, 1, 2}),
        await app.run_step("partial", functools.partial(shout, mark="…"), "you"),
        await app.run_step("async partial", functools.partial(slow_length, "hello")),
        await app.run_step("static", Tool.static, 1),
        await app.run_step("callable", Tool()),
        await app.run_step("lambda", lambda: [1, 2]),
        await app.run_step("upper", "text".upper),
    ]
    await app.sleep(0.02)
    try:
        await app.run_step("method", Tool().method)
    except ConfigurationError as error:
        found.append("bound method" in str(error))
    return found


async def test_time_uuid_and_chance_are_the_same_on_replay(bench: Open) -> None:
    async with bench(app) as work:
        before = datetime.now(UTC)
        for way in Way:
            kept, seen = await work.result_when(way, notes())
            assert kept == seen
            now, uuid, chance, chance_too, _, uuid_too = seen
            assert datetime.fromisoformat(now).tzinfo is not None
            assert abs((datetime.fromisoformat(now) - before).total_seconds()) < 30
            assert uuid != uuid_too
            assert chance != chance_too


async def test_any_function_is_a_step_by_name(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            calls.clear()
            assert await work.result_when(way, functions()) == [
                *(4, "HEY?", "a/b", 6, [1, 2, 3], "YOU…", 5, 2, 5, [1, 2], "TEXT", True)
            ]
            assert calls == ["slow_length", "shout", "shout", "slow_length"]
