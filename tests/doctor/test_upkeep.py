"""Connections, transactions, vacuum, locks: each check on a database made ill, and mended again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from doctor.conftest import change, findings, look
from rowlock.doctor import State
from rowlock.doctor.upkeep import transactions
from rowlock.embedded import Server
from rowlock.store.examination import Transaction
from workers.until import Sql, until


@contextmanager
def transaction(url: str, *statements: str) -> Iterator[int]:
    """An open transaction that has said this; gives its backend."""
    with psycopg.connect(url, application_name="forgetful") as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection.info.backend_pid
        connection.rollback()


SNAPSHOT = ("set transaction isolation level repeatable read", "select 1")


# --- transactions


def test_an_old_transaction_that_holds_vacuum_back_is_named(database: str) -> None:
    assert look(database, "transactions", long_s=0.0).state is State.OK
    with transaction(database, *SNAPSHOT) as pid:
        found = look(database, "transactions", long_s=0.0)
        assert found.state is State.WARN
        assert f"pid {pid} (postgres, forgetful, idle in transaction) for " in found.found
        [named] = found.facts["transactions"]
        assert (named["pid"], named["holds_back"]) == (pid, True)
        assert look(database, "transactions", long_s=3600.0).state is State.OK
    until(lambda: look(database, "transactions", long_s=0.0).state is State.OK)


def test_a_transaction_that_reads_nothing_holds_nothing_back(database: str) -> None:
    with transaction(database, "select 1"):
        found = look(database, "transactions", long_s=0.0)
        assert found.state is State.OK
        assert [one["holds_back"] for one in found.facts["transactions"]] == [False]


def test_a_transaction_of_an_hour_is_a_failure() -> None:
    old = Transaction(7, "me", "psql", "idle in transaction", 3700.0, True)
    assert transactions([old], 0, "me", "on", 300.0).state is State.FAIL


def test_what_others_do_is_unknown_to_whom_it_is_hidden(own: Server, admin: Sql) -> None:
    admin("create role narrow login password 'x'")
    theirs = make_conninfo(own.url(), user="narrow", password="x")
    try:
        found = look(theirs, "transactions")
        assert found.state is State.UNKNOWN
        assert "of other roles can't be seen" in found.found
        assert found.remedy == 'To have it seen: grant pg_monitor to "narrow".'
        admin("grant pg_monitor to narrow")
        assert look(theirs, "transactions").state is State.OK
    finally:
        admin("drop role narrow")


def test_what_nobody_notes_can_not_be_seen(own: Server, admin: Sql) -> None:
    admin("alter database rowlock set track_activities = off")
    try:
        found = look(own.url(), "transactions")
        assert (found.state, "track_activities" in found.found) == (State.UNKNOWN, True)
    finally:
        admin("alter database rowlock reset track_activities")
    assert look(own.url(), "transactions").state is State.OK


def test_a_prepared_transaction_that_was_left_fails(own: Server, admin: Sql) -> None:
    admin("create table if not exists public.anything (n int)")
    admin("begin")
    admin("insert into public.anything values (1)")
    admin("prepare transaction 'left behind'")
    found = look(own.url(), "prepared", long_s=0.0)
    assert found.state is State.FAIL
    assert "'left behind' of postgres for " in found.found
    assert look(own.url(), "prepared", long_s=3600.0).state is State.OK
    admin("rollback prepared 'left behind'")
    assert look(own.url(), "prepared", long_s=0.0).state is State.OK


def test_a_slot_without_a_reader_is_told(own: Server, admin: Sql) -> None:
    assert look(own.url(), "slots").state is State.OK
    admin("select pg_create_physical_replication_slot('left_behind', true)")
    found = look(own.url(), "slots")
    assert found.state is State.WARN
    assert "'left_behind'" in found.found
    assert found.facts["slots"][0]["wal_bytes"] >= 0
    admin("select pg_drop_replication_slot('left_behind')")
    assert look(own.url(), "slots").state is State.OK


# --- vacuum


@pytest.mark.parametrize("name", ["autovacuum", "track_counts"])
def test_a_server_without_autovacuum_fails(own: Server, admin: Sql, name: str) -> None:
    assert look(own.url(), "autovacuum").state is State.OK
    change(admin, own.url(), name, "off")
    found = look(own.url(), "autovacuum")
    assert (found.state, found.facts["off"]) == (State.FAIL, [name])
    change(admin, own.url(), name, None)


def test_a_table_without_autovacuum_fails(database: str, sql: Sql) -> None:
    sql("alter table rowlock.task set (autovacuum_enabled = false)")
    found = look(database, "autovacuum")
    assert (found.state, found.facts["barred"]) == (State.FAIL, ["task"])
    assert found.remedy is not None
    sql(found.remedy.removesuffix("."))
    assert look(database, "autovacuum").state is State.OK


def test_dead_rows_that_vacuum_can_not_remove_are_told_by_table(database: str, sql: Sql) -> None:
    sql("alter table rowlock.task set (autovacuum_enabled = false)")
    sql(
        "insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)"
        " select rowlock.uuidv7(), now(), 50, 'ready', 'shop', 'default', 'w'"
        "   from generate_series(1, 1000)"
    )
    with transaction(database, *SNAPSHOT):
        for _ in range(12):
            sql("update rowlock.task set progress = progress + 1")
        until(lambda: look(database, "dead rows").state is State.WARN)
        found = look(database, "dead rows")
        assert "task: " in found.found
        assert "dead beside 1,000 live, vacuumed never" in found.found
        assert "vacuum rowlock.task" in (found.remedy or "")
    sql("vacuum rowlock.task")
    until(lambda: look(database, "dead rows").state is State.OK)


# --- locks


def test_a_lock_on_a_whole_table_fails_and_what_waits_for_it_is_unknown(database: str) -> None:
    lock = "lock table rowlock.task in access exclusive mode"
    with transaction(database, lock) as pid:
        found = findings(database)
        locks = found["locks"]
        assert locks.state is State.FAIL
        assert f"pid {pid} (postgres, forgetful) holds AccessExclusiveLock on task" in locks.found
        assert found["unserved"].state is State.UNKNOWN
        assert "could not be seen" in found["unserved"].found
        assert found["durability"].state is State.OK
    until(lambda: look(database, "locks", long_s=0.0).state is State.OK)


def test_a_transaction_that_has_touched_runs_and_stays_open_is_told(database: str) -> None:
    start = "select rowlock.start('fulfil', app => 'shop', key => 'k')"
    with transaction(database, start) as pid:
        found = look(database, "locks", long_s=0.0)
        assert found.state is State.WARN
        assert f"pid {pid} (postgres, forgetful) in run" in found.found
        assert found.facts["old"][0]["mode"] == "RowExclusiveLock"
        assert look(database, "locks", long_s=3600.0).state is State.OK
    with transaction(database, "select from rowlock.run"):  # only looks: nobody waits for that
        assert look(database, "locks", long_s=0.0).state is State.OK


# --- connections


def test_connections_must_suffice_for_the_workers_there_are(database: str, sql: Sql) -> None:
    def limit(number: int) -> None:
        name = Identifier(sql.one("select current_database()"))
        sql.connection.execute(SQL(f"alter database {{}} connection limit {number}").format(name))

    found = look(database, "connections")
    assert (found.state, found.facts["workers"]) == (State.OK, 0)
    for _ in range(2):
        sql("select rowlock.register_worker('shop', '', 'h', 1, 9, null, interval '1 hour')")
    assert look(database, "connections").facts["needed_at_most"] >= 26
    limit(20)
    found = look(database, "connections")
    assert found.state is State.WARN
    assert "(the database's limit)" in found.found
    limit(4)
    assert look(database, "connections").state is State.FAIL
    limit(-1)
    assert look(database, "connections").state is State.OK
