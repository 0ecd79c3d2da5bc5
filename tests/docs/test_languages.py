"""What docs/languages.md shows to other languages is so."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from docs.examples import DOCS
from rowlock.model.values import Shape

PAGE = (DOCS / "languages.md").read_text()
FUNCTIONS = DOCS.parent / "engine/src/rowlock/store/functions"
FOR_WORKERS = {"RLF"}
"""What no caller meets: a lost claim."""


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    pieces: int


NAMES: dict[str, object] = {
    "Colour": Colour,
    "Decimal": Decimal,
    "Line": Line,
    "Path": Path,
    "UTC": UTC,
    "UUID": UUID,
    "date": date,
    "datetime": datetime,
    "time": time,
    "timedelta": timedelta,
}


def statements() -> list[str]:
    blocks = re.findall(r"^```sql\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    quoted = re.findall(r"`(select (?:\* from )?rowlock\.[^`]*|listen [^`]*)`", PAGE)
    lines = [line.split(" -- ")[0] for block in blocks for line in block.splitlines()]
    return [text.strip() for text in "\n".join(lines).split(";") if text.strip()] + quoted


def table(first_column: str) -> list[tuple[list[str], list[str]]]:
    """What stands in backticks in both columns of a table, row by row."""
    [rows] = re.findall(rf"^\| {first_column} \|.*\n\|[-|]*\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [row.strip("| ").split(" | ") for row in rows.splitlines()]
    return [(re.findall("`(.*?)`", left), re.findall("`(.*?)`", right)) for left, right in cells]


def values() -> list[tuple[str, str]]:
    return [pair for left, right in table("in Python") for pair in zip(left, right, strict=True)]


def test_every_statement_is_good(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table shop_order (number serial, customer text)")
        found = statements()
        assert len(found) >= 12
        for n, statement in enumerate(found):
            if statement.split()[0] in ("begin", "commit", "listen"):
                connection.execute(statement.encode())
            else:
                connection.execute(f"prepare statement_{n} as {statement}".encode())


@pytest.mark.parametrize(("in_python", "in_json"), values())
def test_values_have_the_form_that_the_page_shows(in_python: str, in_json: str) -> None:
    value: Any = eval(in_python, {**NAMES})
    shape = Shape(None if value is None else type(value), "the value")
    assert json.loads(shape.store(value)) == json.loads(in_json)
    loaded = shape.load(in_json)
    assert (type(loaded), {1: "x"} if isinstance(value, dict) else loaded) == (type(value), value)


def test_the_page_names_every_kind_of_refusal() -> None:
    sources = "".join(path.read_text() for path in FUNCTIONS.glob("*.sql"))
    kinds = {code[:3] for code in re.findall(r"'(RL[A-Z]\d\d)'", sources)}
    assert {kind for left, _ in table("begins with") for kind in left} == kinds - FOR_WORKERS
