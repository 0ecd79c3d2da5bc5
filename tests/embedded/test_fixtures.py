"""The fixtures every other test stands on."""

from __future__ import annotations

from pathlib import Path

import psycopg

import postgres
from rowlock.embedded import Server

SCHEMA_EXISTS = "select exists (select from pg_namespace where nspname = 'rowlock')"


def test_a_database_is_migrated_and_an_empty_one_is_not(database: str, empty_database: str) -> None:
    assert database != empty_database
    with psycopg.connect(database) as connection:
        assert connection.execute(SCHEMA_EXISTS).fetchone() == (True,)
    with psycopg.connect(empty_database) as connection:
        assert connection.execute(SCHEMA_EXISTS).fetchone() == (False,)


def test_a_database_is_dropped_although_it_is_in_use(server: Server) -> None:
    with postgres.new_database(server) as url:
        forgotten = psycopg.connect(url)
    with forgotten, psycopg.connect(server.url("postgres")) as connection:
        left = connection.execute(
            "select datname from pg_database where datname = %s", [forgotten.info.dbname]
        )
        assert left.fetchone() is None


def test_deadlocks_are_found_in_the_log_with_their_details(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("LOG:  ready\nERROR:  deadlock detected\nDETAIL:  Process 1 waits\n")
    assert postgres.deadlocks(log) == ["ERROR:  deadlock detected", "DETAIL:  Process 1 waits"]
    log.write_text("LOG:  ready\n")
    assert postgres.deadlocks(log) == []
