"""Where calls stand in a run's history: outline numbers, the same on every replay."""

from __future__ import annotations

import asyncio

import pytest

from rowlock import App, Run
from rowlock.errors import MisplacedCall
from runtime.bench import Bench, Open, Way

app = App("places")


@app.step
async def double(n: int) -> int:
    return 2 * n


@app.step
async def quadruple(n: int) -> int:
    return await double(await double(n))


@app.step
def triple(n: int) -> int:
    return 3 * n


@app.step
async def tries(verb: str) -> str:
    try:
        match verb:
            case "sleep":
                await app.sleep(0)
            case "now":
                await app.now()
            case "child":
                await in_a_row()
            case "start_child":
                await app.start_child(in_a_row())
            case "timeout":
                async with app.timeout(1):
                    pass
            case "wait":
                app.uuid().wait()
            case "task":
                await asyncio.create_task(app.random())
            case "run_step":
                await app.run_step("len", len, [])
    except MisplacedCall as error:
        return str(error)
    return "nothing was refused"


@app.workflow
async def in_a_row() -> int:
    total = 0
    for n in range(3):
        total += await double(n)
        await app.sleep(0.01)
    return total


@app.workflow
async def gathered() -> list[int]:
    first = await double(1)
    both = await asyncio.gather(double(2), two(3))
    await app.sleep(0.01)
    return [first, *both, await double(9)]


@app.workflow
async def nested() -> int:
    async with asyncio.TaskGroup() as group:
        left = group.create_task(forks(1))
        right = group.create_task(forks(2))
    alone = asyncio.create_task(two(5))
    await app.sleep(0.01)
    return left.result() + right.result() + await alone


@app.workflow
async def step_in_step(n: int) -> list[int]:
    return [await quadruple(n), await triple.in_thread(n)]


@app.workflow
async def refusals(verb: str) -> str:
    return await tries(verb)


async def two(n: int) -> int:
    return await double(n) + await double(n + 1)


async def forks(n: int) -> int:
    before = await double(n)
    inner = asyncio.create_task(two(n))
    after = await double(n)
    return before + after + await inner


async def places(work: Bench, run: Run[int] | Run[list[int]]) -> dict[str, str]:
    await run.result(20)
    return {s.place: f"{s.kind} {s.name or ''}".strip() for s in await run.steps()}


@pytest.mark.parametrize("way", [Way.LOADED, Way.UNLOADED])
async def test_calls_take_outline_numbers_and_branches_open_a_level(bench: Open, way: Way) -> None:
    async with bench(app, way=way) as work:
        row = await work.start(in_a_row())
        assert await places(work, row) == {
            "1": "step double",
            "2": "sleep",
            "3": "step double",
            "4": "sleep",
            "5": "step double",
            "6": "sleep",
        }
        gather = await work.start(gathered())
        found = await places(work, gather)
        assert found.pop("4") == "sleep"
        assert set(found) == {"1", "2.1", "3.1", "3.2", "5"}
        tree = await work.start(nested())
        found = await places(work, tree)
        assert found.pop("4") == "sleep"
        assert set(found) == {
            *("1.1", "1.2.1", "1.2.2", "1.3"),
            *("2.1", "2.2.1", "2.2.2", "2.3"),
            *("3.1", "3.2"),
        }


async def test_the_same_places_fit_on_every_replay(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(in_a_row) == 6
        assert await work.every_way(gathered) == [2, 4, 14, 18]
        assert await work.every_way(nested) == 50


async def test_a_step_called_inside_a_step_is_part_of_the_outer_one(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(step_in_step(3))
        assert await run.result(20) == [12, 9]
        assert await work.places(run) == ["1 step quadruple", "2 step triple"]


async def test_steps_outside_a_run_just_run() -> None:
    assert await double(4) == 8
    assert await quadruple(4) == 16
    assert triple(4) == 12
    assert await triple.in_thread(4) == 12
    assert await asyncio.to_thread(double.blocking, 4) == 8


async def test_verbs_inside_a_step_are_refused_with_its_name(bench: Open) -> None:
    async with bench(app) as work:
        for verb in ("sleep", "now", "child", "start_child", "timeout", "wait", "task", "run_step"):
            why = await work.result(refusals(verb))
            assert "inside step tries" in why, (verb, why)


async def test_verbs_awaited_outside_a_run_are_refused_and_say_how_to_start() -> None:
    with pytest.raises(MisplacedCall, match=r"await client\.start\(in_a_row"):
        await in_a_row()
    with pytest.raises(MisplacedCall, match=r"outside a run.*@app\.workflow"):
        await app.sleep(1)
    with pytest.raises(MisplacedCall, match="outside a run"):
        app.now().wait()
    with pytest.raises(MisplacedCall, match="outside a run"):
        async with app.timeout(1):
            pass


@app.workflow
async def forgets_to_await() -> str:
    later(1)  # type: ignore[unused-coroutine]
    app.sleep(5)
    return "done"


@app.step
async def later(number: int) -> int:
    return number


async def test_a_call_that_is_never_awaited_is_told(
    bench: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(app, noise=("never awaited",)) as work:
        assert await work.result(forgets_to_await()) == "done"
    told = [r.getMessage() for r in caplog.records if "never awaited" in r.getMessage()]
    assert [line.split(" was called")[0] for line in told] == ["step later", "sleep"]
