"""`rowlock cancel`, `resume`, `retry`, `rewind`, `fork`, `send` and `event`, one run or many."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import click
import psycopg
import pytest

import rowlock as library
from cli.conftest import StartWorker
from cli.running import (
    environment,
    eventually,
    query,
    rowlock,
    rowlock_json,
    rowlock_on_a_terminal,
    start,
    status_of,
)
from rowlock.cli.main import rowlock as command_line


def sums(a: int) -> int:
    return a


@pytest.fixture
def shop(database: str) -> str:
    """A database that knows the app `shop`, with nobody who works."""
    app = library.App("shop")
    app.workflow(sums)
    with app.blocking_client(library.Settings(database_url=database)):
        return database


def becomes(database: str, run_id: str, status: str) -> None:
    eventually(lambda: status_of(database, run_id) == status)


# --- what a command does to a run


def test_a_failed_run_is_retried_rewound_and_forked(
    start_worker: StartWorker, database: str, tmp_path: Path
) -> None:
    start_worker()
    run_id = start(database, "mendable", "--arg", f'folder="{tmp_path}"')
    becomes(database, run_id, "failed")
    refused = rowlock("resume", run_id, database=database)
    assert refused.returncode == 1
    assert "has failed and can't be resumed. rowlock.retry goes on" in refused.stderr

    (tmp_path / "mended").touch()
    retried = rowlock("retry", run_id, database=database)
    assert (retried.returncode, retried.stdout) == (0, f"retried {run_id}\n")
    becomes(database, run_id, "succeeded")
    assert rowlock_json("show", run_id, database=database)["output"] == "whole 2"

    again = ("--arg", f'folder="{tmp_path}"', "--arg", "a=41")
    rewound = rowlock("rewind", run_id, "1", *again, database=database)
    assert (rewound.returncode, rewound.stdout) == (0, f"rewound {run_id}\n")
    becomes(database, run_id, "succeeded")
    assert rowlock_json("show", run_id, database=database)["output"] == "whole 42"

    forked = rowlock("fork", run_id, "2", "--outcome", "1=6", database=database)
    assert (forked.returncode, forked.stderr) == (0, "")
    copy = forked.stdout.strip()
    becomes(database, copy, "succeeded")
    assert rowlock_json("show", copy, database=database)["output"] == "whole 6"

    [facts] = rowlock_json("fork", run_id, database=database)
    assert facts.keys() == {"run", "ok", "error", "sqlstate", "new_run"}
    assert (facts["run"], facts["ok"]) == (run_id, True)
    assert rowlock_json("show", facts["new_run"], database=database)["workflow"] == "mendable"


def test_a_message_and_an_event_reach_their_runs(
    start_worker: StartWorker, database: str, tmp_path: Path
) -> None:
    start_worker()
    run_id = start(database, "asks", "--arg", 'what="tea"')
    becomes(database, run_id, "waiting")
    got = rowlock("event", "get", run_id, "asked", database=database)
    assert (got.returncode, got.stdout) == (0, '"tea"\n')
    unset = rowlock("event", "get", run_id, "other", database=database)
    assert (unset.returncode, unset.stdout) == (124, "")
    assert f"event other of run {run_id} is not set yet. --wait waits" in unset.stderr
    late = rowlock("event", "get", run_id, "other", "--wait", "--timeout=100ms", database=database)
    assert late.returncode == 124
    assert "is not set within 0.1 s. The run goes on" in late.stderr
    assert "Catch" not in late.stderr
    late = rowlock(
        "event", "get", run_id, "other", "--wait", "--timeout=100ms", "--json", database=database
    )
    assert late.returncode == 124
    assert json.loads(late.stdout) == {
        "run": run_id,
        "name": "other",
        "is_set": False,
        "value": None,
    }
    rowlock("event", "set", run_id, "other", '{"a": [1]}', database=database)
    facts = rowlock_json("event", "get", run_id, "other", database=database)
    assert (facts["is_set"], facts["value"]) == (True, {"a": [1]})

    (tmp_path / "answer.json").write_text('"yes"')
    for _ in range(2):
        sent = rowlock(
            "send",
            run_id,
            "elsewhere",
            f"@{tmp_path / 'answer.json'}",
            "--key=k",
            database=database,
        )
        assert (sent.returncode, sent.stdout) == (0, f"sent to {run_id}\n")
    assert query(database, "select topic, key, value from rowlock.messages") == [
        ("elsewhere", "k", "yes")
    ]
    for line in ('"one"', '"two"'):
        told = rowlock("emit", run_id, "log", line, database=database)
        assert (told.returncode, told.stdout) == (0, f"emitted to {run_id}\n")
    refused = rowlock("delete", run_id, database=database)
    assert refused.returncode == 1
    assert "Nothing was changed" in refused.stderr
    assert query(database, 'select value from rowlock.streams order by "offset"') == [
        ("one",),
        ("two",),
    ]
    rowlock("send", run_id, "answer", "-", database=database, stdin='"no"')
    becomes(database, run_id, "succeeded")
    assert rowlock_json("show", run_id, database=database)["output"] == "tea: no"
    ended = rowlock("send", run_id, "answer", database=database)
    assert ended.returncode == 1
    assert "has ended (succeeded) and can't be sent anything" in ended.stderr
    never = rowlock("event", "get", run_id, "never", database=database)
    assert never.returncode == 1
    assert "has not set event never" in never.stderr


def test_runs_are_cancelled_with_a_reason_at_once_or_by_force(
    start_worker: StartWorker, database: str
) -> None:
    start_worker()
    naps = [start(database, "naps", "--arg", "seconds=3600") for _ in range(2)]
    for run_id in naps:
        becomes(database, run_id, "waiting")
    gently = rowlock("cancel", naps[0], "--reason", "no\x1b more", "--grace=5s", database=database)
    assert (gently.returncode, gently.stdout) == (0, f"cancelling {naps[0]}\n")
    becomes(database, naps[0], "cancelled")
    assert rowlock_json("show", naps[0], database=database)["error"]["message"] == "no\x1b more"
    forced = rowlock("cancel", naps[1], "--force", database=database)
    assert forced.returncode == 0
    assert status_of(database, naps[1]) == "cancelled"
    again = rowlock("cancel", *naps, database=database)
    assert again.returncode == 1
    assert "has ended (cancelled) and can't be cancelled" in again.stderr
    assert again.stderr.endswith("cancelling 0 of 2 runs, 2 refused\n")
    resumed = rowlock("resume", naps[0], database=database)
    assert resumed.returncode == 0
    becomes(database, naps[0], "waiting")


# --- many runs


def test_each_run_has_its_answer_and_one_refusal_is_told_by_the_exit_code(shop: str) -> None:
    strange = str(uuid4())
    run_ids = [start(shop, "sums", "--arg", "a=1") for _ in range(2)]
    done = rowlock("cancel", run_ids[0], strange, run_ids[1], run_ids[0], database=shop)
    assert done.returncode == 1
    assert done.stdout == f"cancelling {run_ids[0]}\ncancelling {run_ids[1]}\n"
    assert f"there is no run {strange}" in done.stderr
    assert done.stderr.endswith("cancelling 2 of 3 runs, 1 refused\n")

    done = rowlock("cancel", *run_ids, strange, "--json", database=shop)
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert [one["run"] for one in facts] == [*run_ids, strange]
    assert [one["ok"] for one in facts] == [False] * 3
    assert [one["sqlstate"] for one in facts] == ["RLS02", "RLS02", None]
    assert facts[0].keys() == {"run", "ok", "error", "sqlstate"}
    assert "has ended (cancelled)" in facts[0]["error"]


def test_filters_choose_the_runs_that_the_command_is_for(shop: str) -> None:
    def statuses() -> list[str]:
        return [status for (status,) in query(shop, "select status from rowlock.runs order by 1")]

    mine = '{"customer": 42}'
    start(shop, "sums", "--attributes", mine)
    start(shop, "sums", "--attributes", mine, "--delay=1h")
    start(shop, "sums", "--attributes", '{"customer": 43}')
    start(shop, "report")
    none = rowlock("cancel", "--status=blocked", "--yes", database=shop)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "no run matches\n")
    assert rowlock_json("cancel", "--status=blocked", "--yes", database=shop) == []
    typo = rowlock("cancel", "--workflow=sumz", "--yes", database=shop)
    assert typo.returncode == 1
    assert "no app has workflow sumz" in typo.stderr or "no workflow sumz" in typo.stderr

    done = rowlock("cancel", "--attributes", mine, "--since=1h", "--yes", database=shop)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "cancelling 2 of 2 runs\n"
    assert statuses() == ["cancelled", "cancelled", "ready", "ready"]
    # Those that have ended are not meant by a command that can't do anything for them.
    done = rowlock("cancel", "--workflow=sums", "--yes", "--json", database=shop)
    assert [one["ok"] for one in json.loads(done.stdout)] == [True]
    assert statuses() == ["cancelled", "cancelled", "cancelled", "ready"]
    # Cancelled runs are resumed only where that is said: blocked ones are what one means.
    assert rowlock_json("resume", "--workflow=sums", "--yes", database=shop) == []
    done = rowlock("resume", "--status=cancelled", "--most=2", "--yes", database=shop)
    assert done.returncode == 0
    assert done.stderr.startswith("more than 2 runs match: only 2 of them are taken now")
    assert statuses() == ["cancelled", "ready", "ready", "ready"]


def test_more_runs_than_a_page_are_all_met_once(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(
            "select rowlock.start_many((select jsonb_agg(jsonb_build_object('workflow', 'sums',"
            " 'delay', case when n % 2 = 0 then '1 hour' end)) from generate_series(1, 450) as n))"
        )
    done = rowlock_json("cancel", "--workflow=sums", "--yes", database=shop)
    assert [one["ok"] for one in done] == [True] * 450
    assert len({one["run"] for one in done}) == 450
    assert [one["run"] for one in done] == sorted((one["run"] for one in done), reverse=True)
    assert query(shop, "select count(*) from rowlock.runs where status <> 'cancelled'") == [(0,)]


def test_without_a_terminal_nothing_is_done_unless_yes_is_said(shop: str) -> None:
    run_id = start(shop, "sums")
    done = rowlock("cancel", "--workflow=sums", database=shop)
    assert (done.returncode, done.stdout) == (2, "")
    assert "1 run would be meant, and there is no terminal to ask on" in done.stderr
    assert status_of(shop, run_id) == "ready"


@pytest.mark.parametrize(
    ("typed", "code", "status"), [("n\n", 130, "ready"), ("y\n", 0, "cancelled")]
)
def test_on_a_terminal_the_runs_are_shown_and_asked_for(
    shop: str, typed: str, code: int, status: str
) -> None:
    run_ids = [start(shop, "sums") for _ in range(7)]
    found, shown = rowlock_on_a_terminal("cancel", "--workflow=sums", database=shop, typed=typed)
    assert found == code
    assert "cancel 7 runs? [y/N]" in shown
    assert run_ids[-1] in shown
    assert run_ids[0] not in shown
    assert "… and 2 more" in shown
    assert {status_of(shop, run_id) for run_id in run_ids} == {status}
    assert ("cancelling 7 of 7 runs" in shown) == (code == 0)


def test_on_a_terminal_there_is_a_bar_and_no_line_for_each_of_many(shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute(
            "select rowlock.start_many((select jsonb_agg(jsonb_build_object('workflow', 'sums'))"
            " from generate_series(1, 40)))"
        )
    code, shown = rowlock_on_a_terminal("cancel", "--workflow=sums", "--yes", database=shop)
    assert code == 0
    assert "40/40" in shown
    assert "cancelling 0" not in shown
    assert shown.rstrip().endswith("cancelling 40 of 40 runs")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["cancel"], "Which runs? Name their ids, or select them"),
        (["cancel", "--app=shop"], "Which runs? Name their ids, or select them"),
        (["cancel", "RUN", "--workflow=w"], "Name runs, or select them by filters: not both"),
        (["cancel", "--status=failed", "--yes"], "does nothing for runs that are failed"),
        (["retry", "--status=blocked", "--yes"], "but for those that are failed"),
        (["rewind", "--workflow=w", "3", "--yes"], "Which ones? Name a --status"),
        (["fork", "--workflow=w", "--yes"], "Which ones? Name a --status"),
        (["rewind", "RUN"], "From which place on?"),
        (["rewind"], "From which place on?"),
        (["rewind", "3", "RUN", "4"], "'3' is not a run's id"),
        (["fork", "RUN", "--outcome", "3"], "'3' is not PLACE=JSON"),
        (["fork", "RUN", "--arg", "a=x"], "the value of a is not JSON"),
        (["send"], "To which run? Name its id"),
        (["send", "RUN"], "After RUN_ID come TOPIC and perhaps its value as JSON"),
        (["send", "approval", "true"], "'approval' is not a run's id"),
        (["send", "RUN", "approval", "yes"], "this is not JSON: 'yes'. Text needs quotes"),
        (["send", "RUN", "approval", "@/no/such"], "No such file"),
        (["event", "set", "--workflow=w", "a", "1", "2"], "After the filters come NAME"),
        (["event", "get", "RUN", "a", "--timeout=1s"], "--timeout goes with --wait"),
        (["move"], "QUEUE is missing: it comes last"),
        (["reprioritise", "RUN"], "PRIORITY is missing: it comes last"),
        (["reprioritise", "RUN", "101"], "0<=x<=100"),
        (["reprioritise", "RUN", "high"], "'high' is not a valid integer"),
        (["reschedule", "RUN", "soon"], "'soon' is no time: write now, 10m, 2026-12-24T08:00"),
        (["reschedule", "--status=waiting", "now"], "nothing for runs that are waiting"),
    ],
)
def test_what_is_not_clear_is_a_usage_error(
    args: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROWLOCK_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    words = [str(uuid4()) if word == "RUN" else word for word in args]
    with pytest.raises(click.UsageError) as caught:
        command_line.main(words, standalone_mode=False)
    assert said in caught.value.format_message()
    assert caught.value.exit_code == 2


# --- when it is cut short


@pytest.fixture
def held(shop: str) -> list[str]:
    """Ten runs, the ninth of which is held up by somebody's open transaction."""
    return [start(shop, "sums") for _ in range(10)]


def test_an_interrupted_command_says_what_was_done_and_what_perhaps(
    shop: str, held: list[str]
) -> None:
    with psycopg.connect(shop) as stranger:
        stranger.execute("select from rowlock.task where run_id = %s for update", [held[8]])
        with subprocess.Popen(
            [sys.executable, "-m", "rowlock", "reprioritise", *held, "7", "--json"],
            env=environment(shop),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            eventually(lambda: waits_for_a_lock(shop))
            eventually(lambda: priorities(shop, held[9:]) == [7])
            os.kill(process.pid, signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        assert process.returncode == 130
    facts = json.loads(out)
    assert [one["ok"] for one in facts] == [True] * 8 + [None, True]
    assert priorities(shop, held[8:9]) == [50]


def test_a_lost_connection_names_the_runs_that_were_perhaps_reached(
    shop: str, held: list[str]
) -> None:
    with psycopg.connect(shop) as stranger:
        stranger.execute("select from rowlock.task where run_id = %s for update", [held[0]])
        with subprocess.Popen(
            [sys.executable, "-m", "rowlock", "reprioritise", *held, "7"],
            env=environment(shop),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            [pid] = eventually(lambda: waits_for_a_lock(shop))
            eventually(lambda: priorities(shop, held[1:8]) == [7] * 7)
            query(shop, f"select pg_terminate_backend({pid})")
            out, error = process.communicate(timeout=60)
        assert process.returncode == 5
    assert len(out.splitlines()) == 7
    assert "reprioritised 7 of 10 runs, 1 perhaps reached, 2 not tried" in error
    assert f"perhaps: {held[0]}" in error
    assert priorities(shop, [held[0], *held[8:]]) == [50] * 3


def priorities(database: str, run_ids: list[str]) -> list[int]:
    """As they are committed."""
    ids = ", ".join(f"'{run_id}'" for run_id in run_ids)
    found = query(database, f"select priority from rowlock.runs where run_id in ({ids})")
    return [priority for (priority,) in found]


def waits_for_a_lock(database: str) -> list[int]:
    found = query(
        database,
        "select pid from pg_stat_activity where datname = current_database()"
        " and wait_event_type = 'Lock' and application_name = 'rowlock client'",
    )
    return [pid for (pid,) in found]
