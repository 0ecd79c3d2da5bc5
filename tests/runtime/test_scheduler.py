"""The scheduler of a worker, look by look, on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import pytest

from rowlock import Settings
from rowlock.runtime.scheduler import EARLY_S, STAND_BACK_S, Scheduler
from rowlock.store.connection import Session
from workers.until import Sql

NEAR_S = 0.5
assert EARLY_S < NEAR_S < 0.8 * STAND_BACK_S


@pytest.fixture
async def session(database: str) -> AsyncIterator[Session]:
    opened = Session(Settings(database_url=database), "control")
    yield opened
    await opened.close()


@pytest.fixture
def sql(database: str) -> Iterator[Sql]:
    look = Sql(database)
    look("select rowlock.show_app('clock', '{default}', '{strike}', '{default}')")
    yield look
    look.close()


def make(session: Session) -> Scheduler:
    return Scheduler("clock", "", (), session)


async def settled(scheduler: Scheduler) -> Scheduler:
    """One that has looked until there was nothing to do."""
    while await scheduler._look() == 0.0:
        pass
    return scheduler


def due(sql: Sql, name: str) -> None:
    """An hourly tick of a second ago has not been taken; it is due."""
    sql(
        "update rowlock.schedule set start_at = date_trunc('second', clock_timestamp()) - '1 s'"
        "::interval, ticked_to = clock_timestamp() - interval '10 s', due_at = clock_timestamp()"
        " where name = %s",
        name,
    )


def near(sql: Sql, name: str) -> None:
    """Its next tick comes in half a second."""
    sql(
        "update rowlock.schedule set due_at = clock_timestamp() + %s * interval '1 second'"
        " where name = %s",
        NEAR_S,
        name,
    )


async def test_who_took_the_last_tick_waits_for_the_next_and_the_others_stand_back(
    session: Session, sql: Sql
) -> None:
    sql("select rowlock.create_schedule('a', 'strike', every => interval '1 hour')")
    first, second = await settled(make(session)), await settled(make(session))
    due(sql, "a")
    assert await first._look() == 0.0
    near(sql, "a")
    assert await first._look() < NEAR_S + EARLY_S
    assert await second._look() >= 0.8 * STAND_BACK_S
    # Woken in vain it knows that another was first.
    near(sql, "a")
    assert await first._look() >= 0.8 * STAND_BACK_S


async def test_a_schedule_that_is_held_makes_no_other_wait(
    session: Session, sql: Sql, database: str
) -> None:
    for name in "ab":
        sql("select rowlock.create_schedule(%s, 'strike', every => interval '1 hour')", name)
    scheduler = await settled(make(session))
    due(sql, "a")
    near(sql, "b")
    stranger = Sql(database)
    stranger("begin")
    stranger("select rowlock.update_schedule('a', priority => 3)")
    assert await scheduler._look() < NEAR_S + EARLY_S
    due(sql, "b")
    assert await scheduler._look() == 0.0
    stranger("rollback")
    assert await scheduler._look() == 0.0
    assert sql("select fired from rowlock.schedules") == [(1,), (1,)]
    stranger.close()


async def test_what_the_calendar_does_not_know_is_set_aside(session: Session, sql: Sql) -> None:
    sql("select rowlock.create_schedule('never', 'strike', '0 0 31 2 *')")
    sql("select rowlock.create_schedule('hourly', 'strike', '0 * * * *')")
    await settled(make(session))
    assert sql("select schedule, status, error is null from rowlock.schedules order by 1") == [
        ("hourly", "active", True),
        ("never", "refused", False),
    ]


async def test_a_schedule_whose_end_has_come_has_ended(session: Session, sql: Sql) -> None:
    sql(
        "select rowlock.create_schedule('short', 'strike', every => interval '1 hour',"
        " end_at => clock_timestamp() + interval '1 second')"
    )
    sql("update rowlock.schedule set end_at = clock_timestamp()")
    await settled(make(session))
    assert sql("select status, next_tick, fired from rowlock.schedules")[0][:2] == ("ended", None)


async def test_what_hangs_on_a_time_zone_is_computed_anew(session: Session, sql: Sql) -> None:
    sql("select rowlock.create_schedule('z', 'strike', '0 3 * * *', timezone => 'Europe/Berlin')")
    scheduler = await settled(make(session))
    right = sql.one("select next_tick from rowlock.schedules")
    sql(
        "update rowlock.schedule set next_tick = next_tick + interval '1 hour',"
        " due_at = due_at + interval '1 hour'"
    )
    await scheduler._place()
    assert sql("select next_tick, due_at from rowlock.schedule") == [(right, right)]
    assert sql.one("select count(*) from rowlock.run") == 0


async def test_a_backfill_of_a_schedule_that_is_gone_says_so(session: Session, sql: Sql) -> None:
    sql("select rowlock.create_schedule('a', 'strike', every => interval '1 hour')")
    sql("select rowlock.backfill('a', '2026-01-01', '2026-01-02')")
    sql("select rowlock.delete_schedule('a')")
    await settled(make(session))
    [(started, error, ended_at)] = sql("select started, error, ended_at from rowlock.backfills")
    assert (started, error) == (0, "the schedule was deleted")
    assert ended_at < datetime.now(UTC).replace(year=9000)


async def test_runs_that_can_not_be_started_set_their_schedule_aside(
    session: Session, sql: Sql
) -> None:
    sql("select rowlock.create_schedule('a', 'strike', every => interval '1 hour')")
    scheduler = await settled(make(session))
    sql("update rowlock.schedule set queue = 'gone'")  # as no function of ours lets anybody do
    due(sql, "a")
    await settled(scheduler)
    [(status, error)] = sql("select status, error from rowlock.schedules")
    assert status == "refused"
    assert "gone" in error
