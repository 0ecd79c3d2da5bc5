"""`rowlock loadtest` as people run it: what it asks, what it leaves, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psycopg
import pytest

from cli.running import eventually, query, rowlock, rowlock_on_a_terminal, running, start

SHORT = ("--quick", "--seconds", "0.2", "--only")


def own_databases(database: str) -> list[str]:
    found = query(
        database, "select datname from pg_database where datname like 'rowlock_loadtest_%'"
    )
    return [name for (name,) in found]


def rows(database: str) -> dict[str, int]:
    """How many rows there are in every table of Rowlock."""
    names = query(
        database,
        "select relname from pg_class where relnamespace = 'rowlock'::regnamespace"
        " and relkind = 'r' order by 1",
    )
    return {
        name: query(database, f"select count(*) from rowlock.{name}")[0][0] for (name,) in names
    }


@pytest.fixture
def used(database: str) -> str:
    """A database that holds a run of somebody's."""
    start(database, "fulfil", "--app", "shop")
    return database


def test_it_makes_a_database_of_its_own_and_drops_it(empty_database: str, tmp_path: Path) -> None:
    done = rowlock("loadtest", *SHORT, "racing", "--out", str(tmp_path), database=empty_database)
    assert done.returncode == 0, done.stdout + done.stderr
    assert own_databases(empty_database) == []
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["ok"]
    assert facts["finished"]
    assert (tmp_path / "report.html").exists()
    assert "Nothing was lost" in done.stdout


def test_where_somebody_has_runs_it_asks_first(used: str, tmp_path: Path) -> None:
    before = rows(used)
    done = rowlock("loadtest", *SHORT, "herd", "--out", str(tmp_path / "no"), database=used)
    assert done.returncode == 2
    assert "holds runs, so nothing was done" in done.stderr
    assert not (tmp_path / "no").exists()
    assert rows(used) == before


def test_on_a_terminal_a_person_may_say_no(used: str, tmp_path: Path) -> None:
    code, shown = rowlock_on_a_terminal(
        *("loadtest", *SHORT, "herd", "--out", str(tmp_path / "no")), database=used, typed="n\n"
    )
    assert code == 130
    assert "Go on? [y/N]" in " ".join(shown.split())
    assert own_databases(used) == []


def test_in_the_named_database_it_leaves_no_trace(used: str, tmp_path: Path) -> None:
    before = rows(used)
    done = rowlock(
        *("loadtest", "--here", "--yes", *SHORT, "racing,ways", "--out", str(tmp_path)),
        database=used,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(used) == before
    assert query(used, "select to_regnamespace('rowlock_loadtest') is null") == [(True,)]


def test_a_database_that_loses_outcomes_fails_the_run(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "create function public.lose() returns trigger language plpgsql as"
            " 'begin return null; end'"
        )
        connection.execute(
            "create trigger lose before insert on rowlock.outcome"
            " for each row execute function public.lose()"
        )
    done = rowlock(
        *("loadtest", "--here", *SHORT, "racing", "--out", str(tmp_path)), database=database
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED" in done.stdout
    assert "nothing is lost" in done.stdout
    assert not json.loads((tmp_path / "report.json").read_text())["ok"]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_cleans_up_and_keeps_what_it_found(
    empty_database: str, tmp_path: Path, how: signal.Signals
) -> None:
    args = ("loadtest", "--only", "herd,pinned", "--quick", "--out", str(tmp_path / "out"))
    with running(tmp_path, *args, database=empty_database) as command:
        # Both clients of the first scenario have been, and the second is under way.
        eventually(lambda: "A herd" in command.output)
        eventually(lambda: own_databases(empty_database))
        command.send(how)
        assert command.exit_code() == 130
    assert own_databases(empty_database) == []
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not facts["finished"]
    assert "was interrupted" in (tmp_path / "out" / "report.html").read_text()


def test_a_scenario_that_there_is_not_is_refused() -> None:
    done = rowlock("loadtest", "--only", "claimers,chaos")
    assert done.returncode == 2
    assert "there is no scenario chaos; there are claimers, queues" in done.stderr


def test_a_database_that_is_not_there_is_told() -> None:
    done = rowlock("loadtest", database="postgresql://nobody:secret@127.0.0.1:1/none")
    assert done.returncode == 5
    assert "can't reach the database" in done.stderr
    assert "secret" not in done.stderr
