"""What a schedule is, and which of its ticks are to be taken now.

Pure: rows and the database's time come in, ticks go out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, get_args

import msgspec

from rowlock.model.cron import BadSchedule, Calendar, calendar_of, latest, upcoming

Overlap = Literal["skip", "queue", "cancel_running", "allow"]
CatchUp = Literal["none", "last", "all"]
OVERLAPS: tuple[str, ...] = get_args(Overlap)
CATCH_UPS: tuple[str, ...] = get_args(CatchUp)

FRESH = timedelta(seconds=30)
"""A tick that is younger was not missed: workers may just have changed hands."""
BATCH = 100
"""Ticks that are taken in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A schedule as code declares it; what is None is left to the database's defaults."""

    name: str
    workflow: str
    cron: str | None
    every_s: int | None
    timezone: str
    input: str
    tick_argument: str | None
    queue: str | None
    priority: int | None
    jitter_s: float
    overlap: Overlap
    catch_up: CatchUp
    catch_up_window_s: float | None
    start_at: datetime | None
    end_at: datetime | None

    def stored(self) -> dict[str, Any]:
        """As the database wants it: columns of the table by name."""
        return {
            "name": self.name,
            "workflow": self.workflow,
            "cron": self.cron,
            "every": _seconds(self.every_s),
            "timezone": self.timezone,
            "input": msgspec.Raw(self.input.encode()),
            "tick_argument": self.tick_argument,
            "queue": self.queue,
            "priority": self.priority,
            "jitter": _seconds(self.jitter_s),
            "overlap": self.overlap,
            "catch_up": self.catch_up,
            "catch_up_window": _seconds(self.catch_up_window_s),
            "start_at": self.start_at,
            "end_at": self.end_at,
        }

    def calendar(self) -> Calendar:
        """When it ticks. Raises BadSchedule."""
        return calendar_of(self.cron, self.every_s, self.timezone, self.start_at)


def declared(declarations: tuple[Declaration, ...]) -> str:
    """JSON of them all."""
    return msgspec.json.encode([one.stored() for one in declarations]).decode()


class Row(Protocol):
    """A schedule that is due, as read from the database."""

    @property
    def base(self) -> datetime | None: ...
    @property
    def now(self) -> datetime | None: ...
    @property
    def cron(self) -> str | None: ...
    @property
    def every(self) -> float | None: ...
    @property
    def timezone(self) -> str | None: ...
    @property
    def start_at(self) -> datetime | None: ...
    @property
    def end_at(self) -> datetime | None: ...
    @property
    def catch_up(self) -> str | None: ...
    @property
    def catch_up_window(self) -> float | None: ...


def due_ticks(row: Row) -> tuple[list[datetime], datetime | None]:
    """The ticks to take now, in order, and the one after them. Raises BadSchedule.

    Those of the last half minute are taken in any case. Of older ones ``none`` are, the ``last``
    if no fresh one comes after it, or ``all``; never one that is older than the window.
    """
    assert row.base is not None
    assert row.now is not None
    calendar = _calendar(row)
    base, now = row.base, row.now
    if row.start_at is not None:
        base = max(base, row.start_at - timedelta(microseconds=1))
    until = now if row.end_at is None else min(now, row.end_at)
    oldest = base
    if row.catch_up_window is not None:
        oldest = max(base, now - timedelta(seconds=row.catch_up_window))
    if row.catch_up != "all":
        oldest = max(oldest, min(now - FRESH, until))
    ticks = upcoming(calendar, oldest, until, BATCH)
    if not ticks and row.catch_up == "last":
        last = latest(calendar, base, until)
        if last is not None and not _is_too_old(last, now, row.catch_up_window):
            ticks = [last]
    following = calendar.after(ticks[-1] if ticks else max(base, until))
    if following is not None and row.end_at is not None and following > row.end_at:
        following = None
    return ticks, following


def range_ticks(row: Row) -> tuple[list[datetime], bool]:
    """The next ticks of a range to be backfilled, and whether they are its last."""
    assert row.base is not None
    assert row.end_at is not None
    end = row.end_at - timedelta(microseconds=1)  # the end itself is not in it
    ticks = upcoming(_calendar(row), row.base, end, BATCH)
    return ticks, len(ticks) < BATCH


def _calendar(row: Row) -> Calendar:
    return calendar_of(row.cron, row.every, row.timezone or "UTC", row.start_at)


def _is_too_old(tick: datetime, now: datetime, window_s: float | None) -> bool:
    return window_s is not None and tick < now - timedelta(seconds=window_s)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value} seconds"


__all__ = [
    "CATCH_UPS",
    "OVERLAPS",
    "BadSchedule",
    "CatchUp",
    "Declaration",
    "Overlap",
    "declared",
    "due_ticks",
    "range_ticks",
]
