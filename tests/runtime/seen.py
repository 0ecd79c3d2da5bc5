"""Asyncio code as people write it, to be run live and replayed: both must see the same.

A scenario gives what its code saw. ``check`` keeps that in a step: the first code that comes there
has its view recorded, and every replay holds its own against it.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from rowlock import App

app = App("scenarios")

Scenario = Callable[[random.Random], Awaitable[Any]]
SCENARIOS: dict[str, Scenario] = {}

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[getattr(function, "__name__", "")] = function
    return function


@app.step
async def keep(seen: Any) -> Any:
    return seen


@app.step
async def work(n: int, seconds: float = 0.0) -> int:
    """Takes a while that nobody can foresee."""
    await asyncio.sleep(seconds * random.random())
    return n


@app.step
async def slow(n: int) -> int:
    await asyncio.sleep(30)
    return n


@app.step
async def fail(n: int, seconds: float = 0.0) -> int:
    await asyncio.sleep(seconds * random.random())
    raise ValueError(f"no {n}")


@app.step
async def my_name() -> str:
    return NAME.get()


@app.workflow
async def check(name: str, seed: int = 1) -> Any:
    seen = await SCENARIOS[name](random.Random(seed))
    kept = await keep(seen)
    await app.sleep(0.01)
    if kept != seen:
        raise AssertionError(f"live saw {kept}, a replay {seen}")
    return kept


def spawn(coroutines: list[Coroutine[Any, Any, Any]]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(one, name=f"t{n}") for n, one in enumerate(coroutines)]
