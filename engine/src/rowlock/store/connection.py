"""Connections: how they are opened, what they may wait for, how a loss is told.

A Session is one connection that runs one statement at a time, each in a transaction of its own.
When the connection is lost, or a call takes too long, it is closed for good and Disconnected is
raised: the caller decides whether the statement may be sent again.

Reads: settings.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, Connection, Cursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from rowlock.errors import ConfigurationError, Disconnected, Refused, RowlockError
from rowlock.settings import Settings
from rowlock.store.tls import advice

R = TypeVar("R")

__all__ = [
    "AsyncConnection",
    "AsyncCursor",
    "Backoff",
    "Connection",
    "Cursor",
    "Disconnected",
    "Poisoned",
    "Session",
    "SessionPool",
    "Statement",
    "conninfo",
    "describe",
    "refusal",
    "translated",
    "tuple_row",
    "understood",
]


class Poisoned(RowlockError):
    """PostgreSQL refuses what a statement carries; sending the same again would not help."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        self.sqlstate = sqlstate
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Statement(Generic[R]):
    """One thing to say: SQL with named parameters, and what to make of a row."""

    name: str
    sql: str
    row: Callable[..., R]


def conninfo(settings: Settings, purpose: str) -> str:
    """The user's connection string, completed where the user left a thing open.

    A dead peer must become an error in seconds, not in the two hours of TCP's defaults:
    keepalives, and tcp_user_timeout for data that nobody acknowledges.
    """
    given = understood(settings.require_database_url())
    lease_ms = int(settings.lease_seconds * 1000)
    defaults: dict[str, Any] = {
        "application_name": f"rowlock {purpose}",
        "connect_timeout": max(2, round(settings.connect_timeout_seconds)),
        "keepalives": 1,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": max(2000, lease_ms // 2),
    }
    merged = defaults | {k: v for k, v in given.items() if v is not None}
    merged["client_encoding"] = "utf8"  # whatever PGCLIENTENCODING says
    if not settings.pgbouncer:
        merged["options"] = " ".join(
            filter(None, [str(given.get("options") or ""), *_options(settings, purpose)])
        )
    return make_conninfo("", **merged)


def understood(url: str) -> dict[str, Any]:
    """What a connection string says; ConfigurationError if it can't be one.

    Neither the string nor a part of it is in the error: it may hold a password.
    """
    try:
        given = conninfo_to_dict(url)
    except (psycopg.ProgrammingError, UnicodeEncodeError):
        raise ConfigurationError(
            "the database's URL (ROWLOCK_DATABASE_URL or --database-url) is not a connection "
            "string that libpq understands; it should look like postgresql://user@host:5432/name"
        ) from None
    _refuse_unescaped_password(given)
    return given


def _refuse_unescaped_password(given: Mapping[str, Any]) -> None:
    """An @, / or : in a password that is not escaped makes a host or port of its rest.

    PostgreSQL's client would name that host in its error, and so half of the password in a log.
    """
    hosts = str(given.get("host") or "").split(",")
    ports = str(given.get("port") or "").split(",")
    if any("@" in host[1:] for host in hosts) or any(p and not p.isdigit() for p in ports):
        raise ConfigurationError(
            "the database's URL (ROWLOCK_DATABASE_URL or --database-url) has a host or port that "
            "can't be one. If the user's name or password has special characters, "
            "percent-encode them: @ is %40, : is %3A, / is %2F"
        )


def _options(settings: Settings, purpose: str) -> list[str]:
    lease_ms = int(settings.lease_seconds * 1000)
    options = {
        "default_transaction_isolation": "read\\ committed",
        "idle_in_transaction_session_timeout": str(max(lease_ms, 5000)),
    }
    if purpose in ("journal", "control", "fleet"):
        # Far below the lease: a statement that hangs must not cost the worker its runs.
        options |= {
            "statement_timeout": str(max(1000, lease_ms // 3)),
            "lock_timeout": str(max(500, lease_ms // 6)),
            "idle_in_transaction_session_timeout": str(max(1000, lease_ms // 3)),
        }
    if purpose == "janitor":
        # One run may have millions of rows. It waits for nobody.
        options |= {"statement_timeout": "300000", "lock_timeout": "5000"}
    return [f"-c {name}={value}" for name, value in options.items()]


class Backoff:
    """Growing pauses with full jitter, so that a fleet does not come back as a herd.

    Source: "Exponential Backoff and Jitter", AWS Architecture Blog, 2015 (full jitter).
    """

    def __init__(self, first_s: float = 0.05, most_s: float = 5.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._ceiling_s = first_s

    def reset(self) -> None:
        self._ceiling_s = self._first_s

    def next_s(self) -> float:
        pause = random.uniform(self._ceiling_s / 4, self._ceiling_s)
        self._ceiling_s = min(self._most_s, self._ceiling_s * 2)
        return pause


class Session:
    """One connection, opened when first needed, for one statement at a time."""

    def __init__(self, settings: Settings, purpose: str, *, timeout_s: float | None = None) -> None:
        self._settings = settings
        self._purpose = purpose
        self._timeout_s = timeout_s
        self._connection: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    async def rows(self, statement: Statement[R], parameters: Mapping[str, Any]) -> list[R]:
        """Run a statement in a transaction of its own and give its rows.

        Raises Disconnected when its fate is unknown, Refused when our own functions refused it,
        Poisoned when PostgreSQL can't take its content.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(self._timeout_s):
                    connection = await self._open()
                    found = await self._execute(connection, statement.sql, parameters)
            except psycopg.OperationalError as error:
                await self._drop()
                raise Disconnected(describe(error)) from None
            except TimeoutError:
                await self._drop()
                raise Disconnected(
                    f"PostgreSQL did not answer {statement.name} within {self._timeout_s:g} s"
                ) from None
            except psycopg.Error as error:
                closed = self._connection is not None and self._connection.closed
                if closed or is_unanswered(error):
                    await self._drop()
                    raise Disconnected(describe(error)) from None
                raise refusal(error) from None
            except BaseException:
                # Cancelled in mid-flight: what this connection would answer next is not known.
                await self._drop()
                raise
        make = statement.row
        return [make(*row) for row in found]

    async def one(self, statement: Statement[R], parameters: Mapping[str, Any]) -> R:
        """The first row of a statement that always gives one."""
        return (await self.rows(statement, parameters))[0]

    async def _execute(
        self, connection: AsyncConnection[Any], sql: str, parameters: Mapping[str, Any]
    ) -> Sequence[Sequence[Any]]:
        if not self._settings.pgbouncer:
            cursor = await connection.execute(sql, parameters, prepare=True)
            return await cursor.fetchall() if cursor.description else []
        # Behind PgBouncer nothing said at connection time can be relied on: say it each time.
        lease_ms = int(self._settings.lease_seconds * 1000)
        async with connection.pipeline():
            await connection.execute("begin isolation level read committed")
            await connection.execute(
                "select set_config('statement_timeout', %s, true)", [str(max(1000, lease_ms // 3))]
            )
            cursor = await connection.execute(sql, parameters, prepare=False)
            await connection.execute("commit")
        return await cursor.fetchall() if cursor.description else []

    async def _open(self) -> AsyncConnection[Any]:
        if self._connection is None:
            self._connection = await AsyncConnection.connect(
                conninfo(self._settings, self._purpose),
                autocommit=True,
                prepare_threshold=None if self._settings.pgbouncer else 5,
            )
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                await connection.close()

    async def close(self) -> None:
        await self._drop()

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Yield "" when the channel is listened to, then what every notification on it says.

        Raises Disconnected when the connection is lost.
        """
        try:
            connection = await self._open()
            await connection.execute(
                psycopg.sql.SQL("listen {}").format(psycopg.sql.Identifier(channel))
            )
            yield ""
            async for notice in connection.notifies():
                yield notice.payload
            raise Disconnected("the listening connection was closed")
        except psycopg.OperationalError as error:
            raise Disconnected(describe(error)) from None
        finally:
            await self._drop()


class SessionPool:
    """Sessions for statements that may have to wait for a stranger, a few at a time."""

    def __init__(
        self, settings: Settings, purpose: str, *, most: int, timeout_s: float | None = None
    ) -> None:
        self._make = partial(Session, settings, purpose, timeout_s=timeout_s)
        self._free: list[Session] = []
        self._places = asyncio.Semaphore(most)

    async def rows(self, statement: Statement[R], parameters: Mapping[str, Any]) -> list[R]:
        """Like :meth:`Session.rows`, on whichever session is free."""
        async with self._places:
            session = self._free.pop() if self._free else self._make()
            try:
                return await session.rows(statement, parameters)
            finally:
                self._free.append(session)

    async def close(self) -> None:
        for session in self._free:
            await session.close()


class translated:
    """Refusals of our functions as Refused, for a statement on a caller's connection.

    Whatever else happens there happens to the caller's transaction (a lost connection, a conflict,
    a time limit), and is raised as his driver raises it: his own code knows what to do.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # SQLAlchemy and Django raise errors of their own, and name the driver's.
        found = error
        for _ in range(4):
            state, message, hint = _answer(found)
            if state.startswith("RL") or state in _NOT_READY:
                raise meaning(state, message, hint) from error
            found = getattr(found, "orig", None) or getattr(found, "__cause__", None)


def _answer(error: Any) -> tuple[str, str, str | None]:
    """What PostgreSQL said, as the drivers tell it: SQLSTATE, message, hint."""
    if (diag := getattr(error, "diag", None)) is not None:  # psycopg, psycopg2
        return diag.sqlstate or "", diag.message_primary or "", diag.message_hint
    if isinstance(getattr(error, "message", None), str):  # asyncpg
        return getattr(error, "sqlstate", None) or "", error.message, getattr(error, "hint", None)
    fields = next(iter(getattr(error, "args", ())), None)
    if isinstance(fields, dict):  # pg8000: by the letters of the protocol
        return fields.get("C", ""), fields.get("M", ""), fields.get("H")
    return "", "", None


_NOT_READY = ("3F000", "42P01", "42883")
"""No schema, table or function: Rowlock's are not there."""

_PASSING = ("08", "25", "40", "53", "55", "57", "58", "XX")
"""Classes of SQLSTATE that pass by themselves: connections, a standby, conflicts, resources."""


def is_unanswered(error: psycopg.Error) -> bool:
    """Whether there was no answer at all: the connection was cut, and libpq does not know yet.

    psycopg says "got no result from the query" then, an InternalError without a SQLSTATE.
    """
    return isinstance(error, psycopg.InternalError) and error.sqlstate is None


def refusal(error: psycopg.Error) -> RowlockError:
    """What an error of PostgreSQL means to our callers."""
    if is_unanswered(error):
        return Disconnected(describe(error))
    message = error.diag.message_primary or str(error)
    return meaning(error.sqlstate or "", message, error.diag.message_hint)


def meaning(state: str, message: str, hint: str | None) -> RowlockError:
    """What a SQLSTATE with its message means to our callers."""
    if state.startswith("RL"):
        return Refused(message, state, hint)
    if state in _NOT_READY:
        return Refused(
            f"this database is not ready for Rowlock: {message}.", state, "Run `rowlock migrate`."
        )
    if state == "42501":
        return Refused(
            message,
            state,
            "This role lacks a right on Rowlock: docs/operations.md, Roles, says who may do what.",
        )
    if state.startswith(_PASSING):
        return Disconnected(f"{message} (SQLSTATE {state})")
    return Poisoned(f"PostgreSQL refused it: {message} (SQLSTATE {state})", state)


def describe(error: psycopg.Error) -> str:
    """The error's first line, and what to do. libpq names host and user, never the password."""
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    more = advice(text)
    return f"{first}. {more}" if more else first
