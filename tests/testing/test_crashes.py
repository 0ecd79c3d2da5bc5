"""Crashing a run everywhere finds what a single crash would not, and says where."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowlock import App, Run
from rowlock.testing import Harness, OpenHarness, Stuck
from testing import shop

app = App("testing-crashes")

MEMORY: dict[str, Any] = {}


@app.step
async def first() -> int:
    return 1


@app.step
async def second() -> int:
    return 2


@app.step
async def counts() -> int:
    MEMORY["count"] = MEMORY.get("count", 0) + 1
    return int(MEMORY["count"])


@app.workflow
async def sound() -> int:
    return await first() + await second()


@app.workflow
async def relies_on_memory() -> int:
    await first()
    MEMORY.setdefault("seen in this process", 0)
    MEMORY["seen in this process"] += 1
    await second()
    return int(MEMORY["seen in this process"])


@app.workflow
async def has_effects_twice() -> int:
    await first()
    await counts()
    return await second()


@app.workflow
async def tiny() -> int:
    return await first()


def forget(_: Harness) -> None:
    MEMORY.clear()


async def test_a_sound_workflow_gets_over_every_crash(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(app) as harness:
        report = await harness.exhaust_crashes(sound)
    # The claim, and before and after two commits: the last step and the end are one.
    assert len(report) == 5
    assert "after the commit of step second at 2 of sound" in report.points
    assert set(report.not_reached) <= set(report.points)


async def test_a_result_that_hangs_on_memory_is_found(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(app) as harness:
        with pytest.raises(AssertionError) as caught:
            await harness.exhaust_crashes(relies_on_memory, prepare=forget)
    said = str(caught.value)
    # The code has gone on when the step's outcome is sent.
    assert said.startswith("a crash before the commit of step first at 1")
    assert "it succeeded with 2\n  instead of: it succeeded with 1" in said


async def test_an_effect_that_is_not_idempotent_is_found(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(app) as harness:
        with pytest.raises(AssertionError) as caught:
            await harness.exhaust_crashes(
                has_effects_twice, prepare=forget, effects=lambda _: dict(MEMORY)
            )
    said = str(caught.value)
    assert said.startswith("a crash before the commit of step counts at 2 of has_effects_twice")
    assert "effects: {'count': 2}\n  instead of: {'count': 1}" in said


async def test_a_history_that_differs_is_found(rowlock_harness: OpenHarness) -> None:
    lives = 0

    async def drive(harness: Harness, run: Run[int]) -> None:
        nonlocal lives
        lives += 1
        if lives > 1:
            await harness.run(tiny())

    async with rowlock_harness(app) as harness:
        with pytest.raises(AssertionError, match="recorded besides: tiny 1: step first"):
            await harness.exhaust_crashes(tiny, drive=drive)
        lives = 0
        report = await harness.exhaust_crashes(tiny, drive=drive, history=False)
    assert lives == 1 + len(report)


async def test_a_run_that_gets_stuck_after_a_crash_is_found(rowlock_harness: OpenHarness) -> None:
    lives = 0

    async def drive(harness: Harness, run: Run[int]) -> None:
        nonlocal lives
        lives += 1
        if lives == 3:
            raise Stuck(run.id, "will not end", [], "as the test wants it")

    async with rowlock_harness(app) as harness:
        with pytest.raises(AssertionError, match=r"did not get over it: run .* will not end"):
            await harness.exhaust_crashes(sound, drive=drive)


async def test_other_harnesses_live_beside_it(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(app) as one, rowlock_harness(shop.app) as other:
        three, two = await asyncio.gather(one.run(sound()), other.run(shop.fulfil(2)))
    assert (three, two) == (3, ["receipt-2", "parcel-2"])
