"""Sessions of SQLAlchemy for transaction steps, on the step's own connection.

Imported only when a transaction asks for one: SQLAlchemy is the user's. Its engine is here for its
dialect and its cache of compiled statements; it owns no connection, and begins, ends and closes
nothing: the transaction is Rowlock's.

Reads and writes: whatever the user's function does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from rowlock.errors import ConfigurationError, MisplacedCall
from rowlock.store.transactions import OWN_END, refuse_when

try:
    from sqlalchemy import create_engine
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg, PGDialectAsync_psycopg
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
    from sqlalchemy.orm import Session
    from sqlalchemy.pool import NullPool
except ImportError as error:
    raise ConfigurationError(
        f"sessions in transactions need SQLAlchemy 2.0 or newer ({error}): "
        "`pip install 'rowlock[sqlalchemy]'`"
    ) from error

_NESTED = "`with tx.begin_nested():`"

_connection: ContextVar[Any] = ContextVar("rowlock_lent_connection")
"""What the engine is given when it asks for a connection."""


class _Lent(PGDialect_psycopg):
    """psycopg's dialect for a connection in a transaction of somebody else's."""

    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type[_LentAsync]:
        return _LentAsync

    # What the others would ask the server for, in the user's transaction, psycopg knows.

    def _get_server_version_info(self, connection: Any) -> tuple[int, int]:
        version: int = self._driver(connection.connection).info.server_version
        return divmod(version, 10000)

    def _set_backslash_escapes(self, connection: Any) -> None:
        info = self._driver(connection.connection).info
        self._backslash_escapes = info.parameter_status("standard_conforming_strings") == "off"

    def _get_default_schema_name(self, connection: Any) -> str:
        return "public"

    def get_default_isolation_level(self, dbapi_conn: Any) -> Any:
        return "READ COMMITTED"

    def on_connect(self) -> None:
        """Nothing: the connection comes again and again, and would gather handlers."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """It has begun."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """The end of a ``with tx.begin():``, or of a Connection's transaction."""
        refuse_when(self._driver(dbapi_connection).lent, "tried to commit", _NESTED)

    def do_rollback(self, dbapi_connection: Any) -> None:
        """A flush has failed, or a ``with tx.begin():``: it is rolled back at the step's end."""
        self._driver(dbapi_connection).undone = True

    def do_close(self, dbapi_connection: Any) -> None:
        """It is not ours."""

    def do_terminate(self, dbapi_connection: Any) -> None:
        """It is not ours."""

    def _driver(self, dbapi_connection: Any) -> Any:
        # The pool's, the async adapter's, or psycopg's own.
        return getattr(dbapi_connection, "driver_connection", dbapi_connection)


class _LentAsync(_Lent, PGDialectAsync_psycopg):
    """The same for an async one."""

    is_async = True
    supports_statement_cache = True


registry.register("postgresql.rowlock", __name__, "_Lent")

_OPTIONS: dict[str, Any] = {
    "poolclass": NullPool,
    "pool_reset_on_return": None,
    "use_native_hstore": False,  # whether there is one would have to be asked for
    "hide_parameters": True,  # errors are stored, and shown, as they are
}


@functools.cache
def _engine() -> Any:
    return create_engine("postgresql+rowlock://", creator=_connection.get, **_OPTIONS)


@functools.cache
def _async_engine() -> AsyncEngine:
    async def lent() -> Any:
        return _connection.get()

    return create_async_engine("postgresql+rowlock://", async_creator=lent, **_OPTIONS)


class _Guarded:
    """A session that can't end the transaction it is in. Async sessions have such a one inside."""

    _is_lent = True

    def commit(self) -> None:
        refuse_when(self._is_lent, "tried to commit", _NESTED)

    def rollback(self) -> None:
        refuse_when(self._is_lent, "tried to roll back", _NESTED)

    def prepare(self) -> None:
        refuse_when(self._is_lent, "tried to prepare", _NESTED)

    def invalidate(self) -> None:
        refuse_when(self._is_lent, "tried to close the session of", _NESTED)
        super().invalidate()  # type: ignore[misc]

    def reset(self) -> None:
        refuse_when(self._is_lent, "tried to close the session of", _NESTED)
        super().reset()  # type: ignore[misc]

    def close(self) -> None:
        refuse_when(self._is_lent, "tried to close the session of", _NESTED)
        super().close()  # type: ignore[misc]


def _guarded(kind: type[Session]) -> type[Session]:
    return type(kind.__name__, (_Guarded, kind), {})


def with_async_session(function: Callable[..., Any], kind: type[AsyncSession]) -> Any:
    """The function, to be called with a connection instead of a session of this kind."""
    guarded = _guarded(kind.sync_session_class)

    @functools.wraps(function)
    async def call(connection: Any, *args: Any, **kwargs: Any) -> Any:
        token = _connection.set(connection)
        try:
            bound = await _async_engine().connect()
        finally:
            _connection.reset(token)
        connection.undone = False
        session = kind(bind=bound, sync_session_class=guarded)
        try:
            value = await function(session, *args, **kwargs)
            _check_whole(connection, session)
            await session.flush()
            return value
        finally:
            session.sync_session._is_lent = False  # type: ignore[attr-defined]
            await session.close()
            await bound.close()

    return call


def with_session(function: Callable[..., Any], kind: type[Session]) -> Any:
    """The same for a plain function."""
    guarded = _guarded(kind)

    @functools.wraps(function)
    def call(connection: Any, *args: Any, **kwargs: Any) -> Any:
        token = _connection.set(connection)
        try:
            bound = _engine().connect()
        finally:
            _connection.reset(token)
        connection.undone = False
        session = guarded(bind=bound)
        try:
            value = function(session, *args, **kwargs)
            _check_whole(connection, session)
            session.flush()
            return value
        finally:
            session._is_lent = False  # type: ignore[attr-defined]
            session.close()
            bound.close()

    return call


def _check_whole(connection: Any, session: Session | AsyncSession) -> None:
    """A session whose flush failed takes what it had written for undone, and forgets it."""
    if connection.undone or not session.is_active:
        raise MisplacedCall(
            OWN_END.format(
                what="rolled back",
                so_far=", or its session did when it could not flush, and then ended as if nothing "
                "had happened: nothing of it is kept",
                nested=_NESTED,
            )
        )
