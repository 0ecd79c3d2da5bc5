"""What people ask who watch over runs: calls of the functions of control, and their rows.

The logic stands in ``functions/control.sql``, ``pause.sql``, ``versions.sql``, ``explain.sql``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rowlock.store.connection import Statement


@dataclass(frozen=True, slots=True)
class Explanation:
    """The one thing that holds a run back.

    ``status``: as in rowlock.runs; None for an unknown id. ``cause``: a word for programs, such as
    ``queue_paused``; ``message`` and ``hint`` (what to do) are for people; ``details``: the facts.
    """

    status: str | None
    cause: str
    message: str
    hint: str
    details: dict[str, Any]


EXPLAIN = Statement("explain", "select * from rowlock.explain(%(run)s)", Explanation)

REPRIORITISE: Statement[bool] = Statement(
    "reprioritise", "select rowlock.reprioritise(%(run)s, %(priority)s)", bool
)
RESCHEDULE: Statement[bool] = Statement(
    "reschedule", "select rowlock.reschedule(%(run)s, %(at)s)", bool
)
MOVE: Statement[bool] = Statement("move", "select rowlock.move(%(run)s, %(queue)s)", bool)


def _nothing(*_: Any) -> None:
    return None


DELETE = Statement("delete", "select rowlock.delete(%(run)s)", _nothing)
PAUSE: Statement[bool] = Statement(
    "pause", "select rowlock.pause(%(queue)s, %(workflow)s, %(app)s, %(reason)s)", bool
)
UNPAUSE: Statement[bool] = Statement(
    "unpause", "select rowlock.unpause(%(queue)s, %(workflow)s, %(app)s)", bool
)
SET_LIMIT: Statement[bool] = Statement(
    "set_limit",
    "select rowlock.set_limit(%(queue)s, %(concurrency)s, %(worker_concurrency)s, %(rate)s,"
    " %(partitions)s, %(partition_concurrency)s, %(partition_rate)s,"
    " make_interval(secs => %(ageing)s), %(weight)s::real, %(app)s)",
    bool,
)
UNSET_LIMIT: Statement[bool] = Statement(
    "unset_limit", "select rowlock.unset_limit(%(queue)s, %(name)s, %(app)s)", bool
)
RESET_LIMITS: Statement[bool] = Statement(
    "reset_limits", "select rowlock.reset_limits(%(queue)s, %(app)s)", bool
)
RETIRE: Statement[bool] = Statement("retire", "select rowlock.retire(%(app)s, %(version)s)", bool)
DRAIN_WORKER: Statement[bool] = Statement(
    "drain_worker", "select rowlock.drain_worker(%(worker)s)", bool
)


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, and its unfinished runs by state; ``paused_at``: since when nothing is claimed.

    Its limits, None where there is none; ``limits_set_at``: since when they are not as declared.
    """

    app: str
    queue: str
    ready: int
    scheduled: int
    running: int
    waiting: int
    blocked: int
    oldest_ready_at: datetime | None
    paused_at: datetime | None
    paused_by: str | None
    reason: str | None
    concurrency: int | None
    worker_concurrency: int | None
    rate: str | None
    partitions: bool
    partition_concurrency: int | None
    partition_rate: str | None
    ageing: timedelta | None
    weight: float
    limits_set_at: datetime | None
    limits_set_by: str | None
    declared: dict[str, Any] | None


QUEUES = Statement(
    "queues",
    "select app, queue, ready, scheduled, running, waiting, blocked, oldest_ready_at, paused_at,"
    " paused_by, reason, concurrency, worker_concurrency, rate, partitions, partition_concurrency,"
    " partition_rate, ageing, weight, limits_set_at, limits_set_by, declared"
    " from rowlock.queues where %(app)s::text is null or app = %(app)s"
    " order by app, queue",
    QueueRow,
)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process that holds a lease, or has lost it and was not cleared away yet."""

    worker_id: int
    app: str
    version: str | None
    host: str
    pid: int
    queues: list[str] | None
    slots: int
    running: int
    registered_at: datetime
    lease_until: datetime
    draining: bool
    alive: bool


WORKERS = Statement(
    "workers",
    "select worker_id, app, version, host, pid, queues, slots, running, registered_at,"
    " lease_until, draining, alive from rowlock.workers"
    " where %(app)s::text is null or app = %(app)s order by worker_id",
    WorkerRow,
)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A code version; ``current``: it takes the runs that are not pinned yet."""

    app: str
    version: str
    registered_at: datetime
    promoted_at: datetime | None
    retired_at: datetime | None
    current: bool
    unfinished: int
    workers: int


VERSIONS = Statement(
    "versions",
    "select app, version, registered_at, promoted_at, retired_at, current, unfinished, workers"
    " from rowlock.versions where %(app)s::text is null or app = %(app)s"
    " order by app, registered_at desc",
    VersionRow,
)
