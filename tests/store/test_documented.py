"""The schema says of itself what everything means: psql shows it, and docs/sql.md is made of it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

Row = tuple[Any, ...]


def ask(database: str, query: str) -> list[Row]:
    with psycopg.connect(database) as connection:
        return connection.execute(query.encode()).fetchall()


FUNCTIONS = """
select p.oid::regprocedure::text, obj_description(p.oid, 'pg_proc'),
       coalesce(p.proargnames, '{}'), p.pronargs - p.pronargdefaults, p.pronargs,
       exists (select from rowlock.rights() as r where r.function = p.proname)
  from pg_proc as p where p.pronamespace = 'rowlock'::regnamespace
"""


@pytest.fixture
def documented(database: str) -> list[Row]:
    """Signature, comment, names of arguments, how many have no default, how many there are."""
    return [row for row in ask(database, FUNCTIONS) if row[1] is not None]


def test_every_table_view_and_column_says_what_it_is(database: str) -> None:
    silent = ask(
        database,
        "select c.relname, a.attname from pg_class as c"
        "  join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
        " where c.relnamespace = 'rowlock'::regnamespace and c.relkind in ('r', 'v')"
        "   and col_description(c.oid, a.attnum) is null"
        " union all select c.relname, null from pg_class as c"
        " where c.relnamespace = 'rowlock'::regnamespace and c.relkind in ('r', 'v')"
        "   and obj_description(c.oid, 'pg_class') is null",
    )
    assert silent == []


def test_every_function_for_people_has_a_comment_and_no_other(database: str) -> None:
    """Whose arguments are called by their names: those of the others begin with p_."""
    for signature, comment, names, _, _, has_rights in ask(database, FUNCTIONS):
        inner = any(name.startswith("p_") for name in names)
        if comment is not None:
            assert not inner, f"{signature} is documented: its arguments are for people to name"
        else:
            assert inner or not has_rights or not names, f"{signature} has no comment"


def test_every_argument_is_described_and_what_holds_without_it(documented: list[Row]) -> None:
    assert len(documented) >= 20
    for signature, comment, names, required, count, _ in documented:
        summary, _, rest = comment.partition("\n\n")
        described = re.split(r"^(\w+): ", rest, flags=re.MULTILINE)
        assert summary.endswith("."), f"{signature}: {summary}"
        assert described[0] == "", f"{signature}: {described[0]}"
        assert described[1::2] == names, f"{signature} describes other arguments, or in disorder"
        for number, (name, meaning) in enumerate(zip(names, described[2::2], strict=True)):
            assert meaning.strip().endswith("."), f"{signature}, {name}: {meaning}"
            has_default = required <= number < count
            says_so = "default:" in meaning
            assert has_default == says_so, f"{signature}, {name}: what holds without it?"


def test_every_comment_fits_a_terminal(documented: list[Row]) -> None:
    wide = [
        line for _, comment, *_ in documented for line in comment.split("\n") if len(line) > 110
    ]
    assert wide == []
