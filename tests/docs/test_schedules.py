"""The examples of docs/schedules.md hold."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import ModuleType

import pytest

from docs.examples import examples_of, run
from rowlock.testing import OpenHarness
from workers.until import Sql


async def test_the_page_does_what_it_says(
    rowlock_harness: OpenHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ModuleType("docs_schedules")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    examples = examples_of("schedules.md")
    for example in examples:
        example.compiled()
    await run(examples, page)
    async with rowlock_harness(page.app, schedules=True) as harness:
        await harness.run_until_idle()
        sql = Sql(harness.database_url)
        for block in examples_of("schedules.md", "sql"):
            for statement in block.statements():
                sql(statement)
        await harness.run_until_idle()
        names = [row.schedule for row in await harness.client.schedules()]
        assert names == ["nightly", "pull-eu", "pull-us", "sync"]
        assert sql("select started, error from rowlock.backfills") == [(6, None)]
        triggered = await harness.client.trigger_schedule("nightly")
        await harness.run_until_idle()
        today = f"{datetime.now(UTC):%Y-%m}"
        assert (await triggered.result()).startswith(f"report of {today}")
        sql.close()
