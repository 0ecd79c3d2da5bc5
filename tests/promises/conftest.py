"""What the promises' tests share: a database for the sample app, a client, a look inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rowlock import BlockingClient, Settings
from workers import sample
from workers.looking import looking_into
from workers.until import Sql


@pytest.fixture
def sql(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sql]:
    """The test's own connection; the sample app's tables are there."""
    with looking_into(database, monkeypatch) as look:
        yield look


@pytest.fixture
def client(database: str, sql: Sql) -> Iterator[BlockingClient]:
    with sample.app.blocking_client(Settings(database_url=database)) as opened:
        yield opened
