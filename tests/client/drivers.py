"""Every kind of connection that a caller may bring, opened and handled in one way.

``async with (SYNC | ASYNC)[name](url) as caller:`` gives a Caller: its connection, and what its
owner would do to commit, to roll back and to set a savepoint.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import django.conf
import psycopg
import sqlalchemy as sa
from django.db import connection as django_connection
from django.db import connections as django_connections
from django.db import transaction as django_transaction
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sa_asyncio

T = TypeVar("T")


@dataclass
class Caller:
    """One who has a transaction of his own."""

    connection: Any
    commit: Callable[[], Any]
    roll_back: Callable[[], Any]
    savepoint: Callable[[], Any]

    @asynccontextmanager
    async def nested(self) -> AsyncIterator[None]:
        """A part that may fail."""
        savepoint = await done(self.savepoint())
        if hasattr(savepoint, "__aenter__"):
            async with savepoint:
                yield
        else:
            with savepoint:
                yield


Open = Callable[[str], AbstractAsyncContextManager[Caller]]


@asynccontextmanager
async def psycopg_async(url: str, **options: Any) -> AsyncIterator[Caller]:
    connection = await psycopg.AsyncConnection.connect(url, **options)
    try:
        yield Caller(connection, connection.commit, connection.rollback, connection.transaction)
    finally:
        await connection.close()


@asynccontextmanager
async def psycopg_sync(url: str, **options: Any) -> AsyncIterator[Caller]:
    with psycopg.connect(url, **options) as connection:
        yield Caller(connection, connection.commit, connection.rollback, connection.transaction)


def dicts_async(url: str) -> AbstractAsyncContextManager[Caller]:
    return psycopg_async(
        url, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.AsyncRawCursor
    )


def dicts_sync(url: str) -> AbstractAsyncContextManager[Caller]:
    return psycopg_sync(url, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.ClientCursor)


def sqlalchemy_url(url: str, driver: str) -> sa.URL:
    given = conninfo_to_dict(url)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=str(given["user"]),
        password=str(given["password"]),
        host=str(given["host"]),
        port=int(str(given["port"])),
        database=str(given["dbname"]),
    )


def of_sqlalchemy(driver: str, kind: str) -> Open:
    """``kind``: connection, session or scoped."""

    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Caller]:
        engine = sa.create_engine(sqlalchemy_url(url, driver))
        makers: dict[str, Callable[[], Any]] = {
            "connection": engine.connect,
            "session": lambda: orm.Session(engine),
            "scoped": lambda: orm.scoped_session(orm.sessionmaker(engine)),
        }
        connection = makers[kind]()
        try:
            yield Caller(
                connection, connection.commit, connection.rollback, connection.begin_nested
            )
        finally:
            connection.close()
            engine.dispose()

    return opened


def of_sqlalchemy_async(driver: str, kind: str) -> Open:
    @asynccontextmanager
    async def opened(url: str) -> AsyncIterator[Caller]:
        engine = sa_asyncio.create_async_engine(sqlalchemy_url(url, driver))
        makers: dict[str, Callable[[], Any]] = {
            "connection": lambda: sa_asyncio.AsyncConnection(engine),
            "session": lambda: sa_asyncio.AsyncSession(engine),
            "scoped": lambda: sa_asyncio.async_scoped_session(
                sa_asyncio.async_sessionmaker(engine), scopefunc=lambda: 1
            ),
        }
        connection = makers[kind]()
        if kind == "connection":
            await connection.start()
        try:
            yield Caller(
                connection, connection.commit, connection.rollback, connection.begin_nested
            )
        finally:
            await connection.close()
            await engine.dispose()

    return opened


@contextmanager
def django_database(settings: dict[str, Any]) -> Iterator[None]:
    """``django.db.connection`` leads to this database, in this thread."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(USE_TZ=True)
        django.setup()
    django_connections.settings |= django_connections.configure_settings({"default": settings})
    try:
        yield
    finally:
        django_connections["default"].close()
        del django_connections["default"]


@asynccontextmanager
async def of_django(url: str) -> AsyncIterator[Caller]:
    given = conninfo_to_dict(url)
    settings = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given["dbname"],
        "USER": given["user"],
        "PASSWORD": given["password"],
        "HOST": given["host"],
        "PORT": given["port"],
    }
    with django_database(settings):
        django_transaction.set_autocommit(False)
        yield Caller(
            django_connection,
            django_transaction.commit,
            django_transaction.rollback,
            django_transaction.atomic,
        )
        django_transaction.rollback()


SYNC: dict[str, Open] = {
    "psycopg": psycopg_sync,
    "psycopg, dicts": dicts_sync,
    **{
        f"SQLAlchemy {kind}, {driver}": of_sqlalchemy(driver, kind)
        for kind, driver in (
            *(("connection", "psycopg"), ("session", "psycopg"), ("scoped", "psycopg")),
            *(("connection", "psycopg2"), ("session", "psycopg2")),
            *(("connection", "pg8000"), ("session", "pg8000")),
        )
    },
    "Django": of_django,
}

ASYNC: dict[str, Open] = {
    "psycopg async": psycopg_async,
    "psycopg async, dicts": dicts_async,
    **{
        f"SQLAlchemy async {kind}, {driver}": of_sqlalchemy_async(driver, kind)
        for kind, driver in (
            *(("connection", "asyncpg"), ("session", "asyncpg"), ("scoped", "asyncpg")),
            *(("connection", "psycopg_async"), ("session", "psycopg_async")),
        )
    },
}


async def done(found: Any) -> Any:
    """What was awaited, if it is to be."""
    return await found if inspect.isawaitable(found) else found


def play(kind: str, scene: Coroutine[Any, Any, T]) -> T:
    """Play a scene of this kind: in a loop, or without one, where nothing in it ever waits.

    So one scene serves both; Django's connections refuse a thread with a running loop.
    """
    if kind in ASYNC:
        return asyncio.run(scene)
    try:
        scene.send(None)
    except StopIteration as ended:
        found: T = ended.value
        return found
    raise AssertionError(f"{kind} waited for a loop")
