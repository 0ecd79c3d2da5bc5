"""Postgres for the tests: real servers in temporary folders, a fresh database for each test.

``ROWLOCK_TEST_POSTGRES_BIN`` names the bin folder of another PostgreSQL to run all tests on, such
as /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier

from rowlock.embedded import Server

# fsync stays on: what the tests prove about crashes and timing, they prove of a durable server.
SETTINGS = {
    "deadlock_timeout": "200ms",
    "log_lock_waits": "on",
    "log_statement": "none",
    "max_connections": "300",
    "shared_preload_libraries": "pg_stat_statements",
}
LINES_AFTER_A_DEADLOCK = 8  # who waited for whom, and both statements


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that the server's user can enter, which pytest's own (0700) is not for root."""
    folder = Path(tempfile.mkdtemp(prefix="rowlock-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_server(
    data_dir: Path, settings: dict[str, str] | None = None, bin_dir: Path | None = None
) -> Server:
    """A server with the settings of the tests, not yet started."""
    chosen = os.environ.get("ROWLOCK_TEST_POSTGRES_BIN")
    bin_dir = bin_dir or (Path(chosen) if chosen else None)
    return Server(data_dir, settings=SETTINGS | (settings or {}), bin_dir=bin_dir)


@contextmanager
def running_server(
    settings: dict[str, str] | None = None, *, bin_dir: Path | None = None
) -> Iterator[Server]:
    """A server of its own for a test that kills or restarts it; it may log no deadlock."""
    with temporary_folder() as folder:
        with make_server(folder / "data", settings, bin_dir) as server:
            yield server
        found = deadlocks(server.log_path)
        assert not found, "Postgres had to break a deadlock:\n" + "\n".join(found)


def deadlocks(log_path: Path) -> list[str]:
    """The log's lines about deadlocks, each with the details that follow it."""
    lines = log_path.read_text(errors="replace").splitlines()
    places = [number for number, line in enumerate(lines) if "deadlock detected" in line]
    return [line for place in places for line in lines[place : place + LINES_AFTER_A_DEADLOCK]]


@contextmanager
def new_database(server: Server, template: str = "template0") -> Iterator[str]:
    """The URL of a fresh database, dropped afterwards even if something still uses it."""
    name = f"test_{uuid4().hex[:16]}"
    _execute(server, SQL("create database {} template {}"), name, template)
    try:
        yield server.url(name)
    finally:
        _execute(server, SQL("drop database {} with (force)"), name)


def forbid_connections(server: Server, database: str) -> None:
    """Nobody may connect to a template from now on: copying it needs it unused."""
    _execute(server, SQL("alter database {} with allow_connections false"), database)


def _execute(server: Server, statement: SQL, *names: str) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute(statement.format(*map(Identifier, names)))
