"""When a schedule ticks: pure calendar arithmetic, from a cron expression or an interval.

The fields of an expression are read and walked by cronsim, on wall-clock times without a zone; what
the wall clock does when its zone changes is decided here, in one place for every expression:

* at fixed times (neither minute nor hour begins with ``*``): a time that the clocks jump over ticks
  when they have jumped, a time that comes twice ticks the first time. Each day has its tick.
* otherwise (``*/15 * * * *``) ticks follow the time that passes: what is jumped over does not tick,
  what comes twice ticks twice.

Intervals count seconds that pass, whatever clocks do.

Reads: the time zones of the system, else of the package tzdata.  Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
_FORM = (
    "An expression has five fields, minute hour day month weekday, such as '0 3 * * *', or six "
    "with seconds in front"
)
_FIELDS = (
    ("second", "from 0 to 59"),
    ("minute", "from 0 to 59"),
    ("hour", "from 0 to 23"),
    ("day of month", "from 1 to 31, L or LW"),
    ("month", "from 1 to 12 or JAN to DEC"),
    ("day of week", "from 0 to 7 or SUN to SAT"),
)
_SPANS = (
    *(timedelta(minutes=1), timedelta(hours=1), timedelta(days=1), timedelta(days=32)),
    *(timedelta(days=366), timedelta(days=4 * 1461), timedelta(days=50 * 366)),
)


class BadSchedule(ValueError):
    """An expression, an interval or a zone that no ticks can be computed of."""


class Calendar(Protocol):
    """Whatever ticks."""

    def after(self, moment: datetime) -> datetime | None:
        """The first tick after a moment (both aware, in UTC); None: there is none any more."""
        ...


@dataclass(frozen=True, slots=True)
class Interval:
    """Ticks every so often, counted from an anchor."""

    seconds: int
    anchor: datetime = EPOCH

    def __post_init__(self) -> None:
        if self.seconds < 1:
            raise BadSchedule(f"an interval of {self.seconds} s is less than a second")

    def after(self, moment: datetime) -> datetime | None:
        """See Calendar."""
        passed = (moment - self.anchor) // timedelta(seconds=self.seconds)
        try:
            return self.anchor + (passed + 1) * timedelta(seconds=self.seconds)
        except OverflowError:
            return None


class Cron:
    """Ticks as an expression says, in a time zone."""

    def __init__(self, expression: str, timezone: str = "UTC") -> None:
        self.expression = expression
        self.zone = zone_of(timezone)
        fields = expression.split()
        try:
            CronSim(expression, datetime(2000, 1, 1))
        except CronSimError:
            raise BadSchedule(f"cron {expression[:100]!r} {_fault(fields)}") from None
        minute, hour = fields[-5], fields[-4]
        self._is_fixed = not minute.startswith("*") and not hour.startswith("*")

    def after(self, moment: datetime) -> datetime | None:
        """See Calendar."""
        local = moment.astimezone(self.zone)
        for tick in self._walls(local):
            if not _is_jumped_over(tick):
                utc = tick.astimezone(UTC)
            elif self._is_fixed:
                utc = self._after_jump(tick).astimezone(UTC)
            else:
                continue
            if utc > moment:
                return utc
        return None

    def _walls(self, local: datetime) -> Iterator[datetime]:
        """What the expression says the clock on the wall shows, from a moment on.

        In the zone and with fold 0. Where the clocks go back while it ticks by the time that
        passes, the repeated hour comes again, with fold 1.
        """
        wall = local.replace(tzinfo=None, fold=0)
        if not self._is_fixed and (back := self._repeats_from(local)) is not None:
            begin, end = back
            if local.fold == 0:
                yield from self._some(wall, end, fold=0)
                wall = begin - _SECOND
            yield from self._some(wall, end, fold=1)
            wall = end - _SECOND
        for tick in _ticks(self.expression, wall):
            yield tick.replace(tzinfo=self.zone)

    def _some(self, wall: datetime, end: datetime, *, fold: int) -> Iterator[datetime]:
        for tick in _ticks(self.expression, wall):
            if tick >= end:
                return
            yield tick.replace(tzinfo=self.zone, fold=fold)

    def _repeats_from(self, local: datetime) -> tuple[datetime, datetime] | None:
        """The times on the wall that come twice around this moment: from, and up to."""
        first, second = local.replace(fold=0), local.replace(fold=1)
        by = first.utcoffset(), second.utcoffset()
        assert by[0] is not None
        assert by[1] is not None
        if by[0] <= by[1]:
            return None
        # Offsets change on the minute, at least in what anybody schedules.
        wall = local.replace(tzinfo=None, fold=0, second=0, microsecond=0)
        while self._comes_twice(wall - _MINUTE):
            wall -= _MINUTE
        return wall, wall + (by[0] - by[1])

    def _comes_twice(self, wall: datetime) -> bool:
        first = wall.replace(tzinfo=self.zone, fold=0).utcoffset()
        second = wall.replace(tzinfo=self.zone, fold=1).utcoffset()
        assert first is not None
        assert second is not None
        return first > second

    def _after_jump(self, tick: datetime) -> datetime:
        """The moment when the clocks have jumped over a time."""
        wall = tick.replace(tzinfo=None, second=0)
        while _is_jumped_over(wall.replace(tzinfo=self.zone)):
            wall += _MINUTE
        return wall.replace(tzinfo=self.zone)


def calendar_of(
    cron: str | None, every_s: float | None, timezone: str, anchor: datetime | None
) -> Calendar:
    """What a schedule's row says. Raises BadSchedule."""
    if cron is not None:
        return Cron(cron, timezone)
    return Interval(int(every_s or 0), EPOCH if anchor is None else anchor)


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name. Raises BadSchedule."""
    if not name:
        raise BadSchedule("the time zone is empty; names are like 'Europe/Berlin' or 'UTC'")
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise BadSchedule(f"time zone {name[:100]!r} can't be read: {error}") from None
    except KeyError:
        raise BadSchedule(
            f"there is no time zone {name[:100]!r}; names are like 'Europe/Berlin' or 'UTC'"
        ) from None


def upcoming(
    calendar: Calendar, after: datetime, until: datetime | None, count: int
) -> list[datetime]:
    """The next ticks: after a moment, not after another, so many at most."""
    found: list[datetime] = []
    while len(found) < count:
        tick = calendar.after(after)
        if tick is None or (until is not None and tick > until):
            break
        found.append(tick)
        after = tick
    return found


def latest(calendar: Calendar, after: datetime, until: datetime) -> datetime | None:
    """The last tick after a moment and not after another; None: there is none in between.

    Looked for in spans that grow from the end: there may be millions of ticks in between.
    """
    for span in _SPANS:
        begin = max(after, until - span)
        last = None
        tick = calendar.after(begin)
        while tick is not None and tick <= until:
            last = tick
            tick = calendar.after(tick)
        if last is not None or begin == after:
            return last
    return None


def _fault(fields: list[str]) -> str:
    """What is wrong with an expression that can't be read or, if each field can, never happens."""
    if len(fields) not in (5, 6):
        count = f"it has {len(fields)} fields" if fields else "it is empty"
        return f"can't be read: {count}. {_FORM}"
    for n, field in enumerate(fields, 6 - len(fields)):
        name, bounds = _FIELDS[n]
        for term in field.split(","):
            if not term or not _is_field(n, term):
                shown = repr(term[:50]) if term else "empty after a comma too many"
                return f"can't be read: its {name} is {shown}, but must be {bounds}. {_FORM}"
    return (
        f"never happens: no month of {fields[-2][:50]!r} has a day {fields[-3][:50]!r}. Take a day "
        "that is there, such as L for the last one of any month"
    )


def _is_field(n: int, term: str) -> bool:
    """Whether a term can be the n-th field, whatever the others are."""
    alone = ["*"] * 6
    alone[n] = term
    try:
        CronSim(" ".join(alone), datetime(2000, 1, 1))
    except CronSimError:
        return False
    return True


def _ticks(expression: str, wall: datetime) -> Iterator[datetime]:
    """Times on the wall after this one."""
    try:
        yield from CronSim(expression, wall)
    except (OverflowError, ValueError):
        return  # the calendar's end


def _is_jumped_over(local: datetime) -> bool:
    return local.astimezone(UTC).astimezone(local.tzinfo) != local
