"""The examples of docs/values.md hold, on a real worker."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType
from uuid import UUID

import pytest

from docs.examples import examples_of, run
from runtime.bench import opened


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module for the page's code, which may set the environment."""
    module = ModuleType("docs_values")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("SHOP_KEYS", "")
    yield module
    key = os.environ["SHOP_KEYS"].partition(":")[2]
    assert len(base64.b64decode(key)) == 32


async def test_the_page_does_what_it_says(
    page: ModuleType,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run(examples_of("values.md"), page)

    order = page.Order(
        UUID(int=7),
        [page.Line("tea", Decimal("2.50"))],
        datetime(2026, 1, 2, tzinfo=UTC),
        page.Card("1111"),
        {"street": "s", "zip": "z"},
        page.Customer(name="Bob", since=date(2020, 1, 1)),
        tags=frozenset({"new"}),
        by_day={1: ["x"]},
        photo=b"\0",
        folder=page.Path("a/b"),
    )
    async with opened(database, monkeypatch, caplog, page.app) as work:
        assert await work.result(page.fulfil(order)) == Decimal("7.40")

    async with opened(database, monkeypatch, caplog, page.shop) as work:
        assert await page.start_from_elsewhere(database) == "charged 4111 1111"
        run_ = await work.start(page.pay("4111 1111"))
        assert await run_.result(20) == "charged 4111 1111"
        stored = work.sql.one("select input::text from rowlock.run where id = %s", run_.id)
        assert stored.startswith('{"card": {"$codec": "aesgcm:2026-01", "payload": "')
        login = page.Login("bob", page.token)
        assert await work.result(page.sign_in(login)) == "h"
