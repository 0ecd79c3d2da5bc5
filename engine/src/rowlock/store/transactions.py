"""Transaction steps: the user's writes and their checkpoint in one commit.

The fence and the step's row are the last statement, pipelined with COMMIT: it raises when this
worker no longer owns the run, and then nothing of the transaction remains. Each transaction has a
connection of its own, so it may wait without holding up the journal.

Reads and writes: whatever the user's function does, and the step's row.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from typing import Annotated, Any, Protocol, get_args, get_origin

import psycopg
from psycopg import AsyncConnection, Connection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from rowlock.errors import ConfigurationError, MisplacedCall, RowlockError
from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, conninfo
from rowlock.store.statements import RECORD_TRANSACTION

_BEGIN = {
    level: f"begin isolation level {level}".encode()
    for level in ("read committed", "repeatable read", "serializable")
}
ISOLATION_LEVELS = tuple(_BEGIN)

_SQLALCHEMY = {
    "sqlalchemy.ext.asyncio": ("AsyncSession", "async_scoped_session", "AsyncConnection"),
    "sqlalchemy.orm": ("Session", "scoped_session"),
    "sqlalchemy": ("Connection",),
}


class NotOwned(RowlockError):
    """Another worker owns the run; the transaction was rolled back."""


class AlreadyRecorded(RowlockError):
    """The step stands there already: an earlier try committed after all."""


class Conflict(RowlockError):
    """A serialization failure or deadlock: nothing happened, try again."""


class CommitUnknown(RowlockError):
    """The connection was lost at the commit: it may or may not have happened."""


class Transaction(Protocol):
    """One transaction on one connection. Any failure leaves nothing behind."""

    async def begin(self, isolation: str) -> None: ...
    async def call(self, function: Callable[..., Any]) -> Any: ...
    async def finish(self, parameters: Mapping[str, Any]) -> None: ...
    async def abandon(self) -> None: ...


OWN_END = (
    "the transaction step {what} its transaction itself{so_far}. Leave commit and rollback to "
    "Rowlock: it commits the writes together with the step's record, and rolls back when the "
    "function raises. For a part that may fail use {nested}."
)
NESTED = "`with tx.transaction():`"


class _AsyncConnection(AsyncConnection[Any]):
    """What an async transaction step gets: it can't end the transaction by these two."""

    lent = False
    undone = False
    """A session on it (sessions.py) takes what it wrote for rolled back."""

    async def commit(self) -> None:
        refuse_when(self.lent, "tried to commit")
        await super().commit()

    async def rollback(self) -> None:
        refuse_when(self.lent, "tried to roll back")
        await super().rollback()

    async def close(self) -> None:
        refuse_when(self.lent and not _called_by_psycopg(), "tried to close the connection of")
        await super().close()


class _Connection(Connection[Any]):
    """The same for a plain function."""

    lent = False
    undone = False

    def commit(self) -> None:
        refuse_when(self.lent, "tried to commit")
        super().commit()

    def rollback(self) -> None:
        refuse_when(self.lent, "tried to roll back")
        super().rollback()

    def close(self) -> None:
        refuse_when(self.lent and not _called_by_psycopg(), "tried to close the connection of")
        super().close()


def _called_by_psycopg() -> bool:
    """psycopg itself closes a connection whose query it could not cancel."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("psycopg")


def refuse_when(lent: bool, what: str, nested: str = NESTED) -> None:
    """Whoever is lent a transaction can't end it."""
    if lent:
        raise MisplacedCall(OWN_END.format(what=what, so_far="", nested=nested))


def handed(function: Callable[..., Any], wanted: Any, *, is_async: bool) -> Callable[..., Any]:
    """The function to call with a connection, where the user's wants a session of SQLAlchemy.

    ``wanted``: the annotation of its first parameter. Raises ConfigurationError.
    """
    kind = get_args(wanted)[0] if get_origin(wanted) is Annotated else wanted
    found = _sqlalchemy_kind(kind)
    if found is None:
        return function
    right = "AsyncSession" if is_async else "Session"
    if found != right:
        raise ConfigurationError(
            f"transaction {function.__qualname__} wants a {found}: "
            f"{'an async' if is_async else 'a plain'} function is handed SQLAlchemy's {right}, "
            "whose connection is `tx.connection()`"
        )
    sessions = importlib.import_module("rowlock.store.sessions")
    hand = sessions.with_async_session if is_async else sessions.with_session
    wrapped: Callable[..., Any] = hand(function, kind)
    return wrapped


def _sqlalchemy_kind(kind: Any) -> str | None:
    """What of SQLAlchemy this type is; who annotates with one has imported it."""
    kind = get_origin(kind) or kind
    if not isinstance(kind, type):
        return None
    for name, kinds in _SQLALCHEMY.items():
        module = sys.modules.get(name)
        for one in kinds if module else ():
            if issubclass(kind, getattr(module, one)):
                return one
    return None


class Transactions:
    """The connections of one process for transaction steps, opened as needed."""

    def __init__(self, settings: Settings, threads: Executor) -> None:
        self._settings = settings
        self._threads = threads
        self._async_pool: AsyncConnectionPool[_AsyncConnection] | None = None
        self._sync_pool: ConnectionPool[_Connection] | None = None

    def _pool_options(self) -> dict[str, Any]:
        return {
            "conninfo": conninfo(self._settings, "transaction"),
            "min_size": 0,
            "max_size": self._settings.transaction_connections,
            "timeout": 60.0,
            "max_idle": 60.0,
            "open": False,
            "kwargs": {
                "autocommit": True,
                "prepare_threshold": None if self._settings.pgbouncer else 5,
            },
            "check": None,
        }

    async def asynchronous(self) -> Transaction:
        if self._async_pool is None:
            self._async_pool = AsyncConnectionPool(
                connection_class=_AsyncConnection, **self._pool_options()
            )
            await self._async_pool.open()
        return _AsyncTransaction(self._async_pool)

    async def synchronous(self) -> Transaction:
        if self._sync_pool is None:
            self._sync_pool = ConnectionPool(connection_class=_Connection, **self._pool_options())
            self._sync_pool.open()
        return _SyncTransaction(self._sync_pool, self._threads)

    async def close(self) -> None:
        if self._async_pool is not None:
            await self._async_pool.close(timeout=1.0)
        if self._sync_pool is not None:
            self._sync_pool.close(timeout=1.0)


class _AsyncTransaction:
    def __init__(self, pool: AsyncConnectionPool[_AsyncConnection]) -> None:
        self._pool = pool
        self._stack = AsyncExitStack()
        self._connection: _AsyncConnection

    async def begin(self, isolation: str) -> None:
        with _translated():
            self._connection = await self._stack.enter_async_context(self._pool.connection())
            await self._connection.execute(_BEGIN[isolation])

    async def call(self, function: Callable[..., Any]) -> Any:
        self._connection.lent = True
        try:
            value = await function(self._connection)
        except Exception as error:
            _check_alive(self._connection, error)
            raise
        finally:
            self._connection.lent = False
        _check_open(self._connection.info.transaction_status)
        return value

    async def finish(self, parameters: Mapping[str, Any]) -> None:
        try:
            with _translated(commit=True):
                async with self._connection.pipeline():
                    await self._connection.execute(RECORD_TRANSACTION.sql, parameters)
                    await self._connection.execute("commit")
        except BaseException:
            # Closed, not pooled again: what psycopg prepared in a failed pipeline is not there.
            await self.abandon(spoilt=True)
            raise
        await self._stack.aclose()

    async def abandon(self, *, spoilt: bool = False) -> None:
        with suppress(Exception):
            active = self._connection.info.transaction_status is TransactionStatus.ACTIVE
            if spoilt or active:
                await self._connection.close()
            else:
                await self._connection.execute("rollback")
        with suppress(Exception):
            await self._stack.aclose()


class _SyncTransaction:
    def __init__(self, pool: ConnectionPool[_Connection], threads: Executor) -> None:
        self._pool = pool
        self._threads = threads
        self._stack = ExitStack()
        self._connection: _Connection

    async def _hop(self, function: Callable[..., Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def begin(self, isolation: str) -> None:
        def work() -> None:
            with _translated():
                self._connection = self._stack.enter_context(self._pool.connection())
                self._connection.execute(_BEGIN[isolation])

        await self._hop(work)

    async def call(self, function: Callable[..., Any]) -> Any:
        self._connection.lent = True
        try:
            value = await self._hop(partial(function, self._connection))
        except Exception as error:
            _check_alive(self._connection, error)
            raise
        finally:
            self._connection.lent = False
        _check_open(self._connection.info.transaction_status)
        return value

    async def finish(self, parameters: Mapping[str, Any]) -> None:
        def work() -> None:
            with _translated(commit=True), self._connection.pipeline():
                self._connection.execute(RECORD_TRANSACTION.sql, parameters)
                self._connection.execute("commit")

        try:
            await self._hop(work)
        except BaseException:
            # Closed, not pooled again: what psycopg prepared in a failed pipeline is not there.
            await self.abandon(spoilt=True)
            raise
        await self._hop(self._stack.close)

    async def abandon(self, *, spoilt: bool = False) -> None:
        def work() -> None:
            with suppress(Exception):
                active = self._connection.info.transaction_status is TransactionStatus.ACTIVE
                if spoilt or active:
                    self._connection.close()
                else:
                    self._connection.execute("rollback")
            with suppress(Exception):
                self._stack.close()

        await self._hop(work)


def _check_alive(connection: AsyncConnection[Any] | Connection[Any], error: Exception) -> None:
    """A lost connection is our trouble, not a failure of the user's function."""
    if connection.closed:
        raise Disconnected(f"lost the connection of a transaction step: {error}") from error


def _check_open(status: TransactionStatus) -> None:
    if status is TransactionStatus.IDLE:
        so_far = ", by SQL: what it wrote before a commit IS committed"
        raise MisplacedCall(OWN_END.format(what="ended", so_far=so_far, nested=NESTED))


def _is_our_step(error: psycopg.Error) -> bool:
    return error.diag.schema_name == "rowlock" and error.diag.constraint_name == "step_pkey"


class _translated:
    """psycopg's errors as what they mean for a transaction step."""

    def __init__(self, *, commit: bool = False) -> None:
        self._commit = commit

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        match error:
            case psycopg.errors.UniqueViolation() if _is_our_step(error):
                raise AlreadyRecorded(str(error)) from None
            case psycopg.Error() if error.sqlstate == "RLF01":
                raise NotOwned(str(error)) from None
            case psycopg.errors.SerializationFailure() | psycopg.errors.DeadlockDetected():
                raise Conflict(str(error)) from None
            case psycopg.OperationalError() | PoolTimeout():
                lost = CommitUnknown if self._commit else Disconnected
                raise lost(f"lost the connection of a transaction step: {error}") from None
            case _:
                return


def is_conflict(error: BaseException) -> bool:
    """Whether an error out of the user's function means: nothing happened, try again."""
    return isinstance(
        getattr(error, "orig", error),  # SQLAlchemy wraps psycopg's
        Conflict | psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected,
    )
