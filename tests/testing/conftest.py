"""What users have, with a table of their own."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from testing import shop


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
