"""The harness is tried on the session's server, which fails the session for every deadlock."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from rowlock.embedded import Server
from testing import shop


@pytest.fixture(scope="session")
def rowlock_server(server: Server) -> str:
    """Instead of the plugin's: one server less to start."""
    return server.url("postgres")


@pytest.fixture(scope="session")
def rowlock_prepare() -> Callable[[str], object]:
    """What users do with their own tables."""

    def prepare(url: str) -> None:
        with psycopg.connect(url) as connection:
            connection.execute(shop.LEDGER.encode())

    return prepare


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    """No step has done anything yet."""
    shop.DONE.clear()
