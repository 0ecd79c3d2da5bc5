"""What the promises' tests share: a database for the sample app, a client, a look inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rowlock import BlockingClient, Settings
from workers import checks, sample
from workers.until import Sql


@pytest.fixture
def sql(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sql]:
    """The test's own connection; the sample app's tables are there."""
    monkeypatch.setenv("TRACE_URL", database)
    look = Sql(database)
    look(sample.SCHEMA)
    yield look
    found = checks.broken(database)
    look.close()
    assert not found, found


@pytest.fixture
def client(database: str, sql: Sql) -> Iterator[BlockingClient]:
    with sample.app.blocking_client(Settings(database_url=database)) as opened:
        yield opened
