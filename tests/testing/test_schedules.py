"""Schedules in a test: they tick while the test lets time pass, each tick at its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from rowlock import App
from rowlock.errors import ConfigurationError
from rowlock.testing import BlockingHarness, OpenHarness

HOUR = timedelta(hours=1)


class Clock:
    """An app that strikes every hour, and what it has struck."""

    def __init__(self) -> None:
        self.app = app = App("clock")
        self.struck: list[tuple[datetime, datetime]] = []

        @app.step
        async def note(tick: datetime, at: datetime) -> None:
            self.struck.append((tick, at))

        @app.schedule("0 * * * *", name="hours", overlap="allow")
        @app.workflow
        async def strike(tick: datetime) -> None:
            await note(tick, await app.now())

        @app.workflow
        async def rest(hours: int) -> datetime:
            await app.sleep(hours * HOUR)
            return await app.now()

        @app.workflow
        async def last(tick: datetime, hours: float) -> None:
            await note(tick, await app.now())
            await app.sleep(hours * HOUR)

        self.strike, self.rest, self.last = strike, rest, last


def hours_of(clock: Clock) -> list[datetime]:
    for tick, at in clock.struck:
        assert tick <= at < tick + timedelta(minutes=1)
        assert (tick.minute, tick.second, tick.microsecond) == (0, 0, 0)
    return [tick for tick, _ in clock.struck]


async def test_time_that_passes_lets_each_tick_happen_at_its_time(
    rowlock_harness: OpenHarness,
) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app, schedules=True) as harness:
        begin = await harness.now()
        await harness.advance(5 * HOUR)
        first = begin.replace(minute=0, second=0, microsecond=0) + HOUR
        assert hours_of(clock)[:5] == [first + n * HOUR for n in range(5)]


async def test_ticks_happen_on_the_way_to_a_runs_own_timer(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app, schedules=True) as harness:
        ended = await harness.run(clock.rest(3))
        assert len([tick for tick in hours_of(clock) if tick <= ended]) == 3


async def test_without_being_asked_for_declared_schedules_do_not_tick(
    rowlock_harness: OpenHarness,
) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.advance(5 * HOUR)
        assert await harness.client.schedules() == []
        assert clock.struck == []


async def test_a_queued_tick_begins_when_the_run_before_has_ended(
    rowlock_harness: OpenHarness,
) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.client.create_schedule(
            *("hours", "0 * * * *", clock.last),
            args={"hours": 1.5},
            overlap="queue",
            catch_up="all",
        )
        await harness.advance(7 * HOUR)
        ticks = [tick for tick, _ in clock.struck]
        begun = [at for _, at in clock.struck]
        assert ticks == [ticks[0] + n * HOUR for n in range(len(ticks))]
        for n, at in enumerate(begun[1:], start=1):
            assert timedelta() <= at - (begun[0] + n * 1.5 * HOUR) < timedelta(minutes=1)
        assert len(ticks) >= 4


async def test_a_tick_during_a_run_is_skipped_and_counted(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.client.create_schedule("hours", HOUR, clock.last, args={"hours": 2.5})
        await harness.advance(6 * HOUR)
        [row] = await harness.client.schedules()
        assert row.fired + row.skipped >= 6
        ticks = hours_of(clock)
        assert ticks == [ticks[0] + n * 3 * HOUR for n in range(row.fired)]


async def test_the_next_run_cancels_the_one_before(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.client.create_schedule(
            "hours", HOUR, clock.last, args={"hours": 2.5}, overlap="cancel_running"
        )
        await harness.advance(3 * HOUR)
        runs = await harness.client.runs(workflow="last")
        assert sorted(run.status for run in runs) == ["cancelled", "cancelled", "waiting"]


async def test_jitter_spreads_runs_behind_their_ticks(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.client.create_schedule("hours", HOUR, clock.strike, jitter=20 * 60)
        await harness.advance(12 * HOUR)
        late = [at - tick for tick, at in clock.struck]
        assert len(late) >= 11
        assert all(timedelta() <= one < timedelta(minutes=21) for one in late)
        assert max(late) - min(late) > timedelta(minutes=2)


async def test_a_backfill_runs_what_is_past(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    async with rowlock_harness(clock.app) as harness:
        await harness.client.create_schedule("hours", HOUR, clock.strike)
        await harness.advance(3 * HOUR)
        now = (await harness.now()).astimezone(UTC)
        to = now.replace(minute=0, second=0, microsecond=0)
        await harness.client.backfill("hours", to - 9 * HOUR, to)
        await harness.run_until_idle()
        assert sorted(tick for tick, _ in clock.struck) == [to - n * HOUR for n in range(9, -1, -1)]
        [fill] = await harness.client.backfills()
        assert (fill.started, fill.error) == (9, None)


def test_the_same_in_plain_tests(rowlock_harness: OpenHarness) -> None:
    clock = Clock()
    with rowlock_harness(clock.app, schedules=True) as harness:
        assert isinstance(harness, BlockingHarness)
        harness.advance(2 * HOUR)
        assert len(clock.struck) >= 2


@pytest.mark.parametrize(
    ("when", "options"),
    [
        ("* * * *", {}),
        ("0 0 31 2 *", {}),
        (timedelta(milliseconds=1500), {}),
        (timedelta(0), {}),
        ("0 3 * * *", {"timezone": "Mars/Olympus"}),
        ("0 3 * * *", {"timezone": ""}),
        ("0 3 * * *", {"timezone": UTC}),
        (HOUR, {"timezone": "Europe/Berlin"}),
        (HOUR, {"timezone": ""}),
        ("0 3 * * *", {"name": ""}),
        ("0 3 * * *", {"name": 5}),
        (5, {}),
        ("0 3 * * *", {"args": [1]}),
        ("0 3 * * *", {"overlap": ""}),
        ("0 3 * * *", {"catch_up": ""}),
        ("0 3 * * *", {"priority": "first"}),
        ("0 3 * * *", {"start": "2026-01-01"}),
        ("0 3 * * *", {"jitter": "5s"}),
        ("0 3 * * *", {"jitter": timedelta(days=400)}),
        ("0 3 * * *", {"jitter": -1}),
        ("0 3 * * *", {"overlap": "perhaps"}),
        ("0 3 * * *", {"catch_up": "some"}),
        ("0 3 * * *", {"window": 0}),
        ("0 3 * * *", {"priority": 101}),
        ("0 3 * * *", {"queue": "nowhere"}),
        ("0 3 * * *", {"args": {"what": 1}}),
        ("0 3 * * *", {"start": datetime(2026, 1, 1)}),
        (
            "0 3 * * *",
            {"start": datetime(2026, 1, 2, tzinfo=UTC), "end": datetime(2026, 1, 1, tzinfo=UTC)},
        ),
    ],
)
def test_a_declaration_that_can_not_work_is_refused_when_it_is_made(
    when: str | timedelta, options: dict[str, object]
) -> None:
    clock = Clock()
    with pytest.raises(ConfigurationError):
        clock.app.schedule(when, **{"name": "other"} | options)(clock.strike)  # type: ignore[arg-type]
    assert [one.name for one in clock.app.code.schedules] == ["hours"]


def test_two_schedules_need_two_names() -> None:
    clock = Clock()
    with pytest.raises(ConfigurationError, match="two schedules named hours"):
        clock.app.schedule("0 3 * * *", name="hours")(clock.strike)
    with pytest.raises(ConfigurationError, match=r"above @app\.workflow"):
        clock.app.schedule("0 3 * * *")(lambda: None)  # type: ignore[type-var]
