"""The examples of docs/starting.md hold, on a real worker and in SQL."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from docs.examples import examples_of, run
from runtime.bench import opened


async def test_the_page_does_what_it_says(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page: Any = ModuleType("docs_starting")
    monkeypatch.setitem(sys.modules, page.__name__, page)
    shop, *rest = examples_of("starting.md")
    await run([shop], page)
    async with opened(database, monkeypatch, caplog, page.app, noise=("was cancelled",)) as work:
        for example in rest:
            await run([example], page, client=work.client)
        await page.drafts[0].reschedule(datetime.now(UTC))
        assert await page.drafts[0].result(60) == "abc"
        for example in examples_of("starting.md", "sql"):
            for statement in example.statements():
                started = work.client.run(work.sql.one(statement))
                if "debounce" in statement:
                    await started.cancel()
                else:
                    said = "indexed " if "batch" in statement else "synced "
                    assert (await started.result(60)).startswith(said)
