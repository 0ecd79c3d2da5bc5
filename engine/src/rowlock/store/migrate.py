"""Bring a database to the schema this code needs, or say how far it is.

Tables change in numbered steps, each in a transaction of its own; functions and views are
applied again whenever their text changes. Expand and contract: a step that would break older code
says so in its header (``-- minimum code level: N``), and only code below that level is refused.
So an image can be rolled back.

Many processes may do this at once: each step takes a lock, looks again, then acts. Who may use
what it brings: rowlock.store.roles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import Connection

from rowlock.errors import ConfigurationError, SchemaTooNew, SchemaTooOld
from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, conninfo, describe, refusal

LOCK = 0x726F776C6F636B  # "rowlock"
_HEADER = re.compile(r"^-- minimum code level: (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to apply: a numbered step of the tables, or the functions (number None)."""

    number: int | None
    name: str
    sql: str
    minimum_level: int = 1

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.number:04}_{self.name}" if self.number else self.name


@dataclass(frozen=True, slots=True)
class Report:
    """What was applied (or would be), and the level the database is at now."""

    applied: tuple[str, ...]
    level: int


def _read(folder: str) -> Iterator[tuple[str, str]]:
    for entry in sorted(files("rowlock.store").joinpath(folder).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".sql"):
            yield entry.name.removesuffix(".sql"), entry.read_text()


def steps() -> list[Change]:
    """The numbered steps of the tables, in order."""
    found = []
    for stem, sql in _read("migrations"):
        number, _, name = stem.partition("_")
        header = _HEADER.search(sql)
        found.append(Change(int(number), name, sql, int(header[1]) if header else 1))
    return found


def functions() -> Change:
    """All functions and views, as one change: they call each other."""
    return Change(None, "functions", "\n".join(sql for _, sql in _read("functions")))


LEVEL = max(step.number or 0 for step in steps())
"""The level of this code: the newest step it knows."""


@dataclass(frozen=True, slots=True)
class _State:
    level: int
    minimum: int
    functions: str | None


@contextmanager
def _connected(settings: Settings) -> Iterator[Connection[Any]]:
    try:
        with psycopg.connect(
            conninfo(settings, "migrate"), autocommit=True, prepare_threshold=None
        ) as connection:
            _require_utf8(connection)
            yield connection
    except psycopg.OperationalError as error:
        raise Disconnected(f"can't reach the database: {describe(error)}") from None
    except psycopg.Error as error:
        raise refusal(error) from None


def _require_utf8(connection: Connection[Any]) -> None:
    """Any other encoding can't hold every value: jsonb would refuse some, at any later time."""
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database {connection.info.dbname} has the encoding {encoding}; Rowlock keeps "
            "JSON in it and needs UTF8. Use another: create database … encoding 'UTF8' template "
            "template0"
        )


def _settings(where: Settings | str) -> Settings:
    return Settings(database_url=where) if isinstance(where, str) else where


def _state(connection: Connection[Any]) -> _State:
    there = connection.execute("select to_regclass('rowlock.migration') is not null").fetchone()
    if not there or not there[0]:
        return _State(0, 0, None)
    level, minimum = connection.execute(
        "select coalesce(max(number), 0), coalesce(max(minimum_level), 0) from rowlock.migration"
    ).fetchone() or (0, 0)
    text = connection.execute(
        "select checksum from rowlock.repeatable where name = 'functions'"
    ).fetchone()
    return _State(level, minimum, text[0] if text else None)


def _pending(state: _State) -> list[Change]:
    if state.minimum > LEVEL:
        raise SchemaTooNew(LEVEL, state.minimum)
    missing = [step for step in steps() if (step.number or 0) > state.level]
    # Older code must not bring old functions back to a newer database.
    if state.level <= LEVEL and state.functions != functions().checksum:
        missing.append(functions())
    return missing


def plan(where: Settings | str) -> Report:
    """What :func:`migrate` would apply now. Changes nothing."""
    with _connected(_settings(where)) as connection:
        state = _state(connection)
        return Report(tuple(str(change) for change in _pending(state)), state.level)


def check(where: Settings | str) -> int:
    """The database's level, when this code may work with it.

    Raises SchemaTooOld or SchemaTooNew.
    """
    with _connected(_settings(where)) as connection:
        state = _state(connection)
    if state.minimum > LEVEL:
        raise SchemaTooNew(LEVEL, state.minimum)
    if state.level < LEVEL or state.functions is None:
        raise SchemaTooOld(state.level, LEVEL)
    return state.level


def migrate(where: Settings | str) -> Report:
    """Apply what is missing. Safe to run from many processes at once, and again.

    Raises SchemaTooNew when the database demands newer code; nothing is changed then.
    """
    applied: list[str] = []
    with _connected(_settings(where)) as connection:
        while True:
            with connection.transaction():
                connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
                _bootstrap(connection)
                state = _state(connection)
                pending = _pending(state)
                if not pending:
                    return Report(tuple(applied), state.level)
                _apply(connection, pending[0])
                applied.append(str(pending[0]))


def _bootstrap(connection: Connection[Any]) -> None:
    there = connection.execute("select to_regclass('rowlock.repeatable') is not null").fetchone()
    if there and there[0]:
        return
    connection.execute("create schema if not exists rowlock")
    connection.execute(
        """
        create table rowlock.migration (
            applied_at     timestamptz not null default clock_timestamp(),
            number         integer not null primary key,
            minimum_level  integer not null,
            name           text not null,
            checksum       text not null);
        create table rowlock.repeatable (
            applied_at  timestamptz not null default clock_timestamp(),
            name        text not null primary key,
            checksum    text not null);
        """
    )


def _apply(connection: Connection[Any], change: Change) -> None:
    connection.execute(change.sql.encode())  # our own file, never a caller's text
    if change.number is None:
        connection.execute(
            "insert into rowlock.repeatable (name, checksum) values (%s, %s) on conflict (name) "
            "do update set checksum = excluded.checksum, applied_at = excluded.applied_at",
            [change.name, change.checksum],
        )
    else:
        connection.execute(
            "insert into rowlock.migration (number, name, checksum, minimum_level) "
            "values (%s, %s, %s, %s)",
            [change.number, change.name, change.checksum, change.minimum_level],
        )
