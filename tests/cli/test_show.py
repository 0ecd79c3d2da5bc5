"""`rowlock show` and `history`, on runs that a real worker has run."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cli.conftest import StartWorker
from cli.running import (
    eventually,
    query,
    rowlock,
    rowlock_json,
    rowlock_on_a_terminal,
    start,
    status_of,
)
from rowlock.embedded import Server


def becomes(database: str, run_id: str, status: str) -> None:
    eventually(lambda: status_of(database, run_id) == status)


def tree(shown: str) -> list[str]:
    """The lines of the tree: from its headings on."""
    lines = shown.splitlines()
    [heading] = [n for n, line in enumerate(lines) if line.split()[:2] == ["#", "place"]]
    return lines[heading + 1 :]


def place_of(line: str) -> str:
    """The place, which comes after the position if there is one."""
    words = line.split()
    return words[1] if words[1][0].isdigit() else words[0]


def test_branches_retries_and_waits_are_shown_where_they_are(
    start_worker: StartWorker, database: str
) -> None:
    start_worker()
    run_id = start(database, "branches")
    becomes(database, run_id, "waiting")
    shown = rowlock("show", run_id, database=database).stdout
    lines = tree(shown)
    by_place = {place_of(line): line for line in lines}
    assert list(by_place) == ["1", "2", "2.1", "2.2", "3", "3.1", "3.2", "4", "4.1", "5", "5.1"]
    assert "branch" in by_place["2"]
    assert "waits, until " in by_place["2.2"]
    assert "░" in by_place["2.2"]
    retry, message = by_place["4.1"], by_place["5.1"]
    assert "is tried again after ValueError: busy \\x1b[31m, until " in retry
    assert "waits for a message" in message
    assert "\x1b" not in shown

    facts = rowlock_json("show", run_id, database=database)
    assert {one["place"]: one["kind"] for one in facts["waits"]} == {
        "2.2": "timer",
        "3.2": "timer",
        "4.1": "retry",
        "5.1": "message",
    }
    [error] = [one["error"] for one in facts["waits"] if one["kind"] == "retry"]
    assert error["type"] == "ValueError"


def test_a_step_at_work_and_its_worker_are_shown(
    start_worker: StartWorker, database: str, tmp_path: Path
) -> None:
    worker = start_worker(ROWLOCK_LEASE_SECONDS="2")
    run_id = start(database, "holds", "--arg", f'folder="{tmp_path}"')
    found: dict[str, Any] = eventually(
        lambda: facts if (facts := rowlock_json("show", run_id, database=database))["doing"] else {}
    )
    [doing] = found["doing"]
    assert doing.keys() == {"place", "name", "attempt", "since"}
    assert (doing["place"], doing["name"], doing["attempt"]) == ("1", "hold", 1)
    assert found["worker"].keys() == {"id", "host", "pid", "lease_seconds"}
    assert found["worker"]["id"] == found["worker_id"]
    shown = rowlock("show", run_id, database=database).stdout
    assert f"pid {found['worker']['pid']}, lease for " in shown
    [line] = tree(shown)
    assert line.split()[:4] == ["1", "step", "hold", "1"]
    assert "▒" in line
    assert line.endswith("is running")

    for pid in worker.children():
        os.kill(pid, signal.SIGSTOP)  # it does not hear of it
    rowlock("cancel", run_id, "--reason=too slow", database=database)
    facts = rowlock_json("show", run_id, database=database)
    assert (facts["cancel"]["reason"], facts["cancel"]["grace_seconds"]) == ("too slow", 30.0)
    assert "grace 30s: too slow" in rowlock("show", run_id, database=database).stdout
    query(database, "update rowlock.worker set lease_until = clock_timestamp() returning 1")
    assert "its lease is over" in rowlock("show", run_id, database=database).stdout
    for pid in worker.children():
        os.kill(pid, signal.SIGCONT)
    becomes(database, run_id, "cancelled")
    (tmp_path / "go").touch()  # not before: whatever returns before it hears of the cancel succeeds
    assert rowlock_json("show", run_id, database=database)["cancel"] is None


def test_children_are_counted_and_no_more_than_fifty_are_shown(
    start_worker: StartWorker, database: str
) -> None:
    start_worker()
    run_id = start(database, "grandparent", "--arg", "children=60")
    eventually(lambda: query(database, "select from rowlock.waits where kind = 'message'"))
    [(parent,)] = query(database, "select id::text from rowlock.run where workflow = 'parent'")

    own = tree(rowlock("show", run_id, database=database).stdout)
    assert any(f"{parent}  waiting" in line and "└" in line for line in own)
    assert any(f"61 children: rowlock list --parent {parent}" in line for line in own)
    assert not any("sums" in line for line in own)
    deep = tree(rowlock("show", run_id, "--depth=2", database=database).stdout)
    assert sum(" sums" in line and "└" in line for line in deep) == 50
    assert any(f"… and 11 more: rowlock list --parent {parent}" in line for line in deep)
    none = tree(rowlock("show", run_id, "--depth=0", database=database).stdout)
    assert any(f"1 children: rowlock list --parent {run_id}" in line for line in none)

    facts = rowlock_json("show", run_id, "--depth=2", database=database)
    [child] = facts["children"]
    assert facts["children_total"] == 1
    assert (child["id"], child["place"], child["status"]) == (parent, "1", "waiting")
    assert child["children_total"] == len(child["children"]) == 61
    assert {one["status"] for one in child["children"]} == {"succeeded"}
    assert sorted(one["index"] or 0 for one in child["children"]) == list(range(61))


def test_the_last_steps_of_very_many_are_shown(start_worker: StartWorker, database: str) -> None:
    start_worker()
    run_id = start(database, "sums", "--arg", "a=1")
    becomes(database, run_id, "succeeded")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "insert into rowlock.step (run_id, recorded_at, generation, position, epoch, seconds,"
            " attempts, place, kind, name, output)"
            " select run_id, recorded_at, 1, n, epoch, 0.001, 1, n::text, 'step', 'work', '1'"
            "   from rowlock.step cross join generate_series(2, 10000) as n"
        )
    shown = rowlock("show", run_id, database=database).stdout
    assert "… 9,800 steps before these: --steps 10000\n" in shown
    lines = tree(shown)
    assert (len(lines), lines[-1].split()[:2]) == (200, ["10000", "10000"])
    few = tree(rowlock("show", run_id, "--steps=3", database=database).stdout)
    assert [line.split()[0] for line in few] == ["9998", "9999", "10000"]
    assert len(tree(rowlock("show", run_id, "--steps=10000", database=database).stdout)) == 10000
    facts = rowlock_json("show", run_id, database=database)
    assert len(facts["steps"]) == facts["steps_total"] == 10000
    assert len(rowlock_json("show", run_id, "--steps=3", database=database)["steps"]) == 3


def test_messages_say_where_they_were_received(start_worker: StartWorker, database: str) -> None:
    start_worker()
    run_id = start(database, "asks")
    becomes(database, run_id, "waiting")
    rowlock("send", run_id, "other\x1b[2J", '{"a": 1}', database=database)
    for n in range(21):
        query(database, f"select rowlock.send('{run_id}', 'more', '{n}')")
    rowlock("send", run_id, "answer", '"yes"', database=database)
    becomes(database, run_id, "succeeded")
    shown = rowlock("show", run_id, database=database).stdout
    [received] = [line for line in shown.splitlines() if '"yes"' in line and " UTC " in line]
    assert received.split()[1] == "answer"
    assert " at 2 " in received
    assert shown.count("not yet") == 19
    assert "… and 3 older ones: --json" in shown
    facts = rowlock_json("show", run_id, database=database)
    assert len(facts["messages"]) == facts["messages_total"] == 23
    assert facts["messages"][0]["topic"] == "other\x1b[2J"
    assert facts["messages"][0]["value"] == {"a": 1}
    assert facts["messages"][-1]["received_place"] == "2"


def test_the_histories_of_a_run_are_listed_with_what_began_each(
    start_worker: StartWorker, database: str, tmp_path: Path
) -> None:
    start_worker()
    run_id = start(database, "mendable", "--arg", f'folder="{tmp_path}"')
    becomes(database, run_id, "failed")
    (tmp_path / "mended").touch()
    rowlock("retry", run_id, database=database)
    becomes(database, run_id, "succeeded")
    rowlock("rewind", run_id, "2", database=database)
    becomes(database, run_id, "succeeded")
    copy = rowlock("fork", run_id, "2", database=database).stdout.strip()
    becomes(database, copy, "succeeded")

    facts = rowlock_json("history", run_id, database=database)
    assert [(one["generation"], one["reason"], one["place"], one["status"]) for one in facts] == [
        (1, "start", None, "failed"),
        (2, "retry", None, "succeeded"),
        (3, "rewind", "2", "succeeded"),
    ]
    assert facts[0]["error"]["type"] == "ValueError"
    assert facts[2]["output"] == "whole 2"
    assert facts[2]["input"]["folder"] == str(tmp_path)
    shown = rowlock("history", run_id, "--limit=2", database=database).stdout.splitlines()
    assert shown[0] == "… and those before: a higher --limit shows them"
    assert [line.split()[:2] for line in shown[3:]] == [["2", "retry"], ["3", "rewind"]]
    [forked] = rowlock_json("history", copy, database=database)
    assert (forked["reason"], forked["place"]) == ("fork", "2")
    assert rowlock_json("show", copy, database=database)["forked_from"] == run_id
    assert f"forked from  {run_id}" in rowlock("show", copy, database=database).stdout
    assert f"rowlock history {run_id}" in rowlock("show", run_id, database=database).stdout

    query(database, f"select rowlock.start('naps', '{{\"seconds\": 3600}}', key => '{copy}')")
    [(napping,)] = query(database, "select id::text from rowlock.run where workflow = 'naps'")
    [going] = rowlock_json("history", napping, database=database)
    assert (going["reason"], going["finished_at"]) == ("start", None)
    assert going["status"] in ("ready", "running", "waiting")


@pytest.mark.parametrize("command", ["show", "history"])
def test_an_unknown_run_is_an_error(database: str, command: str) -> None:
    strange = str(uuid4())
    done = rowlock(command, strange, "--json", database=database)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"rowlock: there is no run {strange}")


def test_on_a_narrow_terminal_no_id_is_cut(start_worker: StartWorker, database: str) -> None:
    start_worker()
    run_id = start(database, "grandparent", "--arg", "children=1")
    eventually(lambda: query(database, "select from rowlock.waits where kind = 'message'"))
    [(parent,)] = query(database, "select id::text from rowlock.run where workflow = 'parent'")
    code, shown = rowlock_on_a_terminal("show", run_id, database=database)
    assert code == 0
    assert parent in shown.replace("\n", "")
    assert run_id in shown


def test_what_a_role_may_not_read_is_left_out_and_that_is_said(
    server: Server, database: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create role shown_to login password 'x'")
        try:
            connection.execute("grant usage on schema rowlock to shown_to")
            for name in ("run", "runs", "task", "outcome", "generation", "steps", "step",
                         "messages", "message", "worker", "app_member"):  # fmt: skip
                connection.execute(f"grant select on rowlock.{name} to shown_to".encode())
            connection.execute("grant execute on all functions in schema rowlock to shown_to")
            connection.execute("select rowlock.grant_app('shown_to', 'shop')")
            [(run_id,)] = connection.execute(
                "select rowlock.start('fulfil', app => 'shop')::text"
            ).fetchall()
            theirs = make_conninfo(database, user="shown_to", password="x")
            said = rowlock("show", run_id, "--json", database=theirs)
            assert said.returncode == 0, said.stderr
            facts = json.loads(said.stdout)
            assert facts["hidden"] == ["cancel_request", "waits"]
            assert facts["waits"] == []
            shown = rowlock("show", run_id, database=theirs)
            assert shown.returncode == 0, shown.stderr
            assert "this role may not read it: cancel request and waits" in shown.stdout
        finally:
            connection.execute("drop owned by shown_to")
            connection.execute("drop role shown_to")
