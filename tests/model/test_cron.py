"""When schedules tick: where clocks change, at odd places of the calendar, and by an oracle."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rowlock.model.cron import BadSchedule, Calendar, Cron, Interval, latest, upcoming

BERLIN = "Europe/Berlin"


def ticks(expression: str, zone: str, after: str, count: int) -> list[str]:
    """As the clock on the wall shows them, with its offset."""
    begin = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    found = upcoming(Cron(expression, zone), begin, None, count)
    return [tick.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M:%S %z") for tick in found]


def test_a_fixed_time_that_does_not_exist_ticks_when_the_clocks_have_jumped() -> None:
    assert ticks("30 2 * * *", BERLIN, "2026-03-28T12:00", 2) == [
        "03-29 03:00:00 +0200",
        "03-30 02:30:00 +0200",
    ]
    # Several that are jumped over are one tick; the one at the jump's end is the same.
    assert ticks("0,20,40 2,3 * * *", BERLIN, "2026-03-28T23:00", 4) == [
        "03-29 03:00:00 +0200",
        "03-29 03:20:00 +0200",
        "03-29 03:40:00 +0200",
        "03-30 02:00:00 +0200",
    ]


def test_a_fixed_time_that_comes_twice_ticks_the_first_time() -> None:
    assert ticks("30 2 * * *", BERLIN, "2026-10-24T12:00", 2) == [
        "10-25 02:30:00 +0200",
        "10-26 02:30:00 +0100",
    ]


def test_asked_within_the_repeated_hour_a_fixed_time_does_not_come_back() -> None:
    zone = ZoneInfo(BERLIN)
    second_time = datetime(2026, 10, 25, 2, 10, tzinfo=zone, fold=1).astimezone(UTC)
    assert Cron("30 2 * * *", BERLIN).after(second_time) == datetime(
        2026, 10, 26, 1, 30, tzinfo=UTC
    )


def test_what_ticks_by_the_time_that_passes_goes_on_in_both_directions() -> None:
    assert ticks("*/30 * * * *", BERLIN, "2026-03-29T01:15", 3) == [
        "03-29 01:30:00 +0100",
        "03-29 03:00:00 +0200",
        "03-29 03:30:00 +0200",
    ]
    assert ticks("*/30 * * * *", BERLIN, "2026-10-25T02:15", 5) == [
        "10-25 02:30:00 +0200",
        "10-25 02:00:00 +0100",
        "10-25 02:30:00 +0100",
        "10-25 03:00:00 +0100",
        "10-25 03:30:00 +0100",
    ]


def test_an_hour_with_seconds_is_fixed_too() -> None:
    assert ticks("15 30 2 * * *", BERLIN, "2026-03-28T12:00", 2) == [
        "03-29 03:00:00 +0200",
        "03-30 02:30:15 +0200",
    ]
    assert ticks("15 30 2 * * *", BERLIN, "2026-10-25T00:00", 2) == [
        "10-25 02:30:15 +0200",
        "10-26 02:30:15 +0100",
    ]


def test_a_day_that_a_zone_left_out_ticks_when_it_is_over() -> None:
    # Samoa went over the date line: there was no 30 December 2011.
    assert ticks("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", 2) == [
        "12-31 00:00:00 +1400",
        "12-31 12:00:00 +1400",
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("0 0 L * *", ["2026-01-31 00:00:00", "2026-02-28 00:00:00"]),
        ("0 0 LW * *", ["2026-01-30 00:00:00", "2026-02-27 00:00:00"]),
        ("0 0 * * 5L", ["2026-01-30 00:00:00", "2026-02-27 00:00:00"]),
        ("0 0 * * MON#1", ["2026-01-05 00:00:00", "2026-02-02 00:00:00"]),
        ("0 9 * jan-feb sun", ["2026-01-04 09:00:00", "2026-01-11 09:00:00"]),
        ("0 9 * * 7", ["2026-01-04 09:00:00", "2026-01-11 09:00:00"]),
        ("*/20 * * * * *", ["2026-01-01 00:00:20", "2026-01-01 00:00:40"]),
        ("0 0 13 * FRI", ["2026-01-02 00:00:00", "2026-01-09 00:00:00"]),
        ("0 0 1 3 *", ["2026-03-01 00:00:00", "2027-03-01 00:00:00"]),
    ],
)
def test_the_calendars_odd_places(expression: str, expected: list[str]) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    found = upcoming(Cron(expression), begin, None, 2)
    assert [f"{tick:%Y-%m-%d %H:%M:%S}" for tick in found] == expected


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("", "UTC"),
        ("* * * *", "UTC"),
        ("* * * * * * *", "UTC"),
        ("60 * * * *", "UTC"),
        ("@daily", "UTC"),
        ("0 0 31 2 *", "UTC"),
        ("0 3 * * *", "Europe/Nowhere"),
        ("0 3 * * *", "../../etc/passwd"),
        ("0 3 * * *", ""),
    ],
)
def test_what_can_not_tick_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(BadSchedule):
        Cron(expression, zone)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "can't be read: it is empty. An expression has five"),
        ("* * * *", "can't be read: it has 4 fields. An expression has five"),
        ("61 * * * *", "can't be read: its minute is '61', but must be from 0 to 59. An"),
        ("61 0 0 * * *", "can't be read: its second is '61', but"),
        ("0 1,24 * * *", "can't be read: its hour is '24', but"),
        ("0 0 0 2 *", "can't be read: its day of month is '0', but must be from 1 to 31"),
        ("0 0 30 13 *", "can't be read: its month is '13', but must be from 1 to 12"),
        ("0 0 * * MO", "can't be read: its day of week is 'MO', but must be from 0 to 7"),
        ("1,,2 * * * *", "can't be read: its minute is empty after a comma too many"),
        ("0 0 30 2 *", "never happens: no month of '2' has a day '30'. Take a day"),
        ("0 0 0 31 4,6 *", "never happens: no month of '4,6' has a day '31'. Take a day"),
    ],
)
def test_what_is_wrong_with_an_expression_is_said_of_its_field(expression: str, why: str) -> None:
    with pytest.raises(BadSchedule) as caught:
        Cron(expression)
    assert f"cron {expression!r} {why}" in str(caught.value)


def test_an_interval_counts_seconds_from_its_anchor() -> None:
    anchor = datetime(2026, 3, 29, 0, 10, tzinfo=UTC)
    every = Interval(3600, anchor)
    assert every.after(anchor) == anchor + timedelta(hours=1)
    assert every.after(anchor - timedelta(minutes=1)) == anchor
    assert Interval(900).after(anchor) == datetime(2026, 3, 29, 0, 15, tzinfo=UTC)
    with pytest.raises(BadSchedule):
        Interval(0)


def test_the_latest_tick_is_found_among_millions() -> None:
    long_ago, now = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, 12, 0, 30, tzinfo=UTC)
    assert latest(Cron("* * * * * *"), long_ago, now) == now
    assert latest(Cron("0 0 1 1 *"), long_ago, now) == datetime(2026, 1, 1, tzinfo=UTC)
    assert latest(Cron("0 0 29 2 *"), long_ago, now) == datetime(2024, 2, 29, tzinfo=UTC)
    assert latest(Cron("0 0 1 1 *"), datetime(2026, 1, 1, tzinfo=UTC), now) is None


# --- against an oracle that looks at every minute

PLACES = [
    (BERLIN, date(2026, 3, 29)),
    (BERLIN, date(2026, 10, 25)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),  # by half an hour
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Sao_Paulo", date(2018, 11, 4)),  # at midnight
    ("America/Sao_Paulo", date(2018, 2, 18)),
    ("Africa/Casablanca", date(2026, 3, 22)),
    ("Pacific/Chatham", date(2026, 4, 5)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Europe/Dublin", date(2026, 10, 25)),
    ("Asia/Kolkata", date(2026, 5, 5)),
]
MINUTES = {"*": range(60), "*/20": range(0, 60, 20), "0": [0], "30": [30], "5,35": [5, 35]}
HOURS = {"*": range(24), "*/2": range(0, 24, 2), "0": [0], "1": [1], "2": [2], "0-3": range(4)}


def oracle(minute: str, hour: str, zone: ZoneInfo, around: date) -> list[datetime]:
    """All ticks from a day before to two days after, by looking at each minute."""
    begin = datetime(around.year, around.month, around.day, tzinfo=UTC) - timedelta(days=1)
    passing = [begin + timedelta(minutes=n) for n in range(4 * 1440)]
    if minute.startswith("*") or hour.startswith("*"):
        walls = [(utc, utc.astimezone(zone)) for utc in passing]
        return [u for u, at in walls if at.minute in MINUTES[minute] and at.hour in HOURS[hour]]
    shown: dict[datetime, datetime] = {}
    for utc in passing:
        shown.setdefault(utc.astimezone(zone).replace(tzinfo=None, fold=0), utc)
    wall, last, found = min(shown), max(shown), set()
    while wall <= last:
        if wall.minute in MINUTES[minute] and wall.hour in HOURS[hour]:
            found.add(next(shown[at] for at in sorted(shown) if at >= wall))
        wall += timedelta(minutes=1)
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(
    place=st.sampled_from(PLACES),
    minute=st.sampled_from(sorted(MINUTES)),
    hour=st.sampled_from(sorted(HOURS)),
    seconds=st.integers(0, 2 * 86400),
)
def test_ticks_are_those_of_a_look_at_every_minute(
    place: tuple[str, date], minute: str, hour: str, seconds: int
) -> None:
    zone, around = place
    expected = oracle(minute, hour, ZoneInfo(zone), around)
    begin = datetime(around.year, around.month, around.day, tzinfo=UTC) - timedelta(hours=23)
    after = begin + timedelta(seconds=seconds)
    until = begin + timedelta(days=2, hours=12)
    calendar: Calendar = Cron(f"{minute} {hour} * * *", zone)
    assert upcoming(calendar, after, until, 10_000) == [
        tick for tick in expected if after < tick <= until
    ]
