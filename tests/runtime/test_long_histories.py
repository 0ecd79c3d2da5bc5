"""Long histories replay, and what was delivered is not kept in memory."""

from __future__ import annotations

import gc
import time
import tracemalloc

from rowlock import App, Settings
from rowlock.runtime.execution import Execution
from runtime.bench import Open, until
from workers.until import Sql

app = App("long")
began: list[float] = []
ended: list[float] = []


@app.step
async def quick(n: int) -> int:
    return n


@app.step
async def big(n: int) -> str:
    return "x" * 1_000_000


@app.workflow
async def many(steps: int) -> int:
    began.append(time.perf_counter())
    total = 0
    for n in range(steps):
        total += await quick(n)
    ended.append(time.perf_counter())
    await app.sleep(0.01)
    return total


@app.workflow
async def heavy(steps: int) -> int:
    total = 0
    for n in range(steps):
        total += len(await big(n))
    return total


RECORDED = """
    insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds, attempts,
                              place, kind, name, output)
    select run_id, now(), 1, n, 1, 0, 1, n::text, 'step', 'quick', to_jsonb(n - 1)
      from rowlock.task, generate_series(1, 10000) as n"""


async def test_a_history_of_ten_thousand_steps_replays(
    bench: Open, sql: Sql, database: str
) -> None:
    began.clear()
    ended.clear()
    async with app.client(Settings(database_url=database)) as client:
        run = await client.start(many(10_000))
        sql("update rowlock.task set epoch = 1")
        sql(RECORDED)
        async with bench(app):
            assert await run.result(60) == sum(range(10_000))
    replay_s = ended[0] - began[0]
    print(f"\n10,000 steps replayed in {replay_s:.3f} s")


async def test_results_that_were_delivered_are_not_held(bench: Open) -> None:
    tracemalloc.start()
    try:
        async with bench(app) as work:
            assert await work.result(heavy(60)) == 60_000_000
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000, f"{peak:,} bytes"


async def test_runs_that_have_left_are_not_held(bench: Open) -> None:
    gc.collect()
    before = sum(type(one) is Execution for one in gc.get_objects())
    async with bench(app) as work:
        for _ in range(20):
            await work.result(many(3))
        await until(lambda: not work.loaded())
        gc.collect()
        alive = sum(type(one) is Execution for one in gc.get_objects()) - before
        assert alive <= 1
