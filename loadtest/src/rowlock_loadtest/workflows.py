"""The workflows that the load tests run. They do nothing, so that only Rowlock is measured."""

from __future__ import annotations

import time

from rowlock import App

app = App("loadtest")


@app.step
async def step(number: int) -> int:
    return number


@app.workflow
async def noop() -> None:
    return None


@app.workflow
async def entered() -> int:
    """When the function was entered: nanoseconds of the machine's monotonic clock."""
    return time.monotonic_ns()


@app.workflow
async def steps(count: int) -> None:
    for number in range(count):
        await step(number)


@app.workflow
async def steps_then_sleep(count: int, seconds: float) -> None:
    for number in range(count):
        await step(number)
    await app.sleep(seconds)


@app.workflow
async def sleeper(until: float) -> None:
    """Sleeps until a time (seconds since 1970)."""
    now = await app.now()
    await app.sleep(until - now.timestamp())


@app.workflow
async def square(n: int) -> int:
    return n * n


@app.workflow
async def fan_out(count: int) -> int:
    """As many children as are asked for, and the sum of what they give."""
    return sum(await app.map(square(n) for n in range(count)))


@app.workflow
async def hears(count: int) -> int:
    """Receives messages, one after the other."""
    for _ in range(count):
        await app.receive("item")
    return count
