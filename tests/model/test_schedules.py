"""Which ticks of a schedule are to be taken, from the row and the database's time alone."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import rowlock
from rowlock.model.schedules import BATCH, due_ticks, range_ticks

NOW = datetime(2026, 6, 1, 12, 0, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
NOON = NOW.replace(second=0)


@dataclass(frozen=True)
class Hourly:
    """A row of a schedule that ticks every hour; nobody has looked for five hours."""

    base: datetime | None = NOON - 5 * HOUR
    now: datetime | None = NOW
    cron: str | None = "0 * * * *"
    every: float | None = None
    timezone: str | None = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    catch_up: str | None = "last"
    catch_up_window: float | None = None


def hours_ago(*hours: int) -> list[datetime]:
    return [NOON - n * HOUR for n in hours]


@pytest.mark.parametrize("catch_up", ["none", "last", "all"])
def test_a_tick_that_has_just_come_is_taken_whatever_the_rule(catch_up: str) -> None:
    row = Hourly(base=NOON - HOUR, catch_up=catch_up)
    assert due_ticks(row) == ([NOON], NOON + HOUR)


@pytest.mark.parametrize(
    ("catch_up", "window_s", "expected"),
    [
        ("none", None, []),
        ("last", None, hours_ago(0)),
        ("all", None, hours_ago(4, 3, 2, 1, 0)),
        ("all", 3 * 3600, hours_ago(2, 1, 0)),
        ("last", 600, []),
        ("none", 3 * 3600, []),
    ],
)
def test_what_was_missed_is_made_up_for_by_the_rule(
    catch_up: str, window_s: float | None, expected: list[datetime]
) -> None:
    later = NOW + timedelta(minutes=20)
    row = Hourly(now=later, catch_up=catch_up, catch_up_window=window_s)
    assert due_ticks(row) == (expected, NOON + HOUR)


def test_of_fresh_ticks_all_are_taken_and_the_last_missed_one_is_not() -> None:
    row = Hourly(cron="*/10 * * * * *", base=NOW - HOUR)
    ticks, following = due_ticks(row)
    assert ticks == [NOON - timedelta(seconds=s) for s in (20, 10, 0)]
    assert following == NOON + timedelta(seconds=10)


def test_many_are_taken_in_batches_that_follow_each_other() -> None:
    row = Hourly(catch_up="all", base=NOON - 350 * HOUR)
    taken: list[datetime] = []
    while True:
        ticks, following = due_ticks(row)
        assert len(ticks) <= BATCH
        taken += ticks
        if following is None or following > NOW:
            break
        row = replace(row, base=ticks[-1])
    assert taken == hours_ago(*range(349, -1, -1))


def test_no_tick_comes_before_the_start_or_after_the_end() -> None:
    row = Hourly(catch_up="all", start_at=NOON - 3 * HOUR, end_at=NOON - HOUR)
    assert due_ticks(row) == (hours_ago(3, 2, 1), None)
    assert due_ticks(Hourly(start_at=NOON + 90 * timedelta(minutes=1))) == ([], NOON + 2 * HOUR)
    assert due_ticks(Hourly(end_at=NOON - 90 * timedelta(minutes=1)))[1] is None


def test_an_interval_is_counted_from_the_start() -> None:
    start = NOON - 3 * HOUR + timedelta(minutes=10)
    row = Hourly(cron=None, every=3600.0, start_at=start, catch_up="all")
    ticks, following = due_ticks(row)
    assert ticks == [start, start + HOUR, start + 2 * HOUR]
    assert following == start + 3 * HOUR


def test_a_clock_that_the_database_set_back_brings_no_tick_back() -> None:
    row = Hourly(base=NOON, now=NOW - 2 * HOUR, catch_up="all")
    assert due_ticks(row) == ([], NOON + HOUR)


def test_a_range_has_its_beginning_and_not_its_end() -> None:
    row = Hourly(base=NOON - 3 * HOUR - timedelta(microseconds=1), end_at=NOON)
    assert range_ticks(row) == (hours_ago(3, 2, 1), True)
    whole = Hourly(base=NOON - 500 * HOUR, end_at=NOON)
    ticks, is_done = range_ticks(whole)
    assert (len(ticks), is_done) == (BATCH, False)


@pytest.mark.parametrize("module", ["model/cron.py", "model/schedules.py", "runtime/scheduler.py"])
def test_nothing_that_makes_ticks_asks_this_machine_what_time_it_is(module: str) -> None:
    """A worker whose clock is wrong by hours ticks as well as any."""
    tree = ast.parse((Path(rowlock.__file__).parent / module).read_text())
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named = {node.name for node in ast.walk(tree) if isinstance(node, ast.alias)}
    assert asked & {"now", "utcnow", "today", "localtime"} <= {"now"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [f for f in calls if isinstance(f, ast.Attribute) and f.attr == "now"] == []
    assert "time" not in named
