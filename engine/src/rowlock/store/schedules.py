"""What is asked about schedules: by people, and by workers that make them tick.

The logic stands in ``functions/schedules.sql``, ``explain_schedule.sql`` and ``ticks.sql``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from rowlock.store.connection import Statement
from rowlock.store.controls import Explanation


def _nothing(*_: Any) -> None:
    return None


# --- for people

_DEFINITION = (
    "workflow => %(workflow)s::text, cron => %(cron)s::text,"
    " every => make_interval(secs => %(every)s), timezone => %(timezone)s::text,"
    " input => %(input)s::jsonb, tick_argument => %(tick_argument)s::text,"
    " queue => %(queue)s::text, priority => %(priority)s::integer,"
    " jitter => make_interval(secs => %(jitter)s), overlap => %(overlap)s::text,"
    " catch_up => %(catch_up)s::text,"
    " catch_up_window => make_interval(secs => %(catch_up_window)s),"
    " start_at => %(start_at)s::timestamptz, end_at => %(end_at)s::timestamptz"
)
CREATE_SCHEDULE = Statement(
    "create_schedule",
    f"select rowlock.create_schedule(%(name)s, {_DEFINITION}, app => %(app)s)",
    _nothing,
)
UPDATE_SCHEDULE: Statement[bool] = Statement(
    "update_schedule",
    f"select rowlock.update_schedule(%(name)s, {_DEFINITION}, app => %(app)s)",
    bool,
)
UNSET_SCHEDULE: Statement[bool] = Statement(
    "unset_schedule", "select rowlock.unset_schedule(%(name)s, %(field)s, %(app)s)", bool
)
PAUSE_SCHEDULE: Statement[bool] = Statement(
    "pause_schedule", "select rowlock.pause_schedule(%(name)s, %(reason)s, %(app)s)", bool
)
RESUME_SCHEDULE: Statement[bool] = Statement(
    "resume_schedule", "select rowlock.resume_schedule(%(name)s, %(app)s)", bool
)
DELETE_SCHEDULE = Statement(
    "delete_schedule", "select rowlock.delete_schedule(%(name)s, %(app)s)", _nothing
)
TRIGGER_SCHEDULE: Statement[UUID] = Statement(
    "trigger_schedule",
    "select rowlock.trigger_schedule(%(name)s, %(app)s)",
    lambda run_id: UUID(str(run_id)),
)
BACKFILL: Statement[int] = Statement(
    "backfill", "select rowlock.backfill(%(name)s, %(since)s, %(until)s, %(app)s)", int
)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A schedule, and how it stands.

    ``status``: active, paused, removed (its code does not declare it any more), refused (see
    ``error``), ended. ``set_at``: when it was changed against its declaration.
    """

    app: str
    schedule: str
    workflow: str
    cron: str | None
    every: timedelta | None
    timezone: str
    status: str
    next_tick: datetime | None
    last_tick: datetime | None
    last_run_id: UUID | None
    fired: int
    skipped: int
    last_skipped: datetime | None
    unfinished: int
    overlap: str
    catch_up: str
    catch_up_window: timedelta | None
    jitter: timedelta
    start_at: datetime | None
    end_at: datetime | None
    queue: str | None
    priority: int | None
    input: dict[str, Any]
    tick_argument: str | None
    declared: bool
    set_at: datetime | None
    set_by: str | None
    paused_at: datetime | None
    paused_by: str | None
    reason: str | None
    removed_at: datetime | None
    error: str | None
    created_at: datetime
    created_by: str


SCHEDULES = Statement(
    "schedules",
    "select app, schedule, workflow, cron, every, timezone, status, next_tick, last_tick,"
    " last_run_id, fired, skipped, last_skipped, unfinished, overlap, catch_up, catch_up_window,"
    " jitter, start_at, end_at, queue, priority, input, tick_argument, declared, set_at, set_by,"
    " paused_at, paused_by, reason, removed_at, error, created_at, created_by"
    " from rowlock.schedules"
    " where (%(app)s::text is null or app = %(app)s)"
    " and (%(name)s::text is null or schedule = %(name)s) order by app, schedule",
    ScheduleRow,
)
EXPLAIN_SCHEDULE = Statement(
    "explain_schedule",
    "select * from rowlock.explain_schedule(%(name)s, %(app)s)",
    Explanation,
)


@dataclass(frozen=True, slots=True)
class BackfillRow:
    """A range of past ticks that was asked for; ``started``: how many have a run."""

    backfill_id: int
    app: str
    schedule: str
    since: datetime
    until: datetime
    started: int
    requested_at: datetime
    requested_by: str
    ended_at: datetime | None
    error: str | None


BACKFILLS = Statement(
    "backfills",
    "select backfill_id, app, schedule, since, until, started, requested_at, requested_by,"
    " ended_at, error from rowlock.backfills"
    " where (%(app)s::text is null or app = %(app)s) order by backfill_id",
    BackfillRow,
)

# --- for workers


@dataclass(frozen=True, slots=True)
class Due:
    """What a worker has to compute.

    ``kind`` look: how long nothing falls due, and whether this version declares. ``due``: a
    schedule whose ticks after ``base`` are asked for; ``backfill``: the same up to ``end_at``, of a
    range. ``now``: the database's time.
    """

    kind: str
    name: str | None
    id: int | None
    revision: int | None
    base: datetime | None
    now: datetime | None
    cron: str | None
    every: float | None
    timezone: str | None
    start_at: datetime | None
    end_at: datetime | None
    catch_up: str | None
    catch_up_window: float | None
    next_in: float | None
    is_current: bool | None


LOOK_AT_SCHEDULES = Statement(
    "look_at_schedules",
    "select * from rowlock.look_at_schedules(%(app)s, %(version)s, %(limit)s)",
    Due,
)
SCHEDULES_TO_PLACE = Statement(
    "schedules_to_place",
    "select * from rowlock.schedules_to_place(%(app)s, %(after)s, %(limit)s)",
    Due,
)
TICK: Statement[str] = Statement(
    "tick",
    "select rowlock.tick(%(app)s, %(name)s, %(revision)s, %(base)s::timestamptz,"
    " %(ticks)s::timestamptz[], %(next)s::timestamptz)",
    str,
)
BACKFILL_TICKS: Statement[str] = Statement(
    "backfill_ticks",
    "select rowlock.backfill_ticks(%(app)s, %(id)s, %(revision)s::integer, %(base)s::timestamptz,"
    " %(ticks)s::timestamptz[], %(is_done)s, %(error)s)",
    str,
)
SET_SCHEDULE_ASIDE = Statement(
    "set_schedule_aside",
    "select rowlock.set_schedule_aside(%(app)s, %(name)s, %(revision)s, %(error)s)",
    _nothing,
)
DECLARE_SCHEDULES: Statement[bool] = Statement(
    "declare_schedules",
    "select rowlock.declare_schedules(%(app)s, %(version)s, %(declared)s::jsonb)",
    bool,
)
