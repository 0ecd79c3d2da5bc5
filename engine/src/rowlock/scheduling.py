"""How a schedule is made: its options, and what they are in SQL.

Reads: workflows and their signatures.  Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, TypeVar

from rowlock.errors import ConfigurationError, InvalidValue, MisplacedCall
from rowlock.model.commands import seconds_of
from rowlock.model.cron import BadSchedule, Cron, calendar_of, upcoming, zone_of
from rowlock.model.envelope import Codecs
from rowlock.model.inputs import Arguments
from rowlock.model.schedules import CATCH_UPS, OVERLAPS, CatchUp, Declaration, Overlap
from rowlock.starting import aware
from rowlock.store.schedules import ScheduleRow
from rowlock.workflow import Workflow

T = TypeVar("T")

When = str | timedelta
"""A cron expression, or an interval."""

TICK = "tick"
"""The parameter that is given the time of the tick, if the workflow has it."""
MOST_JITTER_S = 365 * 86400
_A_TICK = '"2026-01-31T00:00:00Z"'


class ScheduleOptions(TypedDict, total=False):
    """How a schedule ticks, and what becomes of its ticks.

    ``timezone``: in which cron is read (UTC). ``jitter``: seconds or timedelta; how much later than
    its tick a run may begin, at random. ``overlap``: at a tick while a run is unfinished ``skip``
    it (the default), ``queue`` it, ``cancel_running``, or ``allow`` both. ``catch_up``: of the
    ticks for which no worker was there make up for ``none``, the ``last`` (the default) or ``all``,
    within ``window`` (any age). ``start``, ``end``: no tick before, none after (aware). ``queue``,
    ``priority``: of its runs.
    """

    timezone: str | None
    jitter: timedelta | float | None
    overlap: Overlap | None
    catch_up: CatchUp | None
    window: timedelta | float | None
    start: datetime | None
    end: datetime | None
    queue: str | None
    priority: int | None


ScheduleField = Literal["tick", "queue", "priority", "jitter", "window", "start", "end"]
"""What can be taken away from a schedule."""
FIELDS: Mapping[ScheduleField, str] = {
    "tick": "tick_argument",
    "queue": "queue",
    "priority": "priority",
    "jitter": "jitter",
    "window": "catch_up_window",
    "start": "start_at",
    "end": "end_at",
}
"""And how SQL calls it."""


def declaration(
    name: str,
    when: When,
    workflow: Workflow[..., Any] | str,
    args: Mapping[str, Any] | None,
    tick: str | None,
    codecs: Codecs | None,
    options: ScheduleOptions,
) -> Declaration:
    """A whole schedule. Raises ConfigurationError, InvalidValue."""
    cron, every_s = cron_or_seconds(when)
    given = dict(args or {})
    if isinstance(workflow, str):
        text = Arguments(workflow, given).stored(codecs)
    else:
        inputs = workflow.code.inputs
        if tick is None and inputs.takes(TICK) and TICK not in given:
            tick = TICK
        try:
            text = inputs.bind_some(given, tick)
            if tick is not None and inputs.takes(tick):
                inputs.check_one(tick, _A_TICK)
        except (MisplacedCall, InvalidValue) as error:
            raise ConfigurationError(
                f"schedule {name} can't start workflow {workflow.name}: {error} Its args must fit, "
                "and a parameter for the tick must be a datetime."
            ) from error
    start, end = options.get("start"), options.get("end")
    found = Declaration(
        name=name,
        workflow=workflow if isinstance(workflow, str) else workflow.name,
        cron=cron,
        every_s=every_s,
        timezone=_or(options.get("timezone"), "UTC"),
        input=text,
        tick_argument=tick,
        queue=options.get("queue"),
        priority=options.get("priority"),
        jitter_s=_or(_seconds(options.get("jitter")), 0.0),
        overlap=_or(options.get("overlap"), "skip"),
        catch_up=_or(options.get("catch_up"), "last"),
        catch_up_window_s=_seconds(options.get("window")),
        start_at=None if start is None else aware(start, "start"),
        end_at=None if end is None else aware(end, "end"),
    )
    if why := _wrong(found):
        raise ConfigurationError(f"schedule {name} can't work: {why}. Nothing was declared.")
    return found


def _wrong(one: Declaration) -> str | None:
    try:
        one.calendar()
    except BadSchedule as error:
        return str(error)
    if one.cron is None and (why := _no_zone_for_an_interval(one.timezone)):
        return why
    if not 0 <= one.jitter_s <= MOST_JITTER_S:
        return f"jitter is {one.jitter_s:.15g} s, but must be between 0 s and 365 days"
    if one.overlap not in OVERLAPS:
        return f"overlap is {one.overlap!r}, but must be {', '.join(OVERLAPS)}"
    if one.catch_up not in CATCH_UPS:
        return f"catch_up is {one.catch_up!r}, but must be {', '.join(CATCH_UPS)}"
    if one.catch_up_window_s is not None and one.catch_up_window_s <= 0:
        return f"window is {one.catch_up_window_s:g} s, but must be above 0"
    if one.priority is not None and not 0 <= one.priority <= 100:
        return f"priority is {one.priority}, but must be between 0 (first) and 100 (last)"
    if one.start_at is not None and one.end_at is not None and one.end_at <= one.start_at:
        return "it ends before it starts"
    return None


def _no_zone_for_an_interval(timezone: str) -> str | None:
    if timezone == "UTC":  # the default, and true: without a start it is counted from 1970 in UTC
        return None
    return (
        f"timezone is {timezone[:100]!r}, but an interval counts seconds that pass, the same in "
        "every zone. Leave the timezone out, or give a cron expression"
    )


def creation(one: Declaration, app: str) -> dict[str, Any]:
    """The parameters of CREATE_SCHEDULE."""
    return {
        "app": app,
        "name": one.name,
        "workflow": one.workflow,
        "cron": one.cron,
        "every": one.every_s,
        "timezone": one.timezone,
        "input": one.input,
        "tick_argument": one.tick_argument,
        "queue": one.queue,
        "priority": one.priority,
        "jitter": one.jitter_s,
        "overlap": one.overlap,
        "catch_up": one.catch_up,
        "catch_up_window": one.catch_up_window_s,
        "start_at": one.start_at,
        "end_at": one.end_at,
    }


def change(
    name: str,
    when: When | None,
    workflow: str | None,
    args: Mapping[str, Any] | None,
    tick: str | None,
    codecs: Codecs | None,
    options: ScheduleOptions,
    app: str,
) -> dict[str, Any]:
    """The parameters of UPDATE_SCHEDULE; what is None stays. Raises ConfigurationError."""
    cron, every_s = (None, None) if when is None else cron_or_seconds(when)
    zone = options.get("timezone")
    try:
        if cron is not None:
            Cron(cron, _or(zone, "UTC"))
        elif zone is not None:
            zone_of(zone)
    except BadSchedule as error:
        raise ConfigurationError(f"schedule {name}: {error}. Nothing was changed.") from None
    if every_s is not None and zone is not None and (why := _no_zone_for_an_interval(zone)):
        raise ConfigurationError(f"schedule {name}: {why}. Nothing was changed.")
    start, end = options.get("start"), options.get("end")
    return {
        "app": app,
        "name": name,
        "workflow": workflow,
        "cron": cron,
        "every": every_s,
        "timezone": zone,
        "input": None if args is None else Arguments(name, args).stored(codecs),
        "tick_argument": tick,
        "queue": options.get("queue"),
        "priority": options.get("priority"),
        "jitter": _seconds(options.get("jitter")),
        "overlap": options.get("overlap"),
        "catch_up": options.get("catch_up"),
        "catch_up_window": _seconds(options.get("window")),
        "start_at": None if start is None else aware(start, "start"),
        "end_at": None if end is None else aware(end, "end"),
    }


def cron_or_seconds(when: When) -> tuple[str | None, int | None]:
    """One of both. Raises ConfigurationError for an interval of parts of a second."""
    if isinstance(when, str):
        return when, None
    if not isinstance(when, timedelta):
        raise ConfigurationError(
            f"a schedule ticks at {when!r}, but that must be a cron expression, such as "
            "'0 3 * * *', or a timedelta"
        )
    seconds = when.total_seconds()
    if seconds < 1 or seconds != int(seconds):
        raise ConfigurationError(
            f"a schedule's interval is {when}, but must be whole seconds, at least one"
        )
    return None, int(seconds)


def next_ticks(row: ScheduleRow, count: int = 5) -> list[datetime]:
    """The next ticks of a schedule, in UTC, if nothing changes; none if it does not tick."""
    if row.status not in ("active", "paused"):
        return []
    try:
        calendar = calendar_of(
            row.cron,
            None if row.every is None else row.every.total_seconds(),
            row.timezone,
            row.start_at,
        )
    except BadSchedule:
        return []
    begin = row.next_tick
    if begin is None:
        begin = datetime.now(UTC)
        if row.start_at is not None:
            begin = max(begin, row.start_at)
    after = begin.astimezone(UTC) - timedelta(microseconds=1)
    return upcoming(calendar, after, row.end_at, count)


def _or(given: T | None, default: T) -> T:
    """What is given; an empty text is given too, and refused as such."""
    return default if given is None else given


def _seconds(duration: timedelta | float | None) -> float | None:
    return None if duration is None else seconds_of(duration)
