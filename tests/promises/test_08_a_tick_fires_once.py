"""Promise 8: a schedule fires each tick exactly once in the fleet, also after its run is gone."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rowlock import BlockingClient, Settings
from workers import scheduled
from workers.process import Worker
from workers.until import Sql, until

pytestmark = pytest.mark.promise(8)

APP = "workers.scheduled:app"
LONG_S = float(os.environ.get("ROWLOCK_TICKS_SECONDS", "0"))
"""`ROWLOCK_TICKS_SECONDS=60`: eight workers, so long; the issue's own proof."""
SECONDS = LONG_S or 12.0
WORKERS = 8 if LONG_S else 4

GAPS = """
select count(*) filter (where at - before <> interval '1 second')
  from (select at, lag(at) over (order by at) as before
          from (select (output #>> '{}')::timestamptz as at from rowlock.runs
                 where workflow = 'strike' and status = 'succeeded') as x) as y
"""


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    look = Sql(database)
    yield look
    look.close()


@pytest.fixture
def client(database: str) -> Iterator[BlockingClient]:
    with scheduled.app.blocking_client(Settings(database_url=database)) as opened:
        yield opened


def worker(database: str, code: str = "", **options: str | float) -> Worker:
    environment = {"CODE": code} | {k: str(v) for k, v in options.items() if k.isupper()}
    version = str(options.get("version", ""))
    return Worker(database, APP, lease_s=1.5, version=version, environment=environment)


def test_each_second_ticks_once_whoever_is_killed(database: str, sql: Sql) -> None:
    chance, kills = random.Random(8), 0
    with ExitStack() as stack:
        fleet = [stack.enter_context(worker(database, "each second")) for _ in range(WORKERS)]
        until(lambda: sql("select 1 from rowlock.schedules where fired > 0"))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(chance.uniform(0.3, 1.5))
            fallen = chance.randrange(len(fleet))
            fleet[fallen].kill()
            fleet[fallen] = stack.enter_context(worker(database, "each second"))
            kills += 1
        wanted = sql.one("select fired from rowlock.schedules") + 2
        until(sql.at_least(wanted, "select coalesce(sum(fired), 0) from rowlock.schedules"))
        sql("select rowlock.pause_schedule('seconds')")
        until(lambda: not sql("select 1 from rowlock.task"), deadline_s=120)
    [[fired, last, name]] = sql("select fired, last_tick, schedule from rowlock.schedules")
    runs = sql.one("select count(*) from rowlock.runs where status = 'succeeded'")
    ticks = sql.one("select count(distinct output) from rowlock.runs")
    assert (name, runs, ticks) == ("seconds", fired, fired)
    assert (sql.one(GAPS), sql.one("select skipped from rowlock.schedules")) == (0, 0)
    assert sql.one("select max((output #>> '{}')::timestamptz) from rowlock.runs") == last
    assert kills >= 3


def test_a_backfill_of_a_year_starts_each_tick_once_whoever_is_killed(
    database: str, sql: Sql, client: BlockingClient
) -> None:
    with ExitStack() as stack:
        fleet = [stack.enter_context(worker(database)) for _ in range(3)]
        client.create_schedule("hours", "0 * * * *", scheduled.strike, timezone="Europe/Berlin")
        sql("select rowlock.pause(workflow => 'strike')")
        sql("select rowlock.backfill('hours', '2025-01-01 00:00+1', '2026-01-01 00:00+1')")
        started = "select sum(started) from rowlock.backfills"
        for wanted in (100, 2500, 5000):
            until(sql.at_least(wanted, started), deadline_s=120)
            fleet.pop(0).kill()
            fleet.append(stack.enter_context(worker(database)))
        until(lambda: sql("select 1 from rowlock.backfills where ended_at is not null"))
    assert sql("select started, error from rowlock.backfills") == [(8760, None)]
    assert sql.one("select count(*) from rowlock.run") == 8760
    assert sql.one("select count(distinct input ->> 'tick') from rowlock.run") == 8760
    assert sql("select min(input ->> 'tick'), max(input ->> 'tick') from rowlock.run") == [
        ("2024-12-31T23:00:00Z", "2025-12-31T22:00:00Z")
    ]


def test_a_tick_does_not_come_again_after_its_run_was_removed(database: str, sql: Sql) -> None:
    with worker(database, "each second"):
        until(sql.at_least(2, "select coalesce(sum(fired), 0) from rowlock.schedules"))
        sql("select rowlock.pause_schedule('seconds')")
        until(lambda: not sql("select 1 from rowlock.task"))
    before = sql("select fired, last_tick from rowlock.schedules")
    sql("select rowlock.delete(run_id) from rowlock.runs")
    assert sql("select key from rowlock.run_key") == []
    # Everything is looked at anew, from where it was before: by the rule `all`, within a minute.
    sql(
        "update rowlock.schedule set paused_at = null, due_at = clock_timestamp(),"
        " end_at = last_tick, start_at = last_tick - interval '1 minute',"
        " revision = revision + 1"
    )
    with worker(database):
        until(lambda: sql("select 1 from rowlock.schedules where status in ('ended', 'removed')"))
    assert sql("select fired, last_tick from rowlock.schedules") == before
    assert sql.one("select count(*) from rowlock.run") == 0


def test_a_stranger_who_holds_a_schedule_delays_no_other(
    database: str, sql: Sql, client: BlockingClient
) -> None:
    for name in ("held", "free"):
        client.create_schedule(name, "* * * * * *", scheduled.strike, catch_up="all")
    fired = "select coalesce(sum(fired), 0) from rowlock.schedules where schedule = '{}'"
    with worker(database):
        until(sql.at_least(1, fired.format("held")))
        stranger = Sql(database)
        stranger("begin isolation level serializable")
        stranger("select rowlock.update_schedule('held', priority => 7)")
        before = sql.one(fired.format("held"))
        until(sql.at_least(sql.one(fired.format("free")) + 4, fired.format("free")))
        assert sql.one(fired.format("held")) == before
        stranger("rollback")
        stranger.close()
        # What waited is made up for, none of it twice.
        until(sql.at_least(before + 5, fired.format("held")))


def test_the_code_of_the_current_version_says_what_ticks(database: str, sql: Sql) -> None:
    what = "select cron from rowlock.schedules where schedule = 'hours'"
    nights = "select status from rowlock.schedules where schedule = 'nights'"
    with worker(database, "hourly", version="v1"):
        until(lambda: sql(what) == [("0 * * * *",)])
        with worker(database, "daily", version="v2"):
            until(lambda: sql(what) == [("0 3 * * *",)])
            until(lambda: sql(nights) == [("removed",)])
            sql("select rowlock.promote('clock', 'v1')")
            until(lambda: sql(what) == [("0 * * * *",)])
            until(lambda: sql(nights) == [("active",)])
