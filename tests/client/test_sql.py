"""`call.sql()`: what any other driver is given to start a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa

from client.drivers import sqlalchemy_url
from rowlock import App, Secret, call
from rowlock.codecs import Zlib
from rowlock.errors import ConfigurationError, InvalidValue
from rowlock.starting import Sql as Said
from workers.until import Sql

plain = App("plain")
LONG = "word " * 1000
AT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
OPTIONS: dict[str, Any] = {
    "key": "it's %s :key $1",
    "priority": 3,
    "start_at": AT,
    "deadline": timedelta(hours=1),
    "attributes": {"customer": 42},
}


@plain.workflow
async def fulfil(order: int, note: str = "::x %(y)s $2") -> str:
    return note


packed = App("packed", codec=Zlib())


@packed.workflow
async def keep(text: str) -> str:
    return text


async def by_psycopg(url: str, said: Said) -> UUID:
    with psycopg.connect(url) as connection:
        row = connection.execute(said.text, said.parameters).fetchone()
        assert row is not None
        return UUID(str(row[0]))


async def by_sqlalchemy(url: str, said: Said) -> UUID:
    engine = sa.create_engine(sqlalchemy_url(url, "pg8000"))
    with engine.begin() as connection:
        run_id: UUID = connection.execute(sa.text(said.text), said.parameters).scalar_one()
    engine.dispose()
    return run_id


async def by_asyncpg(url: str, said: Said) -> UUID:
    connection = await asyncpg.connect(url)
    try:
        run_id: UUID = await connection.fetchval(said.text, *said.parameters)
        return run_id
    finally:
        await connection.close()


DRIVERS: dict[Any, Any] = {
    "pyformat": by_psycopg,
    "named": by_sqlalchemy,
    "numeric": by_asyncpg,
}


@pytest.mark.parametrize("style", DRIVERS)
async def test_every_style_starts_the_run(database: str, sql: Sql, style: Any) -> None:
    run_id = await DRIVERS[style](database, fulfil(7).sql(style=style, **OPTIONS))
    again = await DRIVERS[style](database, fulfil(7).sql(style=style, **OPTIONS))
    assert again == run_id
    assert sql(
        "select r.id, r.app, r.workflow, r.input, r.key, r.priority, t.due_at, r.attributes,"
        " r.deadline_at from rowlock.run as r join rowlock.task as t on t.run_id = r.id"
    ) == [
        (
            run_id,
            *("plain", "fulfil", {"order": 7, "note": "::x %(y)s $2"}, OPTIONS["key"], 3, AT),
            *({"customer": 42}, AT + timedelta(hours=1)),
        )
    ]


async def test_whose_code_is_here_names_its_app_whose_is_not_may_leave_it_out(
    database: str, sql: Sql
) -> None:
    sql("select rowlock.show_app('other', '{default}', '{w}', '{default}')")
    await by_psycopg(database, call("fulfil", order=8).sql(codec=None))
    await by_psycopg(database, call("fulfil", order=8).sql(codec=None, app="third"))
    await by_psycopg(database, fulfil(8).sql())
    assert sql("select app, input - 'note' from rowlock.run order by id") == [
        ("other", {"order": 8}),
        ("third", {"order": 8}),
        ("plain", {"order": 8}),
    ]
    with pytest.raises(ConfigurationError, match="is of app plain"):
        fulfil(8).sql(app="other")


async def test_what_the_app_encodes_is_never_stored_plain(database: str, sql: Sql) -> None:
    await by_psycopg(database, keep(LONG).sql())
    with pytest.raises(ConfigurationError, match=r"sql\(codec=None\) if it has no codec"):
        call("keep", text=LONG).sql(app="packed")
    with pytest.raises(ConfigurationError, match="with its codecs: leave app and codec out"):
        keep(LONG).sql(codec=None)
    await by_psycopg(database, call("keep", text=LONG).sql(app="packed", codec=Zlib()))
    for (stored,) in sql("select input -> 'text' ->> '$codec' from rowlock.run"):
        assert stored == "zlib"
    with pytest.raises(InvalidValue, match="there is no codec that hides it"):
        call("keep", text=Secret("x")).sql(codec=None)


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be pyformat, named or numeric"):
        fulfil(7).sql(style="qmark")  # type: ignore[arg-type]
