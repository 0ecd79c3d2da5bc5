"""Whatever asyncio code a workflow is: what the live code saw, every replay sees again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowlock.errors import MisplacedCall
from runtime import language, means, races
from runtime.bench import Open, Way
from runtime.races import digs
from runtime.seen import SCENARIOS, app, check

MODULES = (language, means, races)
"""Each has registered its scenarios."""

SURE: dict[str, Any] = {
    "a_shield_outlives_its_waiter": ["outer True", "inner 1"],
    "recursion": 200,
    "branches_fifty_deep": 50,
    "a_thousand_branches": 499500,
    "timeouts_within_timeouts": ["inner", "through the wide one", "outer"],
    "a_timeout_around_many_branches": ["0 told", "1 told", "2 told", "late"],
    "callbacks_that_raise": ["called", "2"],
    "one_call_awaited_twice": [5, 5, 6, 6],
    "a_task_that_is_cancelled_and_shielded_work": ["cleaned 1", "True"],
    "zero_is_a_time_too": ["slept", "late", "nothing to wait for"],
    "a_generator_that_is_left_early_cleans_up": ["leaving", "left"],
    "generators_managers_and_comprehensions": [
        [0, 1, 2],
        [0, 1, 2],
        [*(f"gave back {n}" for n in range(3)), "numbers end", "gave back 0", "numbers end"],
    ],
    "contexts_are_inherited_by_branches_and_steps": [
        "main then left",
        "main then right",
        "main",
        "nobody",
    ],
}
"""What they see in any case, where no race decides it."""

NOISE = {"callbacks_that_raise": ("error in callback",)}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_live_and_replay_see_the_same_with(bench: Open, name: str) -> None:
    async with bench(app, noise=NOISE.get(name, ())) as work:
        for way in Way:
            seen = await work.result_when(way, check(name))
            if name in SURE:
                assert seen == SURE[name], way


async def test_live_and_replay_see_the_same_in_random_programs(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                seeds = range(60)
                await asyncio.gather(*(work.result(check("racing_appends", n)) for n in seeds))
        assert work.handed_back > 10


async def test_tasks_may_be_nested_deep_but_not_without_end(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.result(digs(180)) == 1
        error = await work.error(digs(250))
        assert isinstance(error, MisplacedCall)
        assert "nests tasks more than 200 deep" in str(error)
