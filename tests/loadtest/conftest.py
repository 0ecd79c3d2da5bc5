"""A stage on a database of its own, for the tests that play on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from rowlock_loadtest.contention.crew import Crew
from rowlock_loadtest.contention.place import Place
from rowlock_loadtest.contention.stage import Size, Stage

TINY = Size(
    seconds=0.2,
    claimers=(1, 4),
    batches=(1, 5),
    queues=(1, 3),
    depth=2000,
    bound=500,
    herd=4,
    fill=600,
)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    with closing(Crew(2)) as crew:
        yield crew


@pytest.fixture
def stage(database: str, crew: Crew) -> Iterator[Stage]:
    place = Place(database, "loadtest", True, "a test's database")
    with psycopg.connect(database, autocommit=True) as connection:
        yield Stage(place, crew, TINY, lambda _: None, connection)
