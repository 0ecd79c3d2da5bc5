"""Fixtures for pytest, there without configuration wherever Rowlock is installed.

pytest imports this at every start, of every project in the environment. So it is a package of its
own, importing it imports nothing of Rowlock, and a session that uses none of its fixtures pays
nothing.

    rowlock_harness    harnesses for the test's apps, each on a fresh database
    rowlock_database   the URL of a fresh, migrated database
    rowlock_server     of the session: where databases are made; override it to name another
    rowlock_prepare    of the session: what every database shall hold; override it
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rowlock.testing import Databases, OpenHarness


@pytest.fixture(scope="session")
def rowlock_server() -> str:
    """The URL of a server on which databases may be made.

    What ROWLOCK_TEST_DATABASE_URL names, else an embedded server that all test processes share.
    """
    from rowlock.testing.databases import default_server  # noqa: PLC0415 - see above

    return default_server()


@pytest.fixture(scope="session")
def rowlock_prepare() -> Callable[[str], object] | None:
    """Given the URL of a migrated database, puts in what every test shall find: your tables."""
    return None


@pytest.fixture(scope="session")
def rowlock_databases(
    rowlock_server: str, rowlock_prepare: Callable[[str], object] | None
) -> Iterator[Databases]:
    """Makes databases, for tests that need several."""
    from rowlock.testing.databases import Databases  # noqa: PLC0415 - see above

    with Databases(rowlock_server, prepare=rowlock_prepare) as databases:
        yield databases


@pytest.fixture
def rowlock_database(rowlock_databases: Databases) -> Iterator[str]:
    """The URL of a fresh, migrated database; it is dropped after the test."""
    with rowlock_databases.fresh() as url:
        yield url


@pytest.fixture
def rowlock_harness(rowlock_databases: Databases) -> OpenHarness:
    """``async with rowlock_harness(app) as harness:``, in plain tests ``with``."""
    from rowlock.testing.opening import OpenHarness  # noqa: PLC0415 - see above

    return OpenHarness(rowlock_databases)
