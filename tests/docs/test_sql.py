"""docs/sql.md is what the schema says of itself, and its examples do what it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import postgres
from docs.examples import DOCS, Example, examples_of
from rowlock.embedded import Server
from store.races.sessions import Connections, World, finish, step

Rows = list[tuple[Any, ...]]


def test_the_reference_is_committed_as_it_is_generated(database: str, tmp_path: Path) -> None:
    made = tmp_path / "sql.md"
    subprocess.run([sys.executable, DOCS / "generate.py", "--database", database, made], check=True)
    assert made.read_text() == (DOCS / "sql.md").read_text(), "run `make docs`"


@pytest.fixture
def shop(server: Server, template: str) -> Iterator[World]:
    """The app of the page, and its user's table."""
    with postgres.new_database(server, template) as url:
        connections = Connections(url)
        world = World(connections)
        world.anybody.run("create table orders (id int, customer int)")
        world.anybody.run(
            "insert into orders select n, 42 + (n > 15)::int from generate_series(8, 30) as n"
        )
        yield world
        world.close()
        connections.close()


def done(world: World, example: Example) -> list[Rows]:
    """The answers to a block's statements that have one."""
    answers = []
    for statement in example.statements():
        try:
            cursor = world.anybody.connection.execute(statement.encode())
        except psycopg.Error as error:
            raise AssertionError(f"{example}: {statement}") from error
        if cursor.description is not None:
            answers.append(cursor.fetchall())
    return answers


def test_the_page_does_what_it_says(shop: World) -> None:
    sql = shop.anybody
    examples = examples_of("sql.md", "sql")
    assert len(examples) == 7
    begins, again, many, thousands, pages, view, one = examples

    [[[first]]] = done(shop, begins)
    assert sql.ask("select customer from orders where id = 7") == 42
    assert done(shop, again) == [[(first,)]]

    started, cancelled = done(shop, many)
    assert len(started) == 12
    assert len(cancelled) == 4
    assert sql.ask("select count(*) from rowlock.runs where status = 'cancelled'") == 4

    worker = shop.worker()
    for claimed in worker.claim():
        if claimed.run_id != first:
            worker.write(step(claimed, "1"), finish(claimed, "failed"))
    assert sql.ask("select count(*) from rowlock.runs where status = 'failed'") == 8
    assert done(shop, thousands) == []
    retried = sql.run("select status, generation from rowlock.runs where generation > 1")
    assert retried == [("ready", 2)] * 8

    newest, next_page = done(shop, pages)
    # Before PostgreSQL 18, ids of the same millisecond are in no order of creation.
    order = [run for (run,) in sql.run("select run_id from rowlock.runs order by run_id desc")]
    fifteenth = order.index(sql.ask("select run_id from rowlock.runs where key = 'order-15'"))
    assert [run for run, *_ in newest] == order[:5]
    assert [run for run, *_ in next_page] == order[fifteenth + 1 : fifteenth + 6]

    [counted] = done(shop, view)
    assert {row[1]: row[2] for row in counted} == {"ready": 8, "running": 1, "cancelled": 4}

    sent, explained, steps = done(shop, one)
    assert len(sent) == 1
    assert [row[0] for row in explained] == ["running"]
    assert steps == []
    assert sql.run("select value from rowlock.messages") == [({"by": "ann"},)]
