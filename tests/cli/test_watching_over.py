"""`rowlock explain`, `pause`, `unpause` and `retain`, as scripts and people use them."""

from __future__ import annotations

import json
from pathlib import Path
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
