"""Wait for something to become true, with a deadline instead of a guess."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


def until(what: Callable[[], T], *, deadline_s: float = 60.0, every_s: float = 0.02) -> T:
    """The first true value; AssertionError when none comes in time."""
    end = time.monotonic() + deadline_s
    while not (value := what()):
        assert time.monotonic() < end, "it never came about"
        time.sleep(every_s)
    return value


class Sql:
    """One connection of the test's own, for looking and for mischief."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg.connect(url, autocommit=True)

    def __call__(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self.connection.execute(query, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def at_least(self, wanted: int, query: str) -> Callable[[], bool]:
        """A condition for :func:`until`: the query's number has reached this."""
        return lambda: bool(self.one(query) >= wanted)

    def one(self, query: str, *parameters: Any) -> Any:
        return self(query, *parameters)[0][0]

    def close(self) -> None:
        self.connection.close()
