"""Every statement of the store fits a real database and its row type.

A placeholder inside quotes is text, not a placeholder: another project had a lease of 3 seconds
for 30 that way. So each statement is described by the server: parameters, columns and types.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import pq

from rowlock.store import controls, examination, reports, schedules, statements
from rowlock.store.connection import Statement

STATEMENTS = {
    name: value
    for module in (statements, controls, schedules, reports, examination)
    for name, value in vars(module).items()
    if isinstance(value, Statement)
}
PLACEHOLDER = re.compile(r"%\(\w+\)s")
NAMED = re.compile(r"%\((\w+)\)s")
QUOTED = re.compile(r"'[^']*'")

# What psycopg makes of a column of each type.
PYTHON_TYPES: dict[str, type] = {
    "uuid": UUID,
    "text": str,
    "int2": int,
    "int4": int,
    "int8": int,
    "float4": float,
    "float8": float,
    "bool": bool,
    "timestamptz": datetime,
    "jsonb": object,
    "void": object,
    "_uuid": list,
    "_int4": list,
    "_text": list,
    "interval": timedelta,
}


class Description:
    """What the server says of a prepared statement."""

    def __init__(self, connection: psycopg.Connection[Any], sql: str) -> None:
        self.names = list(dict.fromkeys(NAMED.findall(sql)))
        numbered = NAMED.sub(lambda found: f"${self.names.index(found[1]) + 1}", sql)
        plain = connection.pgconn
        prepared = plain.prepare(b"described", numbered.replace("%%", "%").encode())
        assert prepared.status == pq.ExecStatus.COMMAND_OK, prepared.get_error_message()
        described = plain.describe_prepared(b"described")
        self.parameters = described.nparams
        self.columns = [(described.fname(n) or b"").decode() for n in range(described.nfields)]
        self.types = [
            str((connection.adapters.types.get(described.ftype(n)) or _Void).name)
            if not _is_array(connection, described.ftype(n))
            else "_" + str(connection.adapters.types[described.ftype(n)].name)
            for n in range(described.nfields)
        ]


class _Void:
    name = "void"


def _is_array(connection: psycopg.Connection[Any], oid: int) -> bool:
    known = connection.adapters.types.get(oid)
    return known is not None and known.array_oid == oid


def described(database: str, statement: Statement[Any]) -> Description:
    with psycopg.connect(database) as connection:
        return Description(connection, statement.sql)


def is_dataclass(row: object) -> bool:
    return isinstance(row, type) and dataclasses.is_dataclass(row)


def allowed(annotation: Any) -> set[Any]:
    """The types an annotation names; list[UUID] counts as list."""
    if isinstance(annotation, types.UnionType):
        return {kind for part in typing.get_args(annotation) for kind in allowed(part)}
    return {typing.get_origin(annotation) or annotation}


def test_there_are_statements() -> None:
    assert len(STATEMENTS) >= 20
    names = [statement.name for statement in STATEMENTS.values()]
    assert len(set(names)) == len(names), "a statement's name says which one it is, in logs"


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_placeholder_stands_within_quotes(name: str) -> None:
    quoted = [text for text in QUOTED.findall(STATEMENTS[name].sql) if "%(" in text]
    assert quoted == []


def test_a_placeholder_within_quotes_would_be_found() -> None:
    assert any("%(" in text for text in QUOTED.findall("now() + interval '%(ttl)s seconds'"))


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_is_what_the_database_understands(database: str, name: str) -> None:
    statement = STATEMENTS[name]
    found = described(database, statement)
    assert found.parameters == len(found.names)
    assert "%" not in PLACEHOLDER.sub("", statement.sql.replace("%%", "")), "a stray percent sign"


@pytest.mark.parametrize("name", [n for n, s in STATEMENTS.items() if is_dataclass(s.row)])
def test_the_columns_fit_the_row(database: str, name: str) -> None:
    statement = STATEMENTS[name]
    row: Any = statement.row
    found = described(database, statement)
    fields = [field.name for field in dataclasses.fields(row)]
    assert len(found.columns) == len(fields)
    # `i integer` is the number of an entry: the one column that is called otherwise here.
    renamed = {"i": "number"}
    assert [renamed.get(column, column) for column in found.columns] == fields
    hints = typing.get_type_hints(row)
    for field, kind in zip(fields, found.types, strict=True):
        kinds = allowed(hints[field])
        fits = Any in kinds or PYTHON_TYPES[kind] in kinds or (kind == "jsonb" and dict in kinds)
        assert fits, f"{field}: {kind} is not {kinds}"


@pytest.mark.parametrize("name", [n for n, s in STATEMENTS.items() if not is_dataclass(s.row)])
def test_a_statement_without_a_row_type_has_one_column(database: str, name: str) -> None:
    assert len(described(database, STATEMENTS[name]).columns) == 1
