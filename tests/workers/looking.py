"""A look into a test's database that leaves no broken history unseen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from workers import checks, sample
from workers.until import Sql


@contextmanager
def looking_into(database: str, environment: pytest.MonkeyPatch) -> Iterator[Sql]:
    """The test's own connection, with the sample app's tables. At the end every history must fit.

    Steps that leave traces find the database too, here and in the worker processes of the test.
    """
    environment.setenv("TRACE_URL", database)
    look = Sql(database)
    look(sample.SCHEMA)
    try:
        yield look
    finally:
        look.close()
    assert checks.broken(database) == {}
