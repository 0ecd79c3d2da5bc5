"""Fresh databases for tests, on a server of the user's or on one of our own.

Reads: ROWLOCK_TEST_DATABASE_URL.  Writes: databases, through the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from rowlock.store.databases import DatabaseServer
from rowlock.testing.shared import shared_server

VARIABLE = "ROWLOCK_TEST_DATABASE_URL"

Prepare = Callable[[str], object]
"""Given the URL of a migrated database, puts in what every test shall find there."""


def default_server() -> str:
    """The server that ROWLOCK_TEST_DATABASE_URL names, else an embedded one.

    Raises ConfigurationError when there is neither.
    """
    return os.environ.get(VARIABLE, "").strip() or shared_server()


class Databases:
    """Makes and drops databases on one server. Blocking, thread-safe; close it in the end.

    ``server_url``: any database of the server, as a user who may create databases; by default see
    :func:`default_server`. ``prepare``: run once, on what all databases are copied from.
    """

    def __init__(self, server_url: str | None = None, *, prepare: Prepare | None = None) -> None:
        self._server = DatabaseServer(server_url or default_server())
        self._prepare = prepare
        self._template: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make(self) -> str:
        """The URL of a fresh, migrated database."""
        if self._template is None:
            self._template = self._server.make_template(self._prepare)
        return self._server.copy(self._template)

    def drop(self, url: str) -> None:
        """Remove a database, even if something still uses it."""
        self._server.drop_copy(url)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of a fresh database, dropped afterwards."""
        url = self.make()
        try:
            yield url
        finally:
            self.drop(url)

    def close(self) -> None:
        """Disconnect. A migrated template is kept for who comes next, a prepared one is not."""
        if self._template is not None and self._prepare is not None:
            self._server.drop(self._template)
        self._template = None
        self._server.close()
