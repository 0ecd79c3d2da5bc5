"""Fixtures for the runtime's tests: a bench that serves an app defined in the test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from runtime.bench import Open, opened
from workers.until import Sql


@pytest.fixture
def bench(database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Open:
    """``async with bench(app) as work:`` runs a worker for ``app`` in this process."""
    return partial(opened, database, monkeypatch, caplog)


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    """The test's own connection."""
    look = Sql(database)
    yield look
    look.close()
