"""Outcomes come to the code in the order in which they were recorded, live and on replay."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from rowlock import App, Settings
from runtime.bench import Open, Way
from runtime.races import RACES, races
from runtime.seen import app as scenarios
from workers import checks
from workers.process import Worker
from workers.until import Sql
from workers.until import until as soon

app = App("order")
GATES: list[asyncio.Event] = []


@app.step
async def after(n: int) -> int:
    """Ends when the test says so."""
    await GATES[n].wait()
    return n


@app.workflow
async def first_of(count: int) -> list[int]:
    tasks = [asyncio.create_task(after(n)) for n in range(count)]
    seen = []
    for first in asyncio.as_completed(tasks):
        seen.append(await first)
        await app.sleep(0.001)
    return seen


async def test_outcomes_are_delivered_in_the_order_of_recording(bench: Open) -> None:
    wanted = [3, 0, 4, 1, 2]
    async with bench(app) as work:
        GATES[:] = [asyncio.Event() for _ in wanted]
        run = await work.start(first_of(len(wanted)))
        for position, n in enumerate(wanted, 1):
            GATES[n].set()
            async with asyncio.timeout(20):
                while sum(s.kind == "step" for s in await run.steps()) < position:
                    await asyncio.sleep(0.005)
        assert await run.result(20) == wanted
        recorded = [s for s in await run.steps() if s.kind == "step"]
        assert [int(s.output or "") for s in recorded] == wanted


@pytest.mark.parametrize("way", [Way.UNLOADED, Way.HANDED_BACK])
async def test_many_racing_runs_have_the_same_winners_on_replay(bench: Open, way: Way) -> None:
    async with bench(scenarios) as work, work.living(way):
        work.wait_in_memory(1.0)
        runs = [await work.start(races(1)) for _ in range(10)]
        results = [await run.result(60) for run in runs]
        assert len({str(result) for result in results}) > 1  # they did race


def test_another_process_with_other_hashes_sees_the_same_winners(database: str, sql: Sql) -> None:
    module = "runtime.races:app"
    asleep = """select count(*) from rowlock.task where state = 'waiting' and epoch > %s
                   and exists (select from rowlock.step where name = 'keep')"""
    with scenarios.blocking_client(Settings(database_url=database)) as client:
        run = client.start(races(2))
        epoch = 0
        for seed in ("1", "2"):
            with Worker(database, module, environment={"PYTHONHASHSEED": seed}) as worker:
                soon(partial(sql.one, asleep, epoch))
                epoch = sql.one("select epoch from rowlock.task")
                worker.kill()
        with Worker(database, module, environment={"PYTHONHASHSEED": "3"}):
            assert len(run.result(timeout=60)) == len(RACES)
    assert checks.broken(database) == {}
