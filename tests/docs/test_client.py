"""The examples of docs/client.md hold, on a real worker."""

from __future__ import annotations

import asyncio
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from docs.examples import DOCS, examples_of, run
from rowlock import BlockingClient, BlockingRun, Client, Run, errors
from runtime.bench import Bench, opened


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, database: str) -> ModuleType:
    """A module for the page's code."""
    module = ModuleType("docs_client")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("ROWLOCK_DATABASE_URL", database)
    return module


async def test_the_page_does_what_it_says(
    page: Any,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shop, *rest = examples_of("client.md")
    await run([shop], page)
    noise = ("was cancelled",)
    async with opened(database, monkeypatch, caplog, page.app, noise=noise) as work:
        for example in rest:
            await run([example], page, client=work.client)
        assert await asyncio.to_thread(page.from_a_script) == "receipt-14"
        await page.engine.dispose()
        await in_the_transactions(work)
        await everything_ends(work)
    said = capsys.readouterr().out
    assert "receipt-7\n" in said
    assert "charged\n0 receipt-9\n" in said
    assert "('default', " in said
    assert "the payment service is down" in said


async def in_the_transactions(work: Bench) -> None:
    assert work.sql("select id from orders order by 1") == [(11,), (12,)]
    keys = "select count(*) from rowlock.run where key in ('order-11', 'order-12', 'order-13')"
    assert work.sql.one(keys) == 3


async def everything_ends(work: Bench) -> None:
    """What the page leaves waiting for an approval."""
    async with asyncio.timeout(60):
        while left := [one for one in await work.client.runs(limit=1000) if not one.finished]:
            for one in left:
                await work.client.run(one.id).cancel(force=True)
            await asyncio.sleep(0.1)


def test_every_method_of_a_handle_and_every_error_of_the_client_is_in_the_tables() -> None:
    text = (DOCS / "client.md").read_text()
    for kind in (Run, BlockingRun):
        for name in vars(kind):
            assert name.startswith("_") or f"`{name}(" in text, name
    for name in re.findall(r"^\| (`\w+`.*?) \|", text.partition("## Errors")[2], re.MULTILINE):
        for error in re.findall(r"`(\w+)`", name):
            assert issubclass(getattr(errors, error), errors.RowlockError)
    for face in (Client, BlockingClient):
        for name in vars(face):
            assert name.startswith("_") or re.search(rf"\b{name}\(", text), name
