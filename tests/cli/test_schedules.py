"""`rowlock schedules` and `rowlock schedule …`, as people and scripts use them."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

import rowlock as library
from cli.conftest import StartWorker
from cli.running import eventually, query, rowlock, rowlock_json


def sums(a: int, b: int = 2) -> int:
    return a + b


@pytest.fixture
def shop(database: str) -> str:
    """A database that knows the app `shop`, with nobody who works."""
    app = library.App("shop")
    app.workflow(sums)
    with app.blocking_client(library.Settings(database_url=database)):
        return database


def said(database: str, *args: str) -> str:
    done = rowlock("schedule", *args, "--app", "shop", database=database)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_schedule_from_its_making_to_its_end(shop: str, start_worker: StartWorker) -> None:
    zone = ("--timezone", "Europe/Berlin")
    said(shop, "create", "nightly", "sums", "--cron", "0 3 * * *", *zone, "--arg", "a=1")
    [one] = rowlock_json("schedules", database=shop)
    assert (one["status"], one["cron"], one["input"], one["fired"]) == (
        *("active", "0 3 * * *"),
        *({"a": 1}, 0),
    )
    assert len(one["next_ticks"]) == 5
    printed = said(shop, "next", "nightly", "--count", "7").splitlines()
    ticks = [datetime.fromisoformat(line) for line in printed]
    assert [(tick.hour, tick.minute) for tick in ticks] == [(3, 0)] * 7
    assert {tick.utcoffset() for tick in ticks} <= {
        tick.astimezone(ZoneInfo("Europe/Berlin")).utcoffset() for tick in ticks
    }
    assert said(shop, "pause", "nightly", "--reason", "closed") == "paused"
    assert said(shop, "pause", "nightly").startswith("it was paused already")
    assert "closed" in rowlock("schedules", database=shop).stdout
    [why] = [rowlock_json("schedule", "explain", "nightly", database=shop)]
    assert (why["status"], why["cause"]) == ("paused", "paused")
    assert said(shop, "resume", "nightly") == "resumed"
    assert said(shop, "update", "nightly", "--every", "15m", "--overlap", "allow") == "changed"
    assert said(shop, "update", "nightly", "--overlap", "allow") == "it was like this before"
    end = ("--end", "2090-01-01T00:00Z")
    assert said(shop, "update", "nightly", *end, "--jitter=0.1s") == "changed"
    assert said(shop, "update", "nightly", "--remove=end", "--remove=jitter") == "changed"
    assert said(shop, "update", "nightly", "--remove=end") == "it was like this before"
    [one] = rowlock_json("schedules", database=shop)
    assert (one["end_at"], one["jitter"]) == (None, "P0D")
    start_worker()
    run = said(shop, "trigger", "nightly")
    eventually(lambda: query(shop, "select 1 from rowlock.runs where status = 'succeeded'"))
    [(found, attributes)] = query(shop, "select run_id::text, attributes from rowlock.runs")
    assert (found, attributes) == (run, {"schedule": "nightly"})
    said(shop, "backfill", "nightly", "2026-01-01T00:00Z", "2026-01-01T02:00Z")
    eventually(lambda: query(shop, "select 1 from rowlock.backfills where ended_at is not null"))
    assert query(shop, "select started from rowlock.backfills") == [(8,)]
    assert said(shop, "delete", "nightly") == "deleted"
    assert rowlock_json("schedules", database=shop) == []


def test_a_tick_that_waits_for_a_run_says_so(shop: str) -> None:
    said(shop, "create", "nightly", "sums", "--every", "1h", "--overlap", "queue")
    run = said(shop, "trigger", "nightly")
    query(shop, "update rowlock.schedule set next_tick = clock_timestamp() returning 1")
    assert "waits for a run" in rowlock("schedules", database=shop).stdout
    query(
        shop,
        "insert into rowlock.worker (app, version, host, pid, slots, lease_until)"
        " values ('shop', '', 'pod', 1, 1, clock_timestamp() + interval '1 hour') returning 1",
    )
    printed = said(shop, "explain", "nightly")
    assert ("waiting for run" in printed, run in printed) == (True, True), printed


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (("create", "x", "sums", "--app", "shop", "--cron", "* * * *"), 2, "five fields"),
        (("create", "x", "sums", "--app", "shop"), 2, "--cron"),
        (
            ("create", "x", "sums", "--app", "shop", "--cron", "* * * * *", "--every", "1h"),
            2,
            "both",
        ),
        (("create", "x", "sums", "--app", "shop", "--every", "1h", "--queue", "no"), 1, "no queue"),
        (
            ("create", "x", "sums", "--app", "shop", "--every", "1h", "--timezone", "Asia/Tokyo"),
            2,
            "an interval counts seconds",
        ),
        (
            ("update", "x", "--app", "shop", "--every", "1h", "--timezone", "Asia/Tokyo"),
            2,
            "an interval counts seconds",
        ),
        (("update", "x", "--app", "shop", "--timezone", ""), 2, "time zone is empty"),
        (("pause", "x", "--app", "shop"), 1, "no schedule x"),
        (("next", "x"), 1, "no schedule x"),
        (("explain", "x"), 1, ""),
        (("update", "x", "--app", "shop", "--remove=cron"), 2, "is not one of"),
        (("update", "x", "--app", "shop", "--remove=end", "--jitter=1s"), 2, "one at a time"),
        (("update", "x", "--app", "shop", "--remove=end"), 1, "no schedule x"),
        (("backfill", "x", "soon", "later", "--app", "shop"), 2, "no time"),
    ],
)
def test_what_can_not_be_is_refused(shop: str, args: tuple[str, ...], code: int, what: str) -> None:
    done = rowlock("schedule", *args, database=shop)
    assert (done.returncode, what in done.stderr) == (code, True), done.stderr
    assert rowlock_json("schedules", database=shop) == []
