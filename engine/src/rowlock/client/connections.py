"""A statement of ours on a connection of the caller's, in his transaction, whatever his driver.

psycopg's connections; SQLAlchemy's Connection, Session and their async kind, with any driver; and
Django's. None of them is imported: who has such an object has its module.

Writes: whatever the statement says; the caller commits it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from rowlock.errors import MisplacedCall
from rowlock.starting import styled
from rowlock.store.connection import (
    AsyncConnection,
    AsyncCursor,
    Connection,
    Cursor,
    Statement,
    translated,
    tuple_row,
)

T = TypeVar("T")

_SQLALCHEMY = {
    "sqlalchemy.ext.asyncio": ("AsyncSession", "async_scoped_session", "AsyncConnection"),
    "sqlalchemy.orm": ("Session", "scoped_session"),
    "sqlalchemy": ("Connection",),
}
_ASYNC = "sqlalchemy.ext.asyncio"


async def rows_on(
    connection: Any, statement: Statement[T], parameters: Mapping[str, Any]
) -> list[T]:
    """For async code. Raises Refused, MisplacedCall, and whatever the driver raises."""
    with translated():
        if isinstance(connection, AsyncConnection):
            # Plain cursors, whatever kind the caller's connection makes: dicts, `$1`, …
            async with AsyncCursor(connection, row_factory=tuple_row) as cursor:
                await cursor.execute(statement.sql, parameters)
                found: Sequence[Any] = await cursor.fetchall() if cursor.description else []
        elif _kind(connection) == _ASYNC:
            result = await connection.execute(*_textual(statement, parameters))
            found = result.fetchall() if result.returns_rows else []
        else:
            _refuse(connection, "an async client", "app.blocking_client()")
    return [statement.row(*row) for row in found]


def rows_on_blocking(
    connection: Any, statement: Statement[T], parameters: Mapping[str, Any]
) -> list[T]:
    """The same for code that is not async."""
    with translated():
        if isinstance(connection, Connection):
            with Cursor(connection, row_factory=tuple_row) as cursor:
                cursor.execute(statement.sql, parameters)
                found: Sequence[Any] = cursor.fetchall() if cursor.description else []
        elif _kind(connection) in ("sqlalchemy", "sqlalchemy.orm"):
            result = connection.execute(*_textual(statement, parameters))
            found = result.fetchall() if result.returns_rows else []
        elif _is_django(connection):
            with connection.cursor() as opened:
                opened.execute(statement.sql, parameters)
                found = opened.fetchall() if opened.description else []
        else:
            _refuse(connection, "a blocking client", "app.client()")
    return [statement.row(*row) for row in found]


def _kind(connection: Any) -> str | None:
    """The module of SQLAlchemy that it is from."""
    for name, kinds in _SQLALCHEMY.items():
        module = sys.modules.get(name)
        if module and isinstance(connection, tuple(getattr(module, kind) for kind in kinds)):
            return name
    return None


def _textual(statement: Statement[Any], parameters: Mapping[str, Any]) -> tuple[Any, Any]:
    said = styled(statement.sql, parameters, "named")
    return sys.modules["sqlalchemy"].text(said.text), said.parameters


def _is_django(connection: Any) -> bool:
    """``django.db.connection`` stands for the thread's own one; it has the same attributes."""
    return (
        "django.db" in sys.modules
        and getattr(connection, "vendor", None) == "postgresql"
        and callable(getattr(connection, "cursor", None))
    )


def _refuse(connection: Any, client: str, other: str) -> NoReturn:
    kind = f"{type(connection).__module__}.{type(connection).__qualname__}"
    if isinstance(vendor := getattr(connection, "vendor", None), str):
        kind += f" to {vendor}"  # Django's, to a database that can't be Rowlock's
    kinds = (
        "psycopg's AsyncConnection, or SQLAlchemy's AsyncSession or AsyncConnection"
        if client.startswith("an async")
        else "psycopg's Connection, SQLAlchemy's Session or Connection, or Django's connection"
    )
    raise MisplacedCall(
        f"{client} can't use {kind} as the caller's connection: it needs {kinds}. For the others "
        f"there is {other}; for any other driver `call.sql()` gives the SQL and its parameters. "
        "Nothing was done."
    )
