"""Time passes when it is told to, for everything that is in the database, and for nothing else."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest

from rowlock.errors import DeadlineExceeded, RunFailed, StepTimeout
from rowlock.testing import OpenHarness
from testing import shop
from testing.shop import DAY

SLACK = timedelta(hours=1)  # for the real time that tests take, on the slowest machine


def about(found: timedelta, wanted: timedelta) -> bool:
    return abs(found - wanted) < SLACK


async def test_the_workflow_sees_the_time_that_passed(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        seen = await harness.run(shop.times(3))
        assert all(about(b - a, DAY) for a, b in pairwise(seen))
        assert about(await harness.now() - datetime.now(UTC), 3 * DAY)
        later = await harness.run(shop.times(0))
        assert timedelta() <= later[0] - seen[-1] < SLACK
        await harness.crash()  # another worker, other connections
        assert timedelta() <= (await harness.run(shop.times(0)))[0] - later[0] < SLACK


async def test_what_falls_due_on_the_way_happens_at_its_own_time(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        began = await harness.now()
        for name, days in (("c", 9), ("a", 2), ("b", 5), ("never", 40)):
            await harness.start(shop.rings(name, days))
        await harness.advance(timedelta(days=1))
        assert shop.DONE == []
        await harness.advance(timedelta(days=9))
        rung = [line.split(" on ") for line in shop.DONE]
        assert [name for name, _ in rung] == ["a", "b", "c"]
        at = [datetime.fromisoformat(when) - began for _, when in rung]
        assert all(about(a, b * DAY) for a, b in zip(at, (2, 5, 9), strict=True))


async def test_delayed_starts_and_retries_need_no_patience(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        run = await harness.start(shop.visits(1), delay=DAY)
        began = await harness.now()
        assert await harness.result(run) == 3
        assert about(await harness.now() - began, DAY + timedelta(hours=18))


async def test_a_step_that_hangs_meets_the_timeout_around_it(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.hang(shop.charge)
        assert await harness.run(shop.loses_patience(1)) == "too slow"
        assert shop.DONE == []
        assert await harness.run(shop.loses_patience(2)) == "receipt-2"


async def test_a_step_that_hangs_meets_its_own_timeout(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.hang("asks")
        with pytest.raises(RunFailed) as caught:
            await harness.run(shop.asks_once(1))
        assert isinstance(caught.value.__cause__, StepTimeout)


async def test_every_time_in_the_database_moves_but_those_of_processes(
    rowlock_harness: OpenHarness,
) -> None:
    columns = """
        select format('select %L, max(%I) from rowlock.%I', c.table_name || '.' || c.column_name,
                      c.column_name, c.table_name)
          from information_schema.columns as c
          join information_schema.tables as t using (table_schema, table_name)
         where c.table_schema = 'rowlock' and c.data_type = 'timestamp with time zone'
           and t.table_type = 'BASE TABLE'"""
    async with rowlock_harness(shop.app) as harness:
        await harness.run(shop.fulfil(1))
        await harness.start(shop.fulfil(2))
        await harness.run_until_idle()

        async def times() -> dict[str, datetime]:
            connection = harness.lab._connection
            queries = await (await connection.execute(columns)).fetchall()
            found = [await (await connection.execute(q)).fetchone() for (q,) in queries]
            return {row[0]: row[1] for row in found if row is not None and row[1] is not None}

        before = await times()
        await harness.advance(timedelta(days=10))
        after = await times()
    moved = {name: after[name] - before[name] for name in before}
    assert {"run.created_at", "step.recorded_at", "outcome.finished_at", "task.due_at"} <= set(
        moved
    )
    for name, by in moved.items():
        real = name.split(".")[0] in ("worker", "migration", "repeatable")
        assert about(by, timedelta() if real else timedelta(days=-10)), name


async def test_time_waits_for_a_transaction_that_is_open(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        run = await harness.start(shop.fulfil(1))
        await harness.run_until_idle()
        async with await psycopg.AsyncConnection.connect(harness.database_url) as own:
            await own.execute("select from rowlock.run where id = %s for update", [run.id])
            passing = asyncio.create_task(harness.advance(DAY))
            waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            async with await psycopg.AsyncConnection.connect(harness.database_url) as look:
                while (await (await look.execute(waits)).fetchone()) == (0,):
                    assert not passing.done()
            await own.commit()
        await passing
        assert await harness.result(run) == ["receipt-1", "parcel-1"]


async def test_who_waits_for_a_message_loses_patience_in_no_time(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        began = await harness.now()
        assert await harness.run(shop.asks_the_boss(1)) == "nobody answered"
        assert about(await harness.now() - began, 7 * DAY)
        run = await harness.start(shop.asks_the_boss(2))
        await harness.advance(6 * DAY)
        await run.send("approval", True)
        assert await harness.result(run) == "approved"


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_deadline_comes_with_time(rowlock_harness: OpenHarness, hangs: bool) -> None:
    async with rowlock_harness(shop.app) as harness:
        if hangs:
            harness.hang(shop.charge)
        run = await harness.start(shop.fulfil(1), deadline=3 * DAY)
        began = await harness.now()
        with pytest.raises(RunFailed) as caught:
            await harness.result(run)
        assert isinstance(caught.value.__cause__, DeadlineExceeded)
        assert about(await harness.now() - began, 3 * DAY)


async def test_a_run_that_is_cancelled_cleans_up_in_its_own_time(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.hang(shop.charge)
        run = await harness.start(shop.cleans_up(1))
        await harness.run_until_idle()
        await run.cancel()
        with pytest.raises(RunFailed) as caught:
            await harness.result(run)
        assert caught.value.status == "cancelled"
        assert shop.DONE == ["ship 1"]
