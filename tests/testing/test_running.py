"""Runs come to their end as fast as they can, and who waits for ever is told for what."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import assert_type
from uuid import uuid4

import pytest

from rowlock.errors import ConfigurationError, MisplacedCall, RunFailed, UnknownRun
from rowlock.testing import Harness, OpenHarness, Stuck
from testing import shop


async def test_a_run_gives_its_result_without_waiting_for_its_sleep(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        result = await harness.run(shop.fulfil(7))
        assert_type(result, list[str])
        assert result == ["receipt-7", "parcel-7"]
    assert shop.DONE == ["charge 7", "ship 7"]


async def test_a_failed_run_raises_its_own_error(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        with pytest.raises(RunFailed) as caught:
            await harness.run(shop.refuses(7))
        assert isinstance(caught.value.__cause__, ValueError)


async def test_until_idle_means_that_only_time_brings_anything(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        run = await harness.start(shop.fulfil(7), key="seven", attributes={"a": 1})
        await harness.run_until_idle()
        assert shop.DONE == ["charge 7"]
        assert await run.status() == "waiting"
        assert [info.key for info in await harness.client.runs(status="waiting")] == ["seven"]
        assert await harness.result(run) == ["receipt-7", "parcel-7"]
        await harness.run_until_idle()


async def test_until_done_lets_all_runs_end(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        runs = [await harness.start(shop.fulfil(n)) for n in range(5)]
        await harness.run_until_done()
        assert [await run.status() for run in runs] == ["succeeded"] * 5


async def test_many_runs_at_once(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        results = await asyncio.gather(
            *(harness.run(shop.rich(n)) for n in range(3)),
        )
        assert [result["late"] for result in results] == ["timeout"] * 3


async def test_who_waits_for_ever_is_told_for_what(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        blocked = await harness.start(shop.fulfil(1))
        await harness.run_until_idle()
        lab = harness.lab
        await lab._connection.execute(
            "update rowlock.task set state = 'blocked', reason = '{\"message\": \"not so\"}'"
        )
        with pytest.raises(Stuck) as caught:
            await harness.result(blocked)
        assert "will not end by itself" in str(caught.value)
        assert f"fulfil {blocked.id}: blocked: not so" in str(caught.value)
        assert caught.value.run_id == blocked.id
        await blocked.resume()
        assert await harness.result(blocked) == ["receipt-1", "parcel-1"]


async def test_who_waits_for_a_message_is_told_for_which(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        run = await harness.start(shop.waits_for_a_word(1))
        with pytest.raises(Stuck, match=r'waits for a message "word" at place 2'):
            await harness.result(run)
        await run.send("word", "now")
        assert await harness.result(run) == "receipt-1 now"


async def test_a_step_that_hangs_for_ever_is_named(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        harness.hang(shop.charge)
        run = await harness.start(shop.fulfil(1))
        with pytest.raises(Stuck, match="running, in a step that hangs"):
            await harness.result(run)


async def test_a_run_that_no_claim_takes_is_reported(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        run = await harness.start(shop.fulfil(1), delay=60)
        await harness.run_until_idle()
        await harness.lab._connection.execute("delete from rowlock.queue_gate")
        with pytest.raises(Stuck, match="ready, but no claim takes it: a limit of queue default"):
            await harness.result(run)


async def test_a_run_without_end_ends_with_the_time_it_is_given(
    rowlock_harness: OpenHarness,
) -> None:
    async with rowlock_harness(shop.app) as harness:
        with pytest.raises(Stuck, match=r"not ended within 7 days.*\n.*a timer at place \d+ until"):
            await harness.run(shop.for_ever(), within=timedelta(days=7))


async def test_a_run_that_is_not_there(rowlock_harness: OpenHarness) -> None:
    async with rowlock_harness(shop.app) as harness:
        with pytest.raises(UnknownRun):
            await harness.result(harness.client.run(uuid4()))


async def test_a_harness_that_is_not_open_says_how_to_open_it() -> None:
    harness = Harness(shop.app)
    with pytest.raises(MisplacedCall, match="async with Harness"):
        await harness.run(shop.fulfil(1))


async def test_a_given_database_is_migrated_and_kept(empty_database: str) -> None:
    async with Harness(shop.app, empty_database) as harness:
        assert harness.database_url == empty_database
        run = await harness.start(shop.fulfil(1))
        await harness.advance(timedelta(days=10))
        then = await harness.now()
    async with Harness(shop.app, empty_database) as harness:
        assert timedelta() < await harness.now() - then < timedelta(hours=1)
        assert await harness.result(harness.client.run(run.id)) == ["receipt-1", "parcel-1"]
        with pytest.raises(ConfigurationError, match="time can't go back"):
            await harness.advance(timedelta(days=-1))
