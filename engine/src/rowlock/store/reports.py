"""What people look at: the statements of `rowlock show`, `history`, `top` and of completion.

All of them read only, and all are bounded: a run may have ten thousand steps, as many children and
more messages, and a person reads a screen of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from rowlock.store.connection import Statement
from rowlock.store.statements import StepRow

# --- names, for completion


@dataclass(frozen=True, slots=True)
class Name:
    """An app, a workflow or a queue."""

    kind: str
    app: str
    name: str


NAMES = Statement(
    "names",
    "select x.* from ("
    " select 'workflow' as kind, app, name from rowlock.workflow"
    " union all select 'queue', app, name from rowlock.queue"
    " union all select distinct 'app', app, app from rowlock.workflow) as x"
    " where x.kind = %(kind)s::text and (%(app)s::text is null or x.app = %(app)s::text)"
    " order by x.name limit 1000",
    Name,
)

# --- one run


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One history of a run; the last one may still go on."""

    generation: int
    reason: str
    """start, fork, resume, retry, rewind or continued."""
    place: str | None
    status: str
    version: str | None
    began_at: datetime
    finished_at: datetime | None
    input: str
    output: str | None
    error: str | None


GENERATIONS = Statement(
    "generations",
    "select x.generation, coalesce(g.reason, 'start') as reason, g.place,"
    " coalesce(o.status, t.state) as status,"
    " coalesce(nullif(o.version, ''), nullif(t.version, '')) as version,"
    " coalesce(g.created_at, r.created_at) as began_at, o.finished_at,"
    " coalesce(g.input, r.input)::text as input, o.output::text, o.error::text"
    "  from rowlock.run as r"
    " cross join lateral ("
    "       select y.generation from rowlock.outcome as y where y.run_id = r.id"
    "        union select z.generation from rowlock.task as z where z.run_id = r.id"
    "        order by generation desc limit %(limit)s) as x"
    "  left join rowlock.generation as g on g.run_id = r.id and g.generation = x.generation"
    "  left join rowlock.outcome as o on o.run_id = r.id and o.generation = x.generation"
    "  left join rowlock.task as t on t.run_id = r.id and t.generation = x.generation"
    " where r.id = %(run)s order by x.generation",
    GenerationRow,
)


@dataclass(frozen=True, slots=True)
class Aside:
    """What is known of a run beside RunInfo: its deadline, where it comes from, its worker."""

    now: datetime
    deadline_at: datetime | None
    forked_from: UUID | None
    takeovers: int | None
    worker_host: str | None
    worker_pid: int | None
    worker_lease_seconds: float | None
    """Until its lease ends; below 0: it has lost it."""
    doing: str | None
    """Steps that had been running for long at the worker's last heartbeat, as JSON."""


ASIDE = Statement(
    "aside",
    "select clock_timestamp() as now, r.deadline_at, r.forked_from, r.takeovers,"
    " w.host as worker_host, w.pid as worker_pid,"
    " extract(epoch from w.lease_until - clock_timestamp())::float8 as worker_lease_seconds,"
    " (select jsonb_agg(d.one)::text from jsonb_array_elements(w.doing) as d (one)"
    "   where d.one ->> 'run' = r.run_id::text) as doing"
    "  from rowlock.runs as r left join rowlock.worker as w on w.id = r.worker_id"
    " where r.run_id = %(run)s",
    Aside,
)


@dataclass(frozen=True, slots=True)
class CancelRow:
    """A request to cancel a run that has not ended yet."""

    requested_at: datetime
    grace_seconds: float
    force: bool
    reason: str | None


CANCEL_REQUEST = Statement(
    "cancel_request",
    "select c.requested_at, c.grace_s::float8 as grace_seconds, c.force, c.reason"
    "  from rowlock.cancel_request as c join rowlock.task as t on t.run_id = c.run_id"
    " where c.run_id = %(run)s and c.generation <= t.generation"
    " order by c.force desc, c.requested_at limit 1",
    CancelRow,
)


# The newest are chosen before the wide columns are touched.
LAST_STEPS = Statement(
    "last_steps",
    "with chosen as materialized ("
    "   select s.place from rowlock.step as s"
    "    where s.run_id = %(run)s and s.generation = %(generation)s"
    "    order by s.position desc limit %(limit)s)"
    " select s.position, s.place, s.kind, s.name, s.status, s.attempts, s.recorded_at, s.seconds,"
    " s.epoch, s.output::text, s.error::text"
    "  from chosen as c cross join lateral ("
    "       select x.* from rowlock.steps as x"
    "        where x.run_id = %(run)s and x.generation = %(generation)s and x.place = c.place"
    "       offset 0) as s"
    " order by s.position",
    StepRow,
)


@dataclass(frozen=True, slots=True)
class WaitRow:
    """Something a run waits for now."""

    place: str
    kind: str
    name: str | None
    on_run_id: UUID | None
    opened_at: datetime
    due_at: datetime | None
    attempts: int | None
    error: str | None
    children: int | None
    arrived: int | None


WAITS = Statement(
    "waits",
    "select place, kind, name, on_run_id, opened_at, due_at, attempts, error::text, children,"
    " arrived::int8 from rowlock.waits where run_id = %(run)s and generation = %(generation)s"
    " order by opened_at, place limit %(limit)s",
    WaitRow,
)


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message to a run."""

    id: int
    topic: str
    key: str | None
    value: str
    sent_at: datetime
    from_run_id: UUID | None
    received_generation: int | None
    received_place: str | None


MESSAGES = Statement(
    "messages",
    "with newest as materialized (select message_id from rowlock.messages"
    "  where run_id = %(run)s order by message_id desc limit %(limit)s)"
    " select m.message_id as id, m.topic, m.key, m.value::text, m.sent_at, m.from_run_id,"
    " m.received_generation, m.received_place"
    "  from newest as n join rowlock.messages as m"
    "    on m.run_id = %(run)s and m.message_id = n.message_id order by m.message_id",
    MessageRow,
)


@dataclass(frozen=True, slots=True)
class ChildRow:
    """A child of one of several runs."""

    parent_id: UUID
    place: str | None
    generation: int | None
    """Of the parent, when it started this child."""
    index: int | None
    id: UUID
    workflow: str
    status: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


CHILDREN = Statement(
    "children",
    "select p.id as parent_id, c.parent_place as place, c.parent_generation as generation,"
    " c.child_index as index, c.id, c.workflow, v.status, c.created_at, v.started_at, v.finished_at"
    "  from unnest(%(parents)s::uuid[]) as p (id)"
    " cross join lateral ("
    "       select y.* from (select x.* from rowlock.run as x where x.parent_id = p.id"
    "                         limit %(look)s) as y"
    "        order by y.id limit %(limit)s) as c"
    " cross join lateral (select r.status, r.started_at, r.finished_at from rowlock.runs as r"
    "       where r.run_id = c.id offset 0) as v"
    " order by c.id",
    ChildRow,
)


@dataclass(frozen=True, slots=True)
class Totals:
    """How many there are, each counted up to a limit."""

    steps: int
    messages: int


TOTALS = Statement(
    "totals",
    "select (select count(*) from (select from rowlock.step as s where s.run_id = %(run)s"
    "          and s.generation = %(generation)s limit %(limit)s) as x) as steps,"
    " (select count(*) from (select from rowlock.message as m where m.run_id = %(run)s"
    "         limit %(limit)s) as x) as messages",
    Totals,
)


@dataclass(frozen=True, slots=True)
class Family:
    """How many children a run has, counted up to a limit."""

    parent_id: UUID
    children: int


FAMILIES = Statement(
    "families",
    "select p.id as parent_id, n.children from unnest(%(parents)s::uuid[]) as p (id)"
    " cross join lateral (select count(*) as children from ("
    "       select from rowlock.run as c where c.parent_id = p.id limit %(limit)s) as x) as n"
    " where n.children > 0",
    Family,
)

# --- the fleet, live


@dataclass(frozen=True, slots=True)
class TopWorker:
    """A worker process, and what it is at for long."""

    id: int
    app: str
    version: str | None
    host: str
    pid: int
    queues: list[str] | None
    slots: int
    running: int
    draining: bool
    lease_seconds: float
    """Until its lease ends; below 0: it has lost it."""
    doing: str | None


TOP_WORKERS = Statement(
    "top_workers",
    "select w.id, w.app, nullif(w.version, '') as version, w.host, w.pid, w.queues, w.slots,"
    " (select count(*) from rowlock.task as t where t.worker_id = w.id and t.state = 'running')"
    " as running,"
    " w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id)"
    " as draining,"
    " extract(epoch from w.lease_until - clock_timestamp())::float8 as lease_seconds,"
    " w.doing::text as doing"
    "  from rowlock.worker as w where %(app)s::text is null or w.app = %(app)s::text"
    " order by w.id limit 1000",
    TopWorker,
)


@dataclass(frozen=True, slots=True)
class TopWait:
    """What a sleeping run waits for."""

    run_id: UUID
    app: str
    workflow: str
    queue: str
    place: str
    kind: str
    name: str | None
    on_run_id: UUID | None
    opened_at: datetime
    due_at: datetime | None


TOP_WAITS = Statement(
    "top_waits", "select * from rowlock.oldest_waits(%(limit)s, %(app)s::text)", TopWait
)


@dataclass(frozen=True, slots=True)
class Pace:
    """Counters of the whole database, which only differences of tell anything."""

    at: datetime
    runs: int
    steps: int
    outcomes: int


# PostgreSQL's own statistics: free, up to a second old, and of all apps together.
PACE = Statement(
    "pace",
    "select clock_timestamp() as at,"
    " coalesce(pg_stat_get_tuples_inserted('rowlock.run'::regclass), 0) as runs,"
    " coalesce(pg_stat_get_tuples_inserted('rowlock.step'::regclass), 0) as steps,"
    " coalesce(pg_stat_get_tuples_inserted('rowlock.outcome'::regclass), 0) as outcomes",
    Pace,
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """How many runs of a queue were created since the last look."""

    app: str
    queue: str
    runs: int


# As in functions/fleet.sql: ids are UUIDv7, so runs since a moment are a range of the key.
ARRIVALS = Statement(
    "arrivals",
    "select x.app, x.queue, count(*) as runs from ("
    " select r.app, r.queue from rowlock.run as r"
    "  where r.id >= (lpad(to_hex((extract(epoch from %(since)s::timestamptz) * 1000)::bigint),"
    "                      12, '0') || repeat('0', 20))::uuid"
    "    and r.id < (lpad(to_hex((extract(epoch from %(until)s::timestamptz) * 1000)::bigint),"
    "                     12, '0') || repeat('0', 20))::uuid"
    "  limit %(limit)s) as x"
    " where %(app)s::text is null or x.app = %(app)s::text group by 1, 2",
    Arrival,
)


@dataclass(frozen=True, slots=True)
class PauseRow:
    """A queue, a workflow, or with neither an app, whose runs are not claimed."""

    app: str
    queue: str | None
    workflow: str | None
    paused_at: datetime
    paused_by: str
    reason: str | None


PAUSES = Statement(
    "pauses",
    "select app, queue, workflow, paused_at, paused_by, reason from rowlock.pauses"
    " where %(app)s::text is null or app = %(app)s::text order by paused_at limit 100",
    PauseRow,
)
