"""The connection and the server: each check fine on a sound one, and not on one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

import postgres
from doctor.conftest import change, findings, look
from pooler import pgbouncer
from rowlock import Settings
from rowlock.doctor import State, examine
from rowlock.doctor.server import durability, server, tls
from rowlock.embedded import Server
from rowlock.embedded.ports import free_port
from rowlock.errors import ConfigurationError
from rowlock.store.examination import Link, ServerFacts
from workers.until import Sql, until

SOUND = ServerFacts(1, 180_001, "18.1", False, False, "UTF8", "shop", "me", True)


def test_a_sound_database_has_nothing_worse_than_a_default_that_could_be_better(
    database: str,
) -> None:
    found = findings(database)
    bad = {check: one for check, one in found.items() if one.state is not State.OK}
    assert list(bad) == ["idle timeout"]
    assert len(found) == 24
    assert all(one.found for one in found.values())
    # A remedy where there is something to mend, and only there.
    assert [one.check for one in found.values() if one.remedy] == ["idle timeout"]


def test_who_can_not_be_reached_is_one_finding_without_the_password() -> None:
    [found] = findings(f"postgresql://me:secret@127.0.0.1:{free_port()}/x").values()
    assert (found.check, found.state) == ("server", State.FAIL)
    assert "refused" in found.found
    assert "secret" not in f"{found}"
    with pytest.raises(ConfigurationError):
        list(examine(Settings(database_url="postgresql://me:a@b:c@host:x/y")))


def test_a_database_that_refuses_writes_fails(database: str, sql: Sql) -> None:
    name = sql.one("select current_database()")
    alter = SQL("alter database {} set default_transaction_read_only = on")
    sql.connection.execute(alter.format(Identifier(name)))
    found = look(database, "server")
    assert found.state is State.FAIL
    assert found.remedy is not None
    assert f'alter database "{name}" reset default_transaction_read_only' in found.remedy
    mend = SQL("alter database {} reset default_transaction_read_only")
    sql.connection.execute(mend.format(Identifier(name)))
    assert look(database, "server").state is State.OK


@pytest.mark.parametrize(
    ("facts", "state", "said"),
    [
        (SOUND, State.OK, "PostgreSQL 18.1, database shop, as me"),
        (replace(SOUND, is_standby=True), State.FAIL, "a standby"),
        (replace(SOUND, version_number=140_010), State.FAIL, "too old"),
        (replace(SOUND, version_number=190_000), State.WARN, "newer than"),
    ],
)
def test_a_server_must_be_a_primary_of_a_version_that_is_tested(
    facts: ServerFacts, state: State, said: str
) -> None:
    found = server(facts)
    assert (found.state, said in found.found) == (state, True)


def test_what_leaves_the_machine_must_be_encrypted() -> None:
    assert tls(Link(is_local=False, tls=False, key_pid=1)).state is State.WARN
    assert tls(Link(is_local=False, tls=True, key_pid=1)).state is State.OK
    assert tls(Link(is_local=True, tls=False, key_pid=1)).state is State.OK


# --- the pooler


def test_a_pooler_that_shares_its_connections_must_be_named(
    database: str, server_folder: Path
) -> None:
    with pgbouncer(database, server_folder) as url:
        found = look(url, "pooler")
        assert found.state is State.FAIL
        assert "refuses the settings of Rowlock's sessions" in found.found
        assert found.remedy is not None
        assert "ROWLOCK_PGBOUNCER=yes" in found.remedy
        named = findings(url, pgbouncer=True)
        assert named["pooler"].state is State.OK
        assert named["unserved"].state is State.OK
    with pgbouncer(database, server_folder, ignored="extra_float_digits,options") as url:
        found = look(url, "pooler")
        assert found.state is State.FAIL
        assert "gives one connection to several sessions" in found.found
        assert found.facts == {"pooled": True, "shared": True, "set": False}


def test_a_pooler_of_sessions_is_told_apart(database: str, server_folder: Path) -> None:
    ignored = "extra_float_digits,options"
    with pgbouncer(database, server_folder, mode="session", ignored=ignored) as url:
        found = look(url, "pooler")
        assert found.state is State.WARN
        assert found.facts == {"pooled": True, "shared": False, "set": False}


def test_a_pooler_that_is_named_must_be_there(database: str) -> None:
    assert look(database, "pooler").state is State.OK
    found = look(database, "pooler", pgbouncer=True)
    assert found.state is State.WARN
    assert found.remedy == "Unset ROWLOCK_PGBOUNCER."


# --- the clock


@pytest.mark.parametrize(("hours", "said"), [(1, "ahead of"), (-1, "behind")])
def test_a_clock_that_is_wrong_is_told_with_how_much(database: str, hours: int, said: str) -> None:
    def wrong() -> datetime:
        return datetime.now(UTC) + timedelta(hours=hours)

    found = look(database, "clock", clock=wrong)
    assert found.state is State.WARN
    assert f"this machine is 60 min {said} the database" in found.found
    assert found.facts["skew_seconds"] == pytest.approx(hours * 3600, abs=60)
    assert look(database, "clock").state is State.OK


def test_half_of_the_way_is_not_taken_for_skew(database: str) -> None:
    """Each answer seems to take four seconds: two of them may be skew, or not."""
    moments = iter(range(1000))

    def slow() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=4 * (next(moments) % 2))

    found = look(database, "clock", clock=slow)
    assert found.state is State.OK
    assert found.facts["unsure_seconds"] == pytest.approx(2, abs=1)


# --- settings


def test_another_encoding_fails(own: Server, admin: Sql) -> None:
    admin("create database narrow encoding 'LATIN1' locale 'C' template template0")
    found = look(own.url("narrow"), "encoding")
    assert found.state is State.FAIL
    assert "LATIN1" in found.found
    assert look(own.url(), "encoding").state is State.OK


def test_a_database_that_does_not_wait_for_its_disk_is_told_what_that_means(
    own: Server, admin: Sql
) -> None:
    assert look(own.url(), "durability").state is State.OK
    admin("alter database rowlock set synchronous_commit = off")
    found = look(own.url(), "durability")
    assert found.state is State.WARN
    assert "runs that were accepted (promise 1)" in found.found
    admin("alter database rowlock reset synchronous_commit")
    change(admin, own.url(), "full_page_writes", "off")
    found = look(own.url(), "durability")
    assert (found.state, "full_page_writes is off" in found.found) == (State.WARN, True)
    change(admin, own.url(), "full_page_writes", None)
    assert look(own.url(), "durability").state is State.OK


def test_a_server_without_fsync_is_told_what_that_means() -> None:
    with postgres.running_server({"fsync": "off"}) as server:
        found = look(server.url(), "durability")
    assert found.state is State.WARN
    assert "fsync is off: a crash of the machine may lose or destroy everything" in found.found
    assert found.remedy == "alter system set fsync = on, and reload."


def test_a_synchronous_standby_counts_only_if_commits_wait_for_it() -> None:
    waits = {"synchronous_commit": "on", "synchronous_standby_names": "other"}
    assert durability(waits).state is State.OK
    assert durability(waits | {"synchronous_commit": "local"}).state is State.WARN
    assert durability({"synchronous_commit": "local"}).state is State.OK


def test_a_forgotten_transaction_should_end_by_itself(database: str, sql: Sql) -> None:
    assert look(database, "idle timeout").state is State.WARN
    name = Identifier(sql.one("select current_database()"))
    alter = SQL("alter database {} set idle_in_transaction_session_timeout = '10min'")
    sql.connection.execute(alter.format(name))
    found = look(database, "idle timeout")
    assert (found.state, found.facts) == (State.OK, {"ms": 600_000})
    assert "10 min" in found.found


def test_the_doctor_writes_nothing(database: str, sql: Sql) -> None:
    def written() -> tuple[object, ...]:
        return tuple(
            sql(
                "select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)"
                "  from pg_stat_user_tables"
            )
        )

    before = written()
    findings(database)
    with psycopg.connect(database) as other:
        other.execute("select pg_stat_force_next_flush()")
    assert written() == before
    statements: Callable[[], int] = lambda: sql.one(  # noqa: E731
        "select count(*) from pg_stat_activity where application_name = 'rowlock doctor'"
    )
    until(lambda: statements() == 0)
