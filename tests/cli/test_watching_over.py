"""What watches over runs, queues, workers and versions, as scripts and people use it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import rowlock as library
from cli.conftest import StartWorker
from cli.running import query, rowlock, rowlock_json


def sums(a: int, b: int = 2) -> int:
    return a + b


@pytest.fixture
def shop(database: str) -> str:
    """A database that knows the app `shop`, with nobody who works."""
    app = library.App("shop")
    app.workflow(sums)
    with app.blocking_client(library.Settings(database_url=database)):
        return database


def start(database: str) -> str:
    return str(rowlock_json("start", "sums", "--arg", "a=1", database=database)["id"])


def test_explain_says_why_and_what_to_do(shop: str) -> None:
    run = start(shop)
    said = rowlock("explain", run, database=shop)
    assert said.returncode == 0
    assert "no live worker serves app shop" in said.stdout
    assert "Start one" in said.stdout
    paused = rowlock(
        *("pause", "--app", "shop", "--queue", "default", "--reason", "closed"), database=shop
    )
    assert (paused.returncode, paused.stdout) == (0, "paused\n")
    [why] = rowlock_json("explain", run, database=shop)
    assert (why["id"], why["cause"], why["status"]) == (run, "queue_paused", "ready")
    assert why["message"].endswith(": closed")
    unknown = rowlock("explain", str(uuid4()), database=shop)
    assert unknown.returncode == 1
    assert "there is no run" in unknown.stdout


def test_pauses_are_said_and_refused(shop: str) -> None:
    options = ("--app", "shop", "--workflow", "sums")
    assert rowlock_json("pause", *options, database=shop) == {"changed": True}
    assert "paused already" in rowlock("pause", *options, database=shop).stdout
    assert "no such pause" in rowlock("unpause", "--app", "shop", database=shop).stdout
    assert rowlock_json("unpause", *options, database=shop) == {"changed": True}
    for verb in ("pause", "unpause"):
        assert rowlock_json(verb, "--queue", "default", database=shop) == {"changed": True}
    assert "app alone means all of it" in rowlock("pause", database=shop).stderr
    refused = rowlock("pause", "--app", "shop", "--queue", "typo", database=shop)
    assert refused.returncode == 1
    assert "no queue typo" in refused.stderr


def test_retain_plans_archives_and_removes(
    shop: str, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    run = start(shop)
    rowlock("start", "sums", "--arg", "a=2", "--wait", database=shop)
    assert "nothing is to be removed" in rowlock("retain", "--plan", database=shop).stdout
    query(shop, "select rowlock.set_retention('1 minute', archive => true, app => 'shop')")
    query(
        shop,
        "update rowlock.run set id = overlay(id::text placing '01900000' from 1 for 8)::uuid,"
        " created_at = created_at - interval '1 year' returning 1",
    )
    for table in ("step", "outcome"):
        query(
            shop,
            f"update rowlock.{table} set run_id ="
            " overlay(run_id::text placing '01900000' from 1 for 8)::uuid returning 1",
        )
    query(
        shop,
        "update rowlock.outcome set finished_at = finished_at - interval '1 year' returning 1",
    )
    [planned] = rowlock_json("retain", "--plan", database=shop)
    assert (planned["workflow"], planned["runs"], planned["archive"]) == ("sums", 2, True)
    assert "archived first" in rowlock("retain", "--plan", database=shop).stdout
    assert rowlock_json("retain", database=shop)["runs"] == 0
    archive = tmp_path / "runs.jsonl"
    done = rowlock("retain", "--archive", str(archive), database=shop)
    assert (done.returncode, done.stdout) == (
        0,
        "removed 2 runs, 2 of them archived; 0 keys may be used again\n",
    )
    lines = [json.loads(line) for line in archive.read_text().splitlines()]
    assert len(lines) == 2
    assert query(shop, "select count(*) from rowlock.runs") == [(0,)]
    assert rowlock("explain", run, database=shop).returncode == 1
    both = rowlock("retain", "--plan", "--archive", str(archive), database=shop)
    assert both.returncode == 2


# --- the place of runs among others


def test_runs_are_moved_reordered_and_put_off(shop: str) -> None:
    other = library.App("shop")
    other.queue("slow")
    with other.blocking_client(library.Settings(database_url=shop)):
        pass
    runs = [start(shop) for _ in range(3)]

    def of(run: str, *columns: str) -> tuple[Any, ...]:
        names = ", ".join(columns)
        return query(shop, f"select {names} from rowlock.runs where run_id = '{run}'")[0]

    moved = rowlock("move", *runs[:2], "slow", database=shop)
    assert (moved.returncode, moved.stdout) == (0, f"moved {runs[0]}\nmoved {runs[1]}\n")
    assert [of(run, "queue")[0] for run in runs] == ["slow", "slow", "default"]
    back = rowlock_json("move", "default", "--queue=slow", "--yes", database=shop)
    assert [one["ok"] for one in back] == [True, True]
    assert {of(run, "queue")[0] for run in runs} == {"default"}
    refused = rowlock("move", runs[0], "typo", database=shop)
    assert (refused.returncode, "no queue typo" in refused.stderr) == (1, True)

    again = rowlock("move", *runs[:2], "default", database=shop)
    assert again.stdout.splitlines() == [f"unchanged {run}" for run in runs[:2]]
    assert again.stderr == "moved 0 of 2 runs, 2 were so already\n"
    assert rowlock("reprioritise", runs[0], "0", database=shop).stdout.startswith("reprioritised")
    [same] = rowlock_json("reprioritise", runs[0], "0", database=shop)
    assert (same["ok"], same["changed"]) == (True, False)
    assert of(runs[0], "priority") == (0,)
    assert rowlock_json("reprioritise", "90", "--status=ready", "--yes", database=shop)
    assert {of(run, "priority")[0] for run in runs} == {90}

    assert rowlock("reschedule", runs[0], "2h", database=shop).returncode == 0
    [status, hours] = of(runs[0], "status", "extract(epoch from due_at - now())::float8 / 3600")
    assert (status, hours) == ("scheduled", pytest.approx(2, abs=0.05))
    at = "2096-12-24T08:00+02:00"
    assert rowlock("reschedule", runs[1], at, database=shop).returncode == 0
    assert of(runs[1], "due_at") == (datetime.fromisoformat(at),)
    done = rowlock("reschedule", "now", "--status=scheduled", "--yes", database=shop)
    assert done.stderr == "rescheduled 2 of 2 runs\n"
    assert {of(run, "status")[0] for run in runs} == {"ready"}


def test_a_fork_can_name_its_version_and_take_its_children(shop: str) -> None:
    run = start(shop)
    refused = rowlock("fork", run, "--version=v9", database=shop)
    assert (refused.returncode, "no version v9" in refused.stderr) == (1, True)
    worker(shop, "v9")
    [copy] = rowlock_json("fork", run, "--version=v9", "--children", database=shop)
    assert rowlock_json("show", copy["new_run"], database=shop)["version"] == "v9"


# --- queues, workers, versions


def worker(database: str, version: str) -> int:
    [(number,)] = query(
        database,
        f"select rowlock.register_worker('shop', '{version}', 'host-1', 7, 9, null, '1 hour')",
    )
    return int(number)


def test_queues_are_listed_with_what_is_in_them(shop: str) -> None:
    for _ in range(2):
        start(shop)
    query(shop, "select rowlock.pause(queue => 'default', app => 'shop', reason => E'no\\x1b way')")
    [queue] = rowlock_json("queues", "--app=shop", database=shop)
    assert (queue["queue"], queue["ready"], queue["running"]) == ("default", 2, 0)
    assert queue["reason"] == "no\x1b way"
    [heading, _, line] = rowlock("queues", database=shop).stdout.splitlines()
    assert heading.split()[:3] == ["queue", "app", "ready"]
    assert line.split()[:3] == ["default", "shop", "2"]
    assert "by postgres " in line
    assert "no\\x1b way" in line
    assert "\x1b" not in line


def test_workers_are_listed_and_drained(shop: str) -> None:
    one, other = worker(shop, "v1"), worker(shop, "v1")
    [facts, _] = rowlock_json("workers", database=shop)
    assert (facts["worker_id"], facts["host"], facts["alive"]) == (one, "host-1", True)
    done = rowlock("drain-worker", str(one), "999", database=shop)
    assert (done.returncode, done.stdout) == (1, f"drains: worker {one}\n")
    assert "there is no worker 999" in done.stderr
    again = rowlock("drain-worker", str(one), "999", "--json", database=shop)
    assert again.returncode == 1
    [first, second] = json.loads(again.stdout)
    assert (first["worker"], first["ok"], first["changed"]) == (one, True, False)
    assert (second["ok"], second["changed"]) == (False, None)
    query(shop, f"update rowlock.worker set lease_until = now() where id = {other} returning 1")
    lines = rowlock("workers", database=shop).stdout.splitlines()[2:]
    assert [line.split()[-1] for line in lines] == ["drains", "dead"]


def test_versions_are_listed_promoted_and_retired(shop: str) -> None:
    for version in ("v1", "v2"):
        worker(shop, version)
    assert [
        (one["version"], one["current"], one["workers"])
        for one in rowlock_json("versions", database=shop)
    ] == [("v2", True, 1), ("v1", False, 1)]
    rowlock_json("start", "sums", database=shop)
    assert rowlock_json("list", "--version=v1", database=shop) == []
    assert "has version v9" in rowlock("list", "--version=v9", database=shop).stderr
    promoted = rowlock("promote", "v1", "--app=shop", database=shop)
    assert (promoted.returncode, promoted.stdout) == (0, "promoted v1\n")
    refused = rowlock("retire", "v1", "v2", "v9", "--app=shop", database=shop)
    assert (refused.returncode, refused.stdout) == (1, "retired v2\n")
    assert "version v1 is the current one of app shop" in refused.stderr
    assert "app shop has no version v9" in refused.stderr
    assert rowlock("retire", "v2", "--app=shop", database=shop).stdout == (
        "was retired before: v2\n"
    )
    lines = rowlock("versions", "--app=shop", database=shop).stdout.splitlines()[2:]
    assert [(line.split()[0], line.split()[-1]) for line in lines] == [
        ("v2", "retired"),
        ("v1", "current"),
    ]
