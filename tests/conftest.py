"""Fixtures that every room's tests share: one server for the session, a database for each test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict

import postgres
from rowlock.embedded import Server

# No test fails because the machine is busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

LONG = re.compile(
    r"/tests/(models|chaos|promises|loadtest|languages|examples|testing)/|demo|hammer|_plans"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of long tests come first: side by side, whoever is done early takes the short ones."""
    items.sort(key=lambda item: not LONG.search(item.path.as_posix()))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The session's server. Not to be stopped: see `postgres.running_server` for that.

    When the session ends it fails if Postgres had to break a deadlock in any test: Rowlock locks
    in one order everywhere, so none may ever occur.
    """
    with postgres.running_server() as running:
        yield running


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a migrated database to copy, so that no test waits for a migration."""
    # Here, so that rooms below the store can be tested while the store is broken.
    from rowlock.store.migrate import migrate  # noqa: PLC0415

    with postgres.new_database(server) as url:
        migrate(url)
        name = str(conninfo_to_dict(url)["dbname"])
        postgres.forbid_connections(server, name)
        yield name


@pytest.fixture
def database(server: Server, template: str) -> Iterator[str]:
    """The URL of a fresh, migrated database."""
    with postgres.new_database(server, template) as url:
        yield url


@pytest.fixture
def empty_database(server: Server) -> Iterator[str]:
    """The URL of a fresh database without Rowlock's schema."""
    with postgres.new_database(server) as url:
        yield url


@pytest.fixture
def server_folder() -> Iterator[Path]:
    """A temporary folder that the server's user can enter."""
    with postgres.temporary_folder() as folder:
        yield folder
