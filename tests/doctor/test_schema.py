"""The schema and the rights on it: whole, current, and usable by whoever looks."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from doctor.conftest import findings, look
from rowlock.doctor import State
from rowlock.doctor.schema import JOBS, function_names, relation_names
from rowlock.embedded import Server
from rowlock.store.migrate import LEVEL, functions, migrate, steps
from rowlock.store.roles import make_roles
from workers.until import Sql


def test_a_database_without_the_schema_is_told_to_migrate(empty_database: str) -> None:
    found = findings(empty_database)
    assert list(found)[-1] == "schema"
    assert found["schema"].state is State.FAIL
    assert found["schema"].found == f"none, this code needs level {LEVEL}"
    assert found["schema"].remedy == "Run `rowlock migrate`."
    migrate(empty_database)
    assert look(empty_database, "schema").state is State.OK


def test_a_schema_that_is_behind_or_demands_newer_code_fails(database: str, sql: Sql) -> None:
    sql("delete from rowlock.migration where number = %s", LEVEL)
    found = findings(database)
    assert found["schema"].state is State.FAIL
    assert f"level {LEVEL - 1}, this code needs level {LEVEL}" in found["schema"].found
    assert "completeness" not in found
    sql("insert into rowlock.migration values (now(), 9999, 9999, 'future', '')")
    found = findings(database)
    assert (found["schema"].state, "9999" in found["schema"].found) == (State.FAIL, True)
    sql("update rowlock.migration set minimum_level = 1 where number = 9999")
    found = findings(database)
    assert found["schema"].state is State.OK
    assert "newer than this code's" in found["schema"].found


def test_functions_of_another_version_are_a_warning(database: str, sql: Sql) -> None:
    assert look(database, "schema").state is State.OK
    sql("update rowlock.repeatable set checksum = 'another'")
    assert look(database, "schema").state is State.WARN
    migrate(database)
    assert look(database, "schema").state is State.OK


@pytest.mark.parametrize(
    ("drop", "said"),
    [
        ("function rowlock.get_event(uuid, text)", "functions are missing: get_event"),
        ("view rowlock.streams", "tables or views are missing: streams"),
    ],
)
def test_what_was_dropped_is_found_and_the_remedy_brings_it_back(
    database: str, sql: Sql, drop: str, said: str
) -> None:
    assert look(database, "completeness").state is State.OK
    sql(f"drop {drop}")
    found = look(database, "completeness")
    assert (found.state, found.found) == (State.FAIL, said)
    assert found.remedy is not None
    assert "`delete from rowlock.repeatable`, then `rowlock migrate`" in found.remedy
    sql("delete from rowlock.repeatable")
    migrate(database)
    assert look(database, "completeness").state is State.OK


def test_a_table_that_was_dropped_is_found(database: str, sql: Sql) -> None:
    sql("drop table rowlock.arrival cascade")
    found = look(database, "completeness")
    assert found.state is State.FAIL
    assert set(found.facts["missing_relations"]) == {"arrival", "waits"}


def test_the_names_are_those_of_a_migrated_database(sql: Sql) -> None:
    texts = functions().sql
    known = {name for [name] in sql("select distinct proname::text from pg_proc"
                                    " where pronamespace = 'rowlock'::regnamespace")}  # fmt: skip
    assert set(function_names(texts)) == known
    relations = {name for [name] in sql("select relname::text from pg_class where relkind in"
                 " ('r', 'v', 'p') and relnamespace = 'rowlock'::regnamespace")}  # fmt: skip
    # The tables of the migrations themselves are made by migrate.py.
    assert set(relation_names([one.sql for one in steps()], texts)) == relations - {
        "migration",
        "repeatable",
    }


def test_an_index_that_is_of_no_use_is_found(database: str, sql: Sql) -> None:
    assert look(database, "indexes").state is State.OK
    for _ in range(2):
        sql("select rowlock.start('fulfil', app => 'shop')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        sql("create unique index concurrently broken on rowlock.run (app)")
    found = look(database, "indexes")
    assert (found.state, found.facts) == (State.FAIL, {"invalid": ["broken"]})
    sql("drop index rowlock.broken")
    assert look(database, "indexes").state is State.OK


# --- rights


@pytest.fixture
def role(own: Server, admin: Sql) -> Iterator[str]:
    """The URL of a role that was granted nothing yet."""
    make_roles(own.url())
    admin("create role visitor login password 'x'")
    yield make_conninfo(own.url(), user="visitor", password="x")
    admin("drop owned by visitor")
    admin("delete from rowlock.app_member where role = 'visitor'")
    admin("drop role visitor")


def test_a_role_that_may_nothing_fails_and_sees_what_anybody_may(role: str) -> None:
    found = findings(role)
    assert found["rights"].state is State.FAIL
    assert "role visitor may do nothing with Rowlock here" in found["rights"].found
    assert found["durability"].state is State.OK
    assert found["schema"].state is State.UNKNOWN


def test_a_role_is_told_what_it_may_and_in_which_apps(role: str, admin: Sql) -> None:
    admin("grant rowlock_client to visitor")
    found = look(role, "rights")
    assert found.state is State.WARN
    assert found.found == "role visitor may start runs, but in no app"
    admin("select rowlock.grant_app('visitor', 'shop')")
    found = look(role, "rights")
    assert (found.state, found.facts["may"]) == (State.OK, ["start runs"])
    assert found.found == "role visitor may start runs, of app shop"


def test_a_role_that_lacks_a_part_of_what_it_is_there_for_fails(role: str, admin: Sql) -> None:
    admin("grant usage on schema rowlock to visitor")
    admin("grant rowlock_client to visitor")
    admin("grant execute on all functions in schema rowlock to visitor")
    admin("select rowlock.grant_app('visitor', 'shop')")
    assert look(role, "rights").facts["may"] == list(JOBS)
    admin("revoke execute on function rowlock.claim from visitor")
    found = look(role, "rights")
    assert found.state is State.FAIL
    assert found.found == "role visitor lacks the right to call, to work: claim"
    assert found.remedy is not None
    assert 'grant rowlock_worker to "visitor"' in found.remedy
    admin("grant rowlock_worker to visitor")
    assert look(role, "rights").state is State.OK


def test_the_owner_may_everything(database: str) -> None:
    found = look(database, "rights")
    assert found.facts == {"role": "postgres", "may": list(JOBS), "apps": None}


def test_a_reader_is_told_all_about_the_fleet(role: str, admin: Sql) -> None:
    admin("grant rowlock_reader to visitor")
    admin("grant pg_monitor to visitor")
    admin("select rowlock.grant_app('visitor', null)")
    found = findings(role)
    assert {one.check for one in found.values() if one.state is State.UNKNOWN} == set()
    assert found["rights"].facts["may"] == ["look"]
