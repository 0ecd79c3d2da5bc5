"""What the doctor's tests share: looking, and a server of their own to make ill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import postgres
from rowlock import Settings
from rowlock.doctor import Finding, examine
from rowlock.embedded import Server
from rowlock.store.migrate import migrate
from workers.until import Sql, until


def findings(url: str, *, pgbouncer: bool = False, **options: Any) -> dict[str, Finding]:
    """Every finding, by its check."""
    found = list(examine(Settings(database_url=url, pgbouncer=pgbouncer), **options))
    by_check = {one.check: one for one in found}
    assert len(by_check) == len(found)
    return by_check


def look(url: str, check: str, **options: Any) -> Finding:
    """The finding of one check."""
    return findings(url, **options)[check]


def change(admin: Sql, url: str, name: str, value: str | None) -> None:
    """Change a setting of the whole server, and return when new sessions get it."""
    before = _shown(url, name)
    admin(f"alter system reset {name}" if value is None else f"alter system set {name} = {value}")
    admin("select pg_reload_conf()")
    until(lambda: _shown(url, name) != before)


def _shown(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute(f"show {name}".encode()).fetchone()
        return str(row and row[0])


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    """The test's own connection to its database."""
    connection = Sql(database)
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that a test may spoil, with a migrated database."""
    with postgres.running_server({"max_prepared_transactions": "5"}) as server:
        migrate(server.url())
        yield server


@pytest.fixture
def admin(own: Server) -> Iterator[Sql]:
    """A connection to that server; its settings are as before afterwards."""
    connection = Sql(own.url())
    yield connection
    connection("alter system reset all")
    connection("select pg_reload_conf()")
    connection.close()
