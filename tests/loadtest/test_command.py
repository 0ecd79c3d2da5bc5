"""`rowlock loadtest` as people run it: what it asks, what it leaves, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psycopg
import pytest

from cli.running import (
    eventually,
    on_a_terminal,
    query,
    rowlock,
    rowlock_on_a_terminal,
    running,
    start,
)
from rowlock_loadtest.contention import place
from rowlock_loadtest.contention.losses import LeftBehind

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


def lose_outcomes(database: str) -> None:
    """Let a trigger throw away whatever is to be kept of ended runs."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "create function public.lose() returns trigger language plpgsql as"
            " 'begin return null; end'"
        )
        connection.execute(
            "create trigger lose before insert on rowlock.outcome"
            " for each row execute function public.lose()"
        )


def test_a_database_that_loses_outcomes_fails_the_run(database: str, tmp_path: Path) -> None:
    lose_outcomes(database)
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


def clients(database: str) -> int:
    """How many connections of a load there are."""
    [(number,)] = query(
        database,
        "select count(*) from pg_stat_activity where application_name = 'rowlock loadtest client'",
    )
    return int(number)


def second_load_of_a_herd(database: str) -> bool:
    """Whether its runs are there: the first load has none, and is over."""
    for name in own_databases(database):
        own = psycopg.conninfo.make_conninfo(database, dbname=name)
        there = "select to_regclass('rowlock.run') is not null"
        if query(own, there) == [(True,)]:
            return query(own, "select exists (select from rowlock.run)") == [(True,)]
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_within_a_scenario_it_tells_of_the_loads_that_were_over(
    empty_database: str, tmp_path: Path, how: signal.Signals
) -> None:
    args = ("loadtest", "--only", "herd", "--quick", "--seconds", "2", "--out", "out")
    with running(tmp_path, *args, database=empty_database) as command:
        eventually(lambda: second_load_of_a_herd(empty_database))
        command.send(how)
        assert command.exit_code() == 130
        assert "interrupted" in command.errors
        assert "had made is removed" in command.errors
        assert "A herd of idle workers (cut short)" in command.output
        assert "Nothing was lost, doubled or over a limit" in command.output
        assert "Cut short: herd" in command.output
    assert own_databases(empty_database) == []
    [part] = json.loads((tmp_path / "out" / "report.json").read_text())["scenarios"]
    assert not part["finished"]
    assert [point["label"] for point in part["points"]] == ["8 idle workers, nothing to do"]


def test_interrupted_in_its_first_load_it_says_that_there_is_nothing_to_report(
    empty_database: str, tmp_path: Path
) -> None:
    args = ("loadtest", "--only", "racing", "--quick", "--out", "out")
    with running(tmp_path, *args, database=empty_database) as command:
        eventually(lambda: clients(empty_database))
        command.send(signal.SIGINT)
        assert command.exit_code() == 130
        assert "rowlock: interrupted" in command.errors
        assert "nothing to report" in command.errors
    assert own_databases(empty_database) == []
    assert not (tmp_path / "out").exists()


def test_ctrl_c_while_its_processes_begin_is_no_traceback(empty_database: str) -> None:
    args = ("loadtest", "--only", "herd", "--quick")
    with on_a_terminal(*args, database=empty_database) as terminal:
        terminal.shows("1 of 1, herd")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "nothing to report" in terminal.shown()
        assert "Traceback" not in terminal.shown()
    assert own_databases(empty_database) == []


def test_a_failed_check_is_told_even_if_it_is_interrupted(database: str, tmp_path: Path) -> None:
    lose_outcomes(database)
    args = ("loadtest", "--here", *SHORT, "racing,herd", "--out", "out")
    with running(tmp_path, *args, database=database) as command:
        eventually(lambda: "Everything at once" in command.output)
        command.send(signal.SIGINT)
        assert command.exit_code() == 1
        assert "interrupted" in command.errors
        assert "Do not trust this database" in command.output


def test_a_server_that_ends_the_connections_is_told_and_what_was_over_is_kept(
    empty_database: str, tmp_path: Path
) -> None:
    args = ("loadtest", "--only", "herd", "--quick", "--seconds", "2", "--out", "out")
    with running(tmp_path, *args, database=empty_database) as command:
        eventually(lambda: second_load_of_a_herd(empty_database))
        query(
            empty_database,
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname like 'rowlock_loadtest_%'",
        )
        assert command.exit_code() == 5
        assert "the load lost its connections to the database" in command.errors
        assert "had made is removed" in command.errors
        assert "Traceback" not in command.errors
        assert "Nothing was lost" in command.output
    assert own_databases(empty_database) == []
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "lost its connections" in facts["stopped"]
    assert len(facts["scenarios"][0]["points"]) == 1


def test_what_can_not_be_removed_is_named(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = psycopg.conninfo.make_conninfo(empty_database, port=1)
    monkeypatch.setattr(place, "COMES_BACK_S", 0.0)
    monkeypatch.setattr(place, "_create", lambda _: "rowlock_loadtest_1")
    monkeypatch.setattr(place, "_migrate", lambda _: None)
    monkeypatch.setattr(place, "_ask", lambda *_: None)
    with (
        pytest.raises(LeftBehind, match="the database rowlock_loadtest_1 could not be removed"),
        place.opened(gone, place.Asking(yes=True)),
    ):
        pass


def test_a_scenario_that_there_is_not_is_refused() -> None:
    done = rowlock("loadtest", "--only", "claimers,chaos")
    assert done.returncode == 2
    assert "there is no scenario chaos; there are claimers, queues" in done.stderr


@pytest.mark.parametrize("url", ["nonsense", "postgresql://me:se@cret@127.0.0.1/none"])
def test_a_url_that_is_none_is_a_matter_of_configuration(url: str) -> None:
    for command in (("loadtest", "--yes"), ("list",)):
        done = rowlock(*command, "--database-url", url)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("rowlock: the database's URL (ROWLOCK_DATABASE_URL or --data")
        assert url not in done.stderr
        assert "cret" not in done.stderr


def test_a_database_that_is_not_there_is_told() -> None:
    done = rowlock("loadtest", database="postgresql://nobody:secret@127.0.0.1:1/none")
    assert done.returncode == 5
    assert "can't reach the database" in done.stderr
    assert "secret" not in done.stderr
