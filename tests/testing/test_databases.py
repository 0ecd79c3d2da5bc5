"""Fresh databases by copy; one embedded server for all; the plugin that costs nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rowlock.embedded import Server
from rowlock.errors import ConfigurationError
from rowlock.store.migrate import check
from rowlock.testing import Databases, shared


def names(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("select datname from pg_database").fetchall()}


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_database_of_the_fixture_is_migrated_and_prepared(rowlock_database: str) -> None:
    assert check(rowlock_database) > 0
    with psycopg.connect(rowlock_database) as connection:
        assert connection.execute("select * from ledger").fetchall() == []


def test_databases_are_copies_that_go_and_a_template_that_stays(server: Server) -> None:
    url = server.url("postgres")
    before = names(url)
    with Databases(url) as databases, databases.fresh() as one, databases.fresh() as other:
        assert one != other
        assert check(one) == check(other)
        held = psycopg.connect(one)  # a connection that is left open is no obstacle
        databases.drop(one)
        held.close()
    new = names(url) - before
    assert all(name.startswith("rowlock_template_") for name in new)
    with Databases(url) as databases, databases.fresh():
        assert names(url) - before >= new
    assert names(url) - before == new


def test_a_prepared_template_goes_with_who_prepared_it(server: Server) -> None:
    url = server.url("postgres")
    with Databases(url), Databases(url) as plain:
        plain.drop(plain.make())
    before = names(url)

    def prepare(made: str) -> None:
        with psycopg.connect(made) as connection:
            connection.execute("create table mine (a int)")

    with Databases(url, prepare=prepare) as databases:
        for _ in range(2):
            with databases.fresh() as made, psycopg.connect(made) as connection:
                connection.execute("select a from mine")
    assert names(url) == before


def test_a_template_that_could_not_be_prepared_is_not_left_behind(server: Server) -> None:
    url = server.url("postgres")
    before = names(url)

    def prepare(_: str) -> None:
        raise ZeroDivisionError

    with Databases(url, prepare=prepare) as databases, pytest.raises(ZeroDivisionError):
        databases.make()
    assert names(url) == before


def test_a_user_who_may_make_no_database_is_told_so(server: Server) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("create role nobody_much login password 'secret'")
        try:
            poor = make_conninfo(server.url("postgres"), user="nobody_much", password="secret")
            with (
                Databases(poor, prepare=lambda _: None) as databases,
                pytest.raises(ConfigurationError, match="createdb"),
            ):
                databases.make()
        finally:
            connection.execute("drop role nobody_much")


def test_a_server_that_is_not_there_is_named() -> None:
    away = "postgresql://nobody@127.0.0.1:1/postgres"
    with (
        Databases(away) as databases,
        pytest.raises(ConfigurationError, match="ROWLOCK_TEST_DATABASE_URL"),
    ):
        databases.make()


def test_without_any_server_the_error_says_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> Any:
        return None

    monkeypatch.delenv("ROWLOCK_TEST_DATABASE_URL", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    shared.shared_server.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"rowlock\[dev\].*ROWLOCK_TEST_DATABASE_URL"):
            Databases()
    finally:
        shared.shared_server.cache_clear()


def test_test_processes_share_one_server_until_the_last_has_gone(tmp_path: Path) -> None:
    code = "from rowlock.testing.shared import shared_server; print(shared_server(), flush=True);"
    place = tmp_path / "tmp"
    place.mkdir(mode=0o711)
    for folder in (place, *place.parents):
        if folder.owner() == place.owner() and folder != folder.parent:
            folder.chmod(folder.stat().st_mode | 0o011)  # root's server runs as another user
    users = [python(code + "input()", TMPDIR=str(place)) for _ in range(3)]
    urls = {user.stdout.readline() for user in users if user.stdout is not None}
    assert len(urls) == 1
    [url] = urls
    users[0].kill()  # whichever of them began it
    users[1].communicate("\n")
    users[0].communicate()
    [folder] = place.iterdir()
    assert shared.is_kept(folder)
    with psycopg.connect(url.strip()) as connection:
        connection.execute("select 1")
    data = Path((folder / shared.PLACE).read_text())
    assert data.is_dir()
    users[2].communicate("\n")
    os.close(shared.lock(folder / shared.KEEPER))  # waits until it has ended
    assert not data.exists()


def test_the_plugin_imports_nothing_of_rowlock() -> None:
    code = (
        "import sys, rowlock_pytest;"
        "print([m for m in sys.modules if m.split('.')[0] in ('rowlock', 'psycopg')])"
    )
    done = python(code).communicate()
    assert done[0] == "[]\n"


def test_the_fixtures_are_there_without_configuration(tmp_path: Path, rowlock_server: str) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_url(rowlock_database): assert 'rowlock_test_' in rowlock_database\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            ".",
        ],
        cwd=tmp_path,
        env=os.environ | {"ROWLOCK_TEST_DATABASE_URL": rowlock_server},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_url_keeps_what_else_it_says(server: Server) -> None:
    given = server.url("postgres") + "?application_name=mine"
    with Databases(given) as databases, databases.fresh() as made:
        assert conninfo_to_dict(made)["application_name"] == "mine"
