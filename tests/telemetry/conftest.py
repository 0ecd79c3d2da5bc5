"""What the tests of telemetry share: a database for the traced app, a client, a receiver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rowlock import BlockingClient, Settings
from telemetry import traced
from telemetry.receiver import Receiver
from workers.looking import looking_into
from workers.until import Sql


@pytest.fixture(autouse=True)
def no_settings_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own OTEL_* variables are nobody's business here."""
    for name in ("ENDPOINT", "PROTOCOL", "HEADERS", "TRACES_ENDPOINT", "TRACES_PROTOCOL"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
    for name in ("TRACES_EXPORTER", "SDK_DISABLED", "TRACES_SAMPLER", "SERVICE_NAME"):
        monkeypatch.delenv(f"OTEL_{name}", raising=False)


@pytest.fixture
def sql(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sql]:
    """The test's own connection; the apps' tables are there."""
    with looking_into(database, monkeypatch) as look:
        look("create table gate (name text primary key)")
        yield look


@pytest.fixture
def client(database: str, sql: Sql) -> Iterator[BlockingClient]:
    with traced.app.blocking_client(Settings(database_url=database)) as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running
