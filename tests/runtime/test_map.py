"""``app.map``: many children at once, one sleep and one wake-up for their parent."""

from __future__ import annotations

from typing import Any

import pytest

from rowlock import App
from rowlock.errors import MisplacedCall, RunFailed
from runtime.bench import Open
from workers.until import Sql

app = App("map")


@app.workflow
async def square(n: int) -> int:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n * n


@app.workflow
async def named(n: int) -> str:
    await app.sleep(0.01)
    return f"number {n}"


@app.workflow
async def squares(n: int) -> int:
    return sum(await app.map(square(i) for i in range(n)))


@app.workflow
async def mixed() -> list[Any]:
    return await app.map([square(3), named(4), square(5)])


@app.workflow
async def some_fail(return_exceptions: bool) -> list[str]:
    calls = [square(n) for n in (1, -2, 3, -4)]
    if return_exceptions:
        return [str(result) for result in await app.map(calls, return_exceptions=True)]
    return [str(result) for result in await app.map(calls)]


@app.workflow
async def none() -> list[int]:
    calls: list[Any] = []
    return await app.map(calls)


@app.workflow
def in_a_thread() -> list[int]:
    return app.map(square(n) for n in range(5)).wait()


@app.workflow
async def no_calls() -> None:
    wrong: Any = [1, 2]
    await app.map(wrong)


async def test_results_come_in_the_order_of_the_calls(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(mixed) == [9, "number 4", 25]
        assert await work.every_way(lambda: squares(20)) == sum(n * n for n in range(20))
        assert await work.result(none()) == []
        assert await work.result(in_a_thread()) == [0, 1, 4, 9, 16]


async def test_a_parent_of_many_sleeps_once_and_wakes_once(bench: Open, sql: Sql) -> None:
    async with bench(app, slots=50) as work:
        run = await work.start(squares(2_000))
        assert await run.result(60) == sum(n * n for n in range(2_000))
        [[epoch]] = sql("select epoch from rowlock.outcome where run_id = %s", run.id)
        # Claimed, asleep, claimed again; a note in the very moment of falling asleep may add one.
        assert epoch <= 5
        assert [s.kind for s in await run.steps()] == ["children", "results"]


async def test_a_child_that_fails_fails_its_parent_or_stands_among_the_results(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(some_fail(True)) == [
            "1",
            "-2 is negative",
            "9",
            "-4 is negative",
        ]
        error = await work.error_of(await work.start(some_fail(False)))
        assert isinstance(error, ValueError)
        assert str(error) == "-2 is negative"


async def test_a_child_that_is_cancelled_counts_too(bench: Open, sql: Sql) -> None:
    @app.workflow
    async def waits(n: int) -> int:
        return await app.receive("go", int)

    @app.workflow
    async def both() -> list[str]:
        results = await app.map([waits(1), waits(2)], return_exceptions=True)
        return [type(result).__name__ for result in results]

    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(both())
        while len(found := await work.client.runs(workflow="waits", status="waiting")) < 2:
            pass
        first, second = sorted(found, key=lambda one: one.input["n"])
        await work.client.run(first.id).send("go", 1)
        await work.client.run(second.id).cancel()
        assert await run.result(25) == ["int", "RunFailed"]


async def test_a_redo_of_the_parent_keeps_the_children_it_has(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(squares(5))
        await run.result(25)
        await run.rewind("2")
        assert await run.result(25) == 30
        copy = await run.fork("2")
        assert await copy.result(25) == 30
        assert sql("select count(*) from rowlock.run where parent_id is not null") == [(5,)]
        await run.rewind("1")
        assert await run.result(25) == 30
        assert sql("select count(*) from rowlock.run where parent_id is not null") == [(10,)]


async def test_map_takes_calls(bench: Open) -> None:
    async with bench(app) as work:
        assert isinstance(await work.error_of(await work.start(no_calls())), MisplacedCall)


async def test_children_of_a_group_are_cancelled_with_their_parent(bench: Open) -> None:
    @app.workflow
    async def endless(n: int) -> None:
        await app.receive("go")

    @app.workflow
    async def all_endless() -> None:
        await app.map(endless(n) for n in range(4))

    async with bench(app, noise=("was cancelled",)) as work:
        run = await work.start(all_endless())
        while len(await work.client.runs(workflow="endless", status="waiting")) < 4:
            pass
        await run.cancel()
        with pytest.raises(RunFailed):
            await run.result(25)
        while len(await work.client.runs(workflow="endless", status="cancelled")) < 4:
            pass
