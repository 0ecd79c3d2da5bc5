"""Databases for tests: a migrated template, and copies of it that are made in no time.

PostgreSQL copies a database much faster than anybody migrates one. The template is named after the
schema that is in it, so whoever comes next finds it there; nobody may connect to it, because a
database that is in use can't be copied.

Reads and writes: the server's list of databases.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Composed, Identifier

from rowlock.errors import ConfigurationError
from rowlock.store.migrate import functions, migrate, steps

CONNECT_TIMEOUT_S = 10
_LOCK = 0x726F776C6F636B74  # "rowlockt"


class DatabaseServer:
    """A server on which databases may be made. Thread-safe; :meth:`close` it in the end.

    ``url``: any database of it, as a user who may create databases.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._connection: Connection[Any] | None = None
        self._strategy = SQL("")

    def make_template(self, fill: Callable[[str], object] | None = None) -> str:
        """The name of a migrated database to copy; made if it is not there.

        With ``fill``, a template of its own: migrated, then handed to ``fill`` as a URL.
        """
        if fill is not None:
            return self._new_template(f"rowlock_template_{uuid4().hex[:12]}", fill)
        name = f"rowlock_template_{schema_name()}"
        with self._lock:
            connection = self._open()
            connection.execute("select pg_advisory_lock(%s)", [_LOCK])
        try:
            if self._run("select from pg_database where datname = %s and datistemplate", [name]):
                return name
            # What was left half-way by somebody who was killed: it is not marked as a template.
            self.drop(name)
            return self._new_template(name, None)
        finally:
            with suppress(psycopg.Error):
                self._run("select pg_advisory_unlock(%s)", [_LOCK])

    def _new_template(self, name: str, fill: Callable[[str], object] | None) -> str:
        self._make(name, SQL("template template0 encoding 'UTF8'"))
        try:
            migrate(self.url_of(name))
            if fill is not None:
                fill(self.url_of(name))
        except BaseException:
            self.drop(name)
            raise
        self._run(
            SQL("alter database {} with allow_connections false is_template true").format(
                Identifier(name)
            )
        )
        return name

    def copy(self, template: str) -> str:
        """A fresh copy of a template: its URL."""
        name = f"rowlock_test_{uuid4().hex[:16]}"
        self._make(name, SQL("template {} {}").format(Identifier(template), self._strategy))
        return self.url_of(name)

    def drop(self, name: str) -> None:
        """Remove a database, a template too, even if something still uses it."""
        if self._run("select from pg_database where datname = %s and datistemplate", [name]):
            self._run(SQL("alter database {} with is_template false").format(Identifier(name)))
        self._run(SQL("drop database if exists {} with (force)").format(Identifier(name)))

    def drop_copy(self, url: str) -> None:
        """Remove a copy by its URL."""
        self.drop(str(conninfo_to_dict(url)["dbname"]))

    def url_of(self, name: str) -> str:
        """The connection string of a database on this server."""
        return make_conninfo(self.url, dbname=name)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _make(self, name: str, how: SQL | Composed) -> None:
        try:
            self._run(SQL("create database {} {}").format(Identifier(name), how))
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                "tests need databases of their own, and this user may not make any. Let it: "
                "`alter role … createdb`, or name another user in ROWLOCK_TEST_DATABASE_URL."
            ) from None

    def _run(self, statement: str | SQL | Composed, parameters: list[Any] | None = None) -> bool:
        """Whether it gave a row."""
        query = statement.encode() if isinstance(statement, str) else statement
        with self._lock:
            cursor = self._open().execute(query, parameters)
            return cursor.description is not None and cursor.fetchone() is not None

    def _open(self) -> Connection[Any]:
        if self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(
                    make_conninfo(self.url, application_name="rowlock test databases"),
                    autocommit=True,
                    connect_timeout=CONNECT_TIMEOUT_S,
                )
            except psycopg.OperationalError as error:
                raise ConfigurationError(
                    f"can't reach the server for test databases: {str(error).strip()}. Check "
                    "ROWLOCK_TEST_DATABASE_URL, or unset it to use an embedded server."
                ) from None
            # In memory, copying files is fastest; on a disk it waits for two checkpoints.
            if self._connection.execute(
                "select from pg_settings"
                " where name = 'data_directory' and starts_with(setting, '/dev/shm/')"
            ).fetchone():
                self._strategy = SQL("strategy file_copy")
        return self._connection


def schema_name() -> str:
    """A name for the schema that this code brings: another one for every change of it."""
    texts = [change.checksum for change in [*steps(), functions()]]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]


def through(url: str, host: str, port: int) -> str:
    """The same database, reached by way of a port on this machine. ``host``: its real name."""
    # host stays the name that certificates are checked against; hostaddr is where to go.
    name = "localhost" if host.startswith("/") or not host else host
    return make_conninfo(url, host=name, hostaddr="127.0.0.1", port=port)
