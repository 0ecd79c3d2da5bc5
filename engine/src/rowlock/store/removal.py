"""Batches of retention, archived or not: chosen, written elsewhere, removed, in one transaction.

What was chosen is locked until the transaction ends, so that what the archive gets is what is
removed. The archive has it safe when it returns: only then the runs are deleted and the transaction
is committed. Whoever is killed in between has archived runs that are still there, and are archived
once more; never the other way round. People call rowlock.retention, which calls this.

Reads: store's CHOOSE_RUNS, ARCHIVED_ROWS.  Writes: store's REMOVE_CHOSEN, EXPIRE_KEYS.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection

from rowlock.errors import ConfigurationError
from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, Statement, conninfo, describe, refusal
from rowlock.store.statements import (
    ARCHIVED_ROWS,
    CHOOSE_RUNS,
    EXPIRE_KEYS,
    REMOVE_CHOSEN,
    RETAIN_PLAN,
    ArchivedRow,
    Chosen,
    Planned,
)

R = TypeVar("R")

Archive = Callable[[Iterator[bytes]], object]
"""Takes the lines of a batch, a JSON object and a newline each; when it returns they are safe."""

PARTS = ("outcomes", "generations", "steps", "messages", "events", "stream_entries")
"""Of an archived run, in their order, each a JSON array of rows."""


_PATIENCE = "set local idle_in_transaction_session_timeout = '10 min'"
"""For the archive. Meanwhile nobody can redo the runs of the batch, and nothing else waits."""


class Remover:
    """A connection that removes runs. ``with`` opens and closes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection: Connection[Any]

    def __enter__(self) -> Remover:
        try:
            self._connection = psycopg.connect(
                conninfo(self._settings, "retain"), autocommit=True, prepare_threshold=None
            )
        except psycopg.OperationalError as error:
            raise Disconnected(f"can't reach the database: {describe(error)}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def plan(self, app: str | None) -> list[Planned]:
        """What would go now."""
        return self._all(RETAIN_PLAN, {"app": app})

    def remove(
        self,
        app: str | None,
        at_most: int,
        after: Chosen | None,
        archive: Archive | None,
    ) -> Chosen:
        """One batch, behind ``after``. ``archive`` gets its runs, a line of JSON each."""
        given = {
            "limit": at_most,
            "app": app,
            "archived": archive is not None,
            "lane": after.lane if after else None,
            "after_id": after.after_id if after else None,
        }
        try:
            # Whatever the database's default is: each statement has to see what came before it.
            self._say("begin isolation level read committed")
            self._say(_PATIENCE)
            chosen = self._all(CHOOSE_RUNS, given)[0]
            if archive is not None and chosen.runs:
                self._archive(chosen.runs, archive)
            if chosen.runs:
                self._all(REMOVE_CHOSEN, {"runs": chosen.runs})
            self._say("commit")
        except BaseException:
            with suppress(psycopg.Error):
                self._connection.rollback()
            raise
        return chosen

    def _archive(self, runs: list[UUID], archive: Archive) -> None:
        handed = 0

        def lines() -> Generator[bytes]:
            nonlocal handed
            with closing(self._lines(runs)) as found:
                for line in found:
                    handed += 1
                    yield line

        # Closed, whatever the archive does: until then the connection has not read its answer.
        with closing(lines()) as given:
            archive(given)
        if handed < len(runs):
            raise ConfigurationError(
                f"the archive took {handed} of {len(runs)} runs; it must take all of them before "
                "they are removed. Nothing was removed."
            )

    def expire_keys(self, at_most: int) -> int:
        """Remove keys of removed runs whose time is over; how many those were."""
        return self._all(EXPIRE_KEYS, {"limit": at_most})[0]

    def _say(self, sql: str) -> None:
        with _told():
            self._connection.execute(sql.encode())

    def _all(self, statement: Statement[R], given: Mapping[str, Any]) -> list[R]:
        with _told():
            cursor = self._connection.execute(statement.sql.encode(), given)
            return [statement.row(*row) for row in cursor.fetchall()]

    def _lines(self, runs: list[UUID]) -> Generator[bytes]:
        """One line a run; the rows come one by one, not the whole batch at once."""
        sql = ARCHIVED_ROWS.sql.encode()
        with (
            self._connection.cursor() as cursor,
            closing(cursor.stream(sql, {"runs": runs})) as found,  # type: ignore[type-var]
        ):
            for _, of_run in groupby(_rows(found), key=lambda row: row.run_id):
                yield b"".join(_line(of_run))


def _rows(found: Iterator[Any]) -> Iterator[ArchivedRow]:
    while True:
        with _told():
            row = next(found, None)
        if row is None:
            return
        yield ARCHIVED_ROWS.row(*row)


@contextmanager
def _told() -> Iterator[None]:
    """Errors of this connection as what they mean; the archive's own stay what they are."""
    try:
        yield
    except psycopg.OperationalError as error:
        raise Disconnected(describe(error)) from None
    except psycopg.Error as error:
        raise refusal(error) from None


def _line(rows: Iterator[ArchivedRow]) -> Iterator[bytes]:
    """The pieces of a JSON object of a run, with its newline. Values are as they are stored."""
    by_part: dict[str, list[str]] = {part: [] for part in PARTS}
    for row in rows:
        by_part.setdefault(row.part, []).append(row.row)
    yield b'{"run":' + by_part.pop("run")[0].encode()
    for part, found in by_part.items():
        yield f',"{part}":['.encode() + ",".join(found).encode() + b"]"
    yield b"}\n"
