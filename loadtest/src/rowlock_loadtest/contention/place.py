"""Where the suite runs: a Postgres of its own, a database of its own, or an app of its own.

Without a URL it starts a server in a temporary folder. With one it makes a database beside the one
that is named, and drops it in the end; a role that may not do that can work in the named database
itself, as an app with a name of its own, of which nothing is left. Nothing of anybody else's is
read or written.

Reads: the catalog.  Writes: databases, an app.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from rowlock.embedded import Server
from rowlock.errors import ConfigurationError, Disconnected
from rowlock.store.connection import understood
from rowlock_loadtest.contention import naive, truth
from rowlock_loadtest.contention.losses import LeftBehind, losses_told
from rowlock_loadtest.contention.meters import wait_for_clients

SERVER_SETTINGS = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "max_connections": "200",
}
"""Of the embedded server: what a small one is given. Durability is as by default."""

PREFIX = "rowlock_loadtest_"
"""Of the names of databases of our own."""
COMES_BACK_S = 15.0
"""So long a server that was restarted, or failed over, may take until we clean up."""
ASK_AGAIN_S = 0.5

TOLD = [
    "autovacuum_naptime",
    "checkpoint_timeout",
    "commit_delay",
    "deadlock_timeout",
    "effective_io_concurrency",
    "fsync",
    "full_page_writes",
    "max_connections",
    "max_wal_size",
    "shared_buffers",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_buffers",
    "wal_compression",
    "wal_level",
    "wal_sync_method",
]


@dataclass(frozen=True, slots=True)
class Place:
    """A migrated database. ``alone``: it is the suite's own, so its tables may be emptied."""

    url: str
    app: str
    alone: bool
    what: str


class Asking:
    """Who is asked before a server with somebody's runs is put under load."""

    def __init__(self, yes: bool) -> None:
        self.yes = yes

    def may(self, question: str) -> bool:
        return self.yes


@contextmanager
def opened(url: str | None, asking: Asking, *, here: bool = False) -> Iterator[Place]:
    """A place for the suite. ``here``: work in the named database, as an app of its own."""
    if url is None:
        with tempfile.TemporaryDirectory(prefix="rowlock-loadtest-") as folder:
            Path(folder).chmod(0o711)  # the server may run as another user
            with Server(Path(folder) / "data", settings=SERVER_SETTINGS) as server:
                own = make_conninfo(server.url("postgres"), dbname=_create(server.url("postgres")))
                _migrate(own)
                yield Place(own, "loadtest", True, "an embedded server")
        return
    understood(url)
    _ask(url, asking)
    if here:
        with _own_app(url) as place:
            yield place
    else:
        with _own_database(url) as place:
            yield place


def _ask(url: str, asking: Asking) -> None:
    with _connected(url) as connection:
        name = connection.info.dbname
        busy = truth.holds_runs(connection)
    if busy and not asking.may(
        f"The database {name} holds runs. Whatever uses this server will be slower while the load"
        " test runs, and its figures will include that use. Go on?"
    ):
        raise ConfigurationError(
            f"the database {name} holds runs, so nothing was done: the server would be put under"
            " load. Name another one, or say --yes"
        )


@contextmanager
def _own_database(url: str) -> Iterator[Place]:
    name = _create(url)
    try:
        own = make_conninfo(url, dbname=name)
        _migrate(own)
        yield Place(own, "loadtest", True, "a database of its own on the named server")
    finally:
        _drop(url, name)


def _create(url: str) -> str:
    """Make an empty database; gives its name."""
    name = f"{PREFIX}{uuid4().hex[:12]}"
    with _connected(url) as admin:
        try:
            admin.execute(
                SQL("create database {} template template0 encoding 'UTF8'").format(
                    Identifier(name)
                )
            )
        except psycopg.errors.InsufficientPrivilege:
            raise ConfigurationError(
                "this role may not create databases. Let it (alter role … createdb), or say --here:"
                " the suite then works in the named database, as an app of its own"
            ) from None
    return name


def _drop(url: str, name: str) -> None:
    """On another connection: the first was idle for long, and a proxy may have closed it."""
    drop = SQL("drop database if exists {} with (force)").format(Identifier(name))
    try:
        with losses_told(), _connected(url, patience_s=COMES_BACK_S) as admin:
            admin.execute(drop)
    except Disconnected as error:
        raise LeftBehind(
            f"the database {name}",
            str(error).rstrip("."),
            f'When the server is back: drop database if exists "{name}" with (force).',
        ) from None


def _migrate(url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rowlock", "migrate"],
        env={**os.environ, "ROWLOCK_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigurationError(f"the new database can't be migrated: {done.stderr.strip()}")


@contextmanager
def _own_app(url: str) -> Iterator[Place]:
    app = f"loadtest-{uuid4().hex[:12]}"
    with _connected(url) as connection:
        there = connection.execute("select to_regclass('rowlock.run') is not null").fetchone()
        if not there or not there[0]:
            raise ConfigurationError(
                "the named database has no Rowlock schema. Run `rowlock migrate` first, or leave"
                " out"
                " --here"
            )
        if not truth.may_fill(connection):
            raise ConfigurationError(
                "with --here the suite must write as the owner of the schema rowlock, which this"
                " role is not. Name the role that ran `rowlock migrate`"
            )
    try:
        yield Place(url, app, False, "an app of its own in the named database")
    finally:
        _forget(url, app)


def _forget(url: str, app: str) -> None:
    try:
        with losses_told(), _connected(url, patience_s=COMES_BACK_S) as connection:
            wait_for_clients(connection)  # what they still write would be left behind
            naive.drop(connection)
            truth.forget(connection, app)
    except Disconnected as error:
        raise LeftBehind(
            f"what belongs to the app {app} in the named database",
            str(error).rstrip("."),
            f"No worker takes it. When the server is back, `rowlock list --app {app}` shows its"
            " runs; `rowlock cancel` and `rowlock delete` remove them.",
        ) from None


def _connected(url: str, *, patience_s: float = 0.0) -> psycopg.Connection[Any]:
    """``patience_s``: how long a server that can't be reached is asked again."""
    until = time.monotonic() + patience_s
    while True:
        try:
            return psycopg.connect(url, autocommit=True, application_name="rowlock loadtest")
        except psycopg.OperationalError as error:
            if time.monotonic() >= until:
                said = str(error).strip()
                raise Disconnected(f"can't reach the database: {said}") from None
        time.sleep(ASK_AGAIN_S)


def environment(place: Place) -> tuple[dict[str, str], dict[str, str]]:
    """Facts about machine and server, and its settings. No address, user or password."""
    with _connected(place.url) as connection:
        version = connection.execute(
            "select current_setting('server_version'), pg_is_in_recovery()"
        ).fetchone()
        rows = connection.execute(
            "select name, current_setting(name) from pg_settings where name = any (%s)"
            " order by name",
            [TOLD],
        ).fetchall()
        extra = connection.execute(
            "select coalesce(inet_server_addr() = inet_client_addr(), true)"
        ).fetchone()
    assert version is not None
    assert extra is not None
    facts = {
        "where": place.what,
        "PostgreSQL": str(version[0]),
        "client": f"Python {platform.python_version()}, psycopg {psycopg.__version__}"
        f" ({psycopg.pq.__impl__})",
        "client's machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
        + _memory(),
        "server": "on the client's machine" if extra[0] else "on another machine",
    }
    return facts, {str(name): str(value) for name, value in rows}


def _memory() -> str:
    with suppress(OSError, ValueError, AttributeError):
        size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return f", {size / 2**30:.0f} GiB"
    return ""
