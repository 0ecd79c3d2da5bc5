"""The examples of docs/queues.md hold."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import psycopg
import pytest

from docs.examples import examples_of, run
from rowlock import Settings


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, database: str) -> ModuleType:
    """A module for the page's code."""
    monkeypatch.setenv("ROWLOCK_DATABASE_URL", database)
    module = ModuleType("docs_queues")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


async def test_the_page_does_what_it_says(page: Any, database: str) -> None:
    await run(examples_of("queues.md"), page)
    with page.app.blocking_client(Settings(database_url=database)) as client:
        limits = {one.queue: one for one in client.queues()}
        assert (limits["payments"].concurrency, limits["payments"].rate) == (20, "100/min")
        assert limits["mails"].rate == "600/h smooth"
        client.start(page.pay(7))
    [example] = examples_of("queues.md", "sql")
    with psycopg.connect(database, autocommit=True) as connection:
        answers = [connection.execute(text.encode()).fetchall() for text in example.statements()]
    assert [answers[0], answers[1], answers[3]] == [[(True,)]] * 3
    [payments] = [row for row in answers[2] if row[0] == "payments"]
    assert (payments[1], payments[2], payments[5]["rate"]) == (5, None, "100/min")
