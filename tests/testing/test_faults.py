"""Crashes at named steps: what is recorded stays, what is not runs again, on another worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rowlock.testing import FaultNeverHappened, Harness, OpenHarness
from testing import shop


async def ledger(harness: Harness) -> list[str]:
    cursor = await harness.lab._connection.execute("select entry from ledger order by id")
    return [row[0] for row in await cursor.fetchall()]


async def test_what_was_recorded_before_the_crash_is_not_done_again(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.crash_after(shop.charge)
        run = await harness.start(shop.fulfil(1))
        assert await harness.result(run) == ["receipt-1", "parcel-1"]
        assert shop.DONE == ["charge 1", "ship 1"]
        steps = await run.steps()
        assert [step.name for step in steps if step.kind == "step"] == ["charge", "ship"]
        assert steps[0].epoch < steps[-1].epoch - 1  # taken over in between


async def test_what_was_not_recorded_is_done_again(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.crash_before_record(shop.charge)
        assert await harness.run(shop.fulfil(1)) == ["receipt-1", "parcel-1"]
        assert shop.DONE == ["charge 1", "charge 1", "ship 1"]


async def test_a_crash_around_a_transaction(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.crash_before_record(shop.book)
        harness.crash_after("book", nth=2)
        assert await harness.run(shop.pays(1)) == ["receipt-1", 1, "parcel-1"]
        assert await harness.run(shop.pays(2)) == ["receipt-2", 2, "parcel-2"]
        assert shop.DONE.count("book 1") == 2
        assert shop.DONE.count("book 2") == 1
        assert await ledger(harness) == ["book 1", "book 2"]


async def test_crashes_under_a_sync_workflow(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.crash_after(shop.label)
        harness.crash_before_record(shop.book_plain)
        harness.crash_before_record(shop.charge)
        assert await harness.run(shop.pays_in_a_thread(1)) == ["label-1", 1, "receipt-1"]
        assert await ledger(harness) == ["plain 1"]
        assert shop.DONE == ["label 1", "charge 1", "charge 1"]


@pytest.mark.parametrize("step", ["charge", "book", "ship"])
async def test_a_worker_that_lost_its_run_in_mid_step_records_nothing(
    rowlock_harness: OpenHarness, step: str
) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.takeover(step)
        run = await harness.start(shop.pays(1))
        assert await harness.result(run) == ["receipt-1", 1, "parcel-1"]
        assert shop.DONE.count(f"{step} 1") == 2
        assert await ledger(harness) == ["book 1"]
        assert len(await run.steps()) == 3


async def test_a_takeover_of_many_runs_at_once(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.takeover(shop.charge, nth=3)
        harness.takeover(shop.book, nth=2)
        runs = [await harness.start(shop.pays(n)) for n in range(8)]
        for n, run in enumerate(runs):
            assert await harness.result(run) == [f"receipt-{n}", n, f"parcel-{n}"]
        assert sorted(await ledger(harness)) == [f"book {n}" for n in range(8)]


async def test_a_crash_now_wherever_the_worker_is(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        runs = [await harness.start(shop.fulfil(n)) for n in range(5)]
        await harness.crash()
        await harness.run_until_idle()
        await harness.crash()
        for n, run in enumerate(runs):
            assert await harness.result(run) == [f"receipt-{n}", f"parcel-{n}"]


@pytest.mark.parametrize(
    "ask",
    [Harness.crash_after, Harness.crash_before_record, Harness.takeover, Harness.hang],
    ids=lambda ask: ask.__name__,
)
async def test_a_fault_that_never_happens_fails_the_test(
    rowlock_harness: OpenHarness, ask: Callable[[Harness, str], Any]
) -> None:
    async def test() -> None:
        async with rowlock_harness(shop.app) as harness:
            ask(harness, "shipp")
            await harness.run(shop.fulfil(1))

    with pytest.raises(FaultNeverHappened, match=r'"shipp".*Steps that were called: charge, ship'):
        await test()


async def test_an_error_of_the_test_is_not_hidden_by_a_fault_that_never_happened(
    rowlock_harness: OpenHarness,
) -> None:
    async def test() -> None:
        async with rowlock_harness(shop.app) as harness:
            harness.crash_after("never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await test()
