"""The calls of our own functions, and what a row of each answer is.

The logic stands in ``functions/``; here is one line of SQL for each, beside its row type.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from rowlock.store.connection import Statement


def _nothing(*_: Any) -> None:
    return None


# --- a worker's life (functions/worker.sql)

SHOW_APP = Statement(
    "show_app",
    "select rowlock.show_app(%(app)s, %(queues)s::text[], %(workflows)s::text[],"
    " %(workflow_queues)s::text[])",
    _nothing,
)

DECLARE_QUEUES = Statement(
    "declare_queues",
    "select rowlock.declare_queues(%(app)s, %(version)s, %(queues)s::jsonb, %(only_new)s)",
    _nothing,
)
APPLY_DECLARATION = Statement(
    "apply_declaration", "select rowlock.apply_declaration(null)", _nothing
)

REGISTER_WORKER: Statement[int] = Statement(
    "register_worker",
    "select rowlock.register_worker(%(app)s, %(version)s, %(host)s, %(pid)s, %(slots)s,"
    " %(queues)s::text[], make_interval(secs => %(lease)s))",
    int,
)


@dataclass(frozen=True, slots=True)
class Owned:
    """What the database says a worker owns, at the moment of its heartbeat."""

    run_ids: list[UUID]
    epochs: list[int]
    cancels: str | None
    """Requests to cancel some of them: JSON objects (CancelRequest) by run."""


HEARTBEAT = Statement(
    "heartbeat",
    "select * from rowlock.heartbeat(%(worker)s, make_interval(secs => %(lease)s),"
    " %(doing)s::jsonb)",
    Owned,
)

DRAIN = Statement("drain", "select rowlock.drain(%(worker)s)", _nothing)
LEAVE: Statement[int] = Statement("leave", "select rowlock.leave(%(worker)s)", int)


@dataclass(frozen=True, slots=True)
class Tended:
    """What a round of tending did, and when the next timer falls due (seconds; may be past)."""

    promoted: int
    woken: int
    taken_over: int
    next_due_in: float | None


TEND = Statement("tend", "select * from rowlock.tend(%(limit)s, %(max_takeovers)s)", Tended)

# --- claiming and loading (functions/claim.sql)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that is this worker's now."""

    run_id: UUID
    epoch: int
    generation: int
    created_at: datetime
    workflow: str
    queue: str
    version: str
    key: str | None
    takeovers: int
    input: str
    attributes: str | None
    trace_context: str | None
    waited: float
    """Seconds from when it was due to this claim."""
    started_at: datetime
    """When it was claimed for the first time (the database's clock)."""
    age: float
    """Seconds since then."""
    deadline_in: float | None
    """Seconds from this claim to the deadline of its generation."""
    in_group: bool
    """Whether it is one of a group of children."""
    cancel: str | None
    """A request to cancel it: JSON of CancelRequest."""
    limited: bool = False
    """Whether its queue is limited: when it ends, there may be room for another."""
    again_in: float | None = None
    after: str | None = None
    memory: str | None = None
    """Of the last row, if that is no run: see Next."""


@dataclass(frozen=True, slots=True)
class Next:
    """What a claim says of the next one."""

    again_in: float | None = None
    """Seconds until it is worth while; 0: as soon as others are done; None: nothing is known."""
    after: str | None = None
    """The queue that this one came to; None: the next one begins with the first."""
    memory: str | None = None
    """What the database wants to be told again, whatever it is; None: nothing."""


CLAIM = Statement(
    "claim",
    "select * from rowlock.claim_next(%(worker)s, %(app)s, %(version)s, %(queues)s::text[],"
    " %(after)s, %(want)s, %(listening)s, p_memory => %(memory)s)",
    Claimed,
)


def claimed_from(answer: Any) -> Claimed:
    """A run that came with the journal's answer."""
    return msgspec.convert(answer, Claimed)


def parted(rows: list[Claimed]) -> tuple[list[Claimed], Next]:
    """The runs that a claim gave, and what it said of the next one."""
    runs = [row for row in rows if row.run_id is not None]
    last = rows[-1] if len(runs) < len(rows) else None
    return runs, Next() if last is None else Next(last.again_in, last.after, last.memory)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A recorded step (with a position), or something the run waits for (without)."""

    run_id: UUID
    place: str
    kind: str
    name: str | None
    position: int | None
    output: str | None
    error: str | None
    due_in: float | None
    on_run_id: UUID | None
    attempt: int


HISTORY = Statement(
    "history",
    "select * from rowlock.history(%(runs)s::uuid[], %(generations)s::int[])",
    Remembered,
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended."""

    run_id: UUID
    status: str
    workflow: str
    output: str | None
    error: str | None


OUTCOMES = Statement(
    "outcomes",
    "select o.run_id, o.status, o.workflow, o.output::text, o.error::text"
    "  from (select distinct unnest(%(runs)s::uuid[]) as id) as x"
    " cross join lateral (select * from rowlock.outcome as o"
    "        where o.run_id = x.id and o.status <> 'continued'"
    "        order by o.generation desc limit 1) as o"
    " where not exists (select from rowlock.task as t where t.run_id = x.id)",
    Ended,
)

UNKNOWN = "unknown"

ENDED_OR_UNKNOWN = Statement(
    "ended_or_unknown",
    f"select x.id as run_id, coalesce(o.status, '{UNKNOWN}') as status,"  # noqa: S608
    " coalesce(o.workflow, '') as workflow, o.output::text, o.error::text"
    "  from unnest(%(runs)s::uuid[]) as x (id)"
    "  left join lateral (select * from rowlock.outcome as o"
    "        where o.run_id = x.id and o.status <> 'continued'"
    "        order by o.generation desc limit 1) as o"
    "    on not exists (select from rowlock.task as t where t.run_id = x.id)"
    " where o.run_id is not null or not exists (select from rowlock.run as r where r.id = x.id)",
    Ended,
)
"""Of these runs, those that have ended, and those that there are none of (status UNKNOWN)."""

MISSING: Statement[UUID] = Statement(
    "missing",
    "select x.id from unnest(%(runs)s::uuid[]) as x (id)"
    " where not exists (select from rowlock.run as r where r.id = x.id)",
    lambda run_id: run_id,
)

# --- what runs say to each other


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was asked for: its value, or whether there will be none."""

    run_id: UUID
    name: str
    value: str | None
    ended: bool
    """The run has ended (or there is none): it sets nothing more."""


EVENTS = Statement(
    "events",
    "select x.run_id, x.name, e.value::text,"
    " not exists (select from rowlock.task as t where t.run_id = x.run_id) as ended"
    "  from unnest(%(runs)s::uuid[], %(names)s::text[]) as x (run_id, name)"
    "  left join rowlock.event as e on e.run_id = x.run_id and e.name = x.name",
    Told,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of a run with messages that nobody has received."""

    run_id: UUID
    topic: str


MAIL = Statement(
    "mail",
    "select x.run_id, x.topic"
    "  from unnest(%(runs)s::uuid[], %(topics)s::text[]) as x (run_id, topic)"
    " where exists (select from rowlock.message as m"
    "  where m.run_id = x.run_id and m.topic = x.topic and m.received_place is null)",
    Topic,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a stream; ``ask`` is the number (from 1) of what was asked."""

    ask: int
    offset: int
    value: str
    emitted_at: datetime


STREAMS = Statement(
    "streams",
    'select x.ask, s."offset", s.value::text, s.emitted_at'
    "  from unnest(%(runs)s::uuid[], %(streams)s::text[], %(offsets)s::bigint[])"
    "       with ordinality as x (run_id, stream, first, ask)"
    " cross join lateral ("
    "       select y.* from rowlock.stream_entry as y"
    '        where y.run_id = x.run_id and y.stream = x.stream and y."offset" >= x.first'
    '        order by y.run_id, y.stream, y."offset" limit %(limit)s) as s'
    ' order by x.ask, s."offset"',
    Entry,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A child of a group that has ended, by its number in the group (from 1)."""

    index: int
    run_id: UUID
    status: str
    workflow: str
    output: str | None
    error: str | None


ARRIVED: Statement[int] = Statement(
    "arrived",
    "select coalesce(sum(a.count), 0) from rowlock.arrival as a where a.name = %(name)s",
    int,
)

MEMBERS = Statement(
    "members",
    "select r.child_index as index, r.id as run_id, o.status, r.workflow, o.output::text,"
    " o.error::text"
    "  from rowlock.run as r"
    " cross join lateral (select * from rowlock.outcome as o"
    "        where o.run_id = r.id and o.status <> 'continued' order by o.generation limit 1) as o"
    " where r.parent_id = split_part(%(name)s, ':', 1)::uuid"
    "   and r.parent_generation = split_part(%(name)s, ':', 2)::int"
    "   and r.parent_place = split_part(%(name)s, ':', 3)"
    "   and r.child_index is not null"
    " order by r.child_index",
    Member,
)

# --- the journal (functions/journal.sql)


@dataclass(frozen=True, slots=True)
class Answer:
    """The journal's verdict on one entry; entries without an answer were written."""

    number: int
    verdict: str
    detail: Any


JOURNAL = Statement(
    "journal",
    "select * from rowlock.journal(%(worker)s, %(steps)s::json, %(asked)s, %(made)s, %(rows)s,"
    " %(emits)s::jsonb, %(waits)s::jsonb, %(finishes)s::jsonb, %(suspends)s::jsonb,"
    " %(releases)s::jsonb, %(groups)s::text[], %(retrying)s, %(version)s, %(memory)s::jsonb)",
    Answer,
)
"""With a version it claims as many runs as it lets go of limited ones (functions/hand_over.sql)."""

# --- who waits outside (functions/listeners.sql)

# A commit that says only this need not reach the disk before the next is told.
TELL = Statement(
    "tell",
    "select rowlock.tell(%(runs)s::uuid[]) from set_config('synchronous_commit', 'off', true)",
    _nothing,
)
LISTEN = Statement(
    "listen",
    "select rowlock.listen(%(listener)s, make_interval(secs => %(seconds)s))",
    _nothing,
)
UNLISTEN = Statement("unlisten", "select rowlock.unlisten(%(listener)s)", _nothing)

# --- transaction steps (functions/transactions.sql)

RECORD_TRANSACTION = Statement(
    "record_transaction",
    "select rowlock.record_transaction(%(run)s, %(generation)s, %(epoch)s, %(place)s,"
    " %(position)s, %(name)s, %(attempts)s, %(seconds)s, %(output)s::jsonb)",
    _nothing,
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """What stands at a place of the history."""

    position: int
    output: str | None
    error: str | None


RECORD_FAILED_TRANSACTION = Statement(
    "record_failed_transaction",
    "select * from rowlock.record_failed_transaction(%(run)s, %(generation)s, %(epoch)s, %(place)s,"
    " %(position)s, %(name)s, %(attempts)s, %(seconds)s, %(error)s::jsonb)",
    Recorded,
)

RECORDED = Statement(
    "recorded",
    "select s.position, s.output::text, s.error::text from rowlock.step as s"
    " where s.run_id = %(run)s and s.generation = %(generation)s and s.place = %(place)s",
    Recorded,
)

# --- what callers ask (functions/start.sql, functions/runs.sql, functions/search.sql)


def _id(run_id: Any) -> UUID:
    """A run's id, which some callers' drivers give as a kind of their own or as text."""
    return run_id if type(run_id) is UUID else UUID(str(run_id))


START: Statement[UUID] = Statement(
    "start",
    "select rowlock.start(%(workflow)s, %(input)s::jsonb, %(key)s, %(queue)s, %(app)s,"
    " %(priority)s, make_interval(secs => %(delay)s), %(start_at)s::timestamptz,"
    " %(attributes)s::jsonb, %(trace_context)s::jsonb, make_interval(secs => %(deadline)s),"
    " %(partition)s, %(start_before)s::timestamptz, %(dedup)s, %(on_duplicate)s, %(debounce)s,"
    " make_interval(secs => %(quiet)s), make_interval(secs => %(most)s), %(batch)s, %(size)s,"
    " make_interval(secs => %(wait)s))",
    _id,
)

START_MANY: Statement[UUID] = Statement(
    "start_many",
    "select * from rowlock.start_many(%(runs)s::jsonb, %(app)s)",
    _id,
)

START_CHILD: Statement[UUID] = Statement(
    "start_child",
    "select * from rowlock.start_many(jsonb_build_array(jsonb_build_object("
    "'workflow', %(workflow)s::text, 'input', %(input)s::jsonb, 'key', %(key)s::text,"
    " 'queue', %(queue)s::text, 'priority', coalesce(%(priority)s::int,"
    " (select priority from rowlock.run where id = %(parent)s::uuid)),"
    " 'attributes', %(attributes)s::jsonb, 'trace_context', %(trace_context)s::jsonb,"
    " 'detached', %(detached)s::boolean, 'deadline', make_interval(secs => %(deadline)s)::text,"
    " 'partition', %(partition)s::text,"
    " 'parent_id', %(parent)s::uuid, 'parent_generation', %(generation)s::int,"
    " 'parent_place', %(place)s::text)), %(app)s)",
    _id,
)

WORKFLOW_OF: Statement[str | None] = Statement(
    "workflow_of",
    "select (select workflow from rowlock.run where id = %(run)s)",
    lambda workflow: workflow,
)

SEND: Statement[int] = Statement(
    "send", "select rowlock.send(%(run)s, %(topic)s, %(value)s::jsonb, %(key)s)", int
)
SET_EVENT = Statement(
    "set_event", "select rowlock.set_event(%(run)s, %(name)s, %(value)s::jsonb)", _nothing
)
EMIT: Statement[int] = Statement(
    "emit", "select rowlock.emit(%(run)s, %(stream)s, %(value)s::jsonb)", int
)
CANCEL = Statement(
    "cancel",
    "select rowlock.cancel(%(run)s, make_interval(secs => %(grace)s), %(force)s, %(reason)s)",
    _nothing,
)
RETRY = Statement("retry", "select rowlock.retry(%(run)s)", _nothing)
REWIND = Statement(
    "rewind", "select rowlock.rewind(%(run)s, %(place)s, %(input)s::jsonb)", _nothing
)
FORK: Statement[UUID] = Statement(
    "fork",
    "select rowlock.fork(%(run)s, %(place)s, %(input)s::jsonb, %(outcomes)s::jsonb, %(version)s,"
    " %(children)s)",
    _id,
)
RESUME = Statement("resume", "select rowlock.resume(%(run)s)", _nothing)
PROMOTE = Statement("promote", "select rowlock.promote(%(app)s, %(version)s)", _nothing)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as lists and handles show it."""

    run_id: UUID
    app: str
    workflow: str
    queue: str
    key: str | None
    status: str
    version: str | None
    priority: int
    generation: int
    epoch: int
    created_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: int | None
    takeovers: int | None
    parent_id: UUID | None
    attributes: str | None
    input: str
    output: str | None
    error: str | None
    reason: str | None
    partition: str | None
    start_before: datetime | None
    dedup: str | None
    debounce: str | None
    batch: str | None


_RUN_COLUMNS = (
    "run_id, app, workflow, queue, key, status, version, priority, generation, epoch, created_at,"
    " nullif(due_at, 'infinity') as due_at, started_at, finished_at, worker_id, takeovers,"
    " parent_id, attributes::text, input::text, output::text, error::text, reason::text,"
    " partition, start_before, dedup, debounce, batch"
)

RUN = Statement(
    "run",
    f"select {_RUN_COLUMNS} from rowlock.runs where run_id = %(run)s",  # noqa: S608
    RunRow,
)

LIST_RUNS = Statement(
    "list_runs",
    f"select {_RUN_COLUMNS} from rowlock.list_runs(app => %(app)s, status => %(status)s,"  # noqa: S608
    " workflow => %(workflow)s, queue => %(queue)s, version => %(version)s, key => %(key)s,"
    " parent_id => %(parent)s,"
    " attributes => %(attributes)s::jsonb, created_after => %(created_after)s,"
    ' created_before => %(created_before)s, before => %(before)s, "limit" => %(limit)s)'
    " order by run_id desc",
    RunRow,
)


@dataclass(frozen=True, slots=True)
class StepRow:
    """A recorded step as people read it."""

    position: int
    place: str
    kind: str
    name: str
    status: str
    attempts: int
    recorded_at: datetime
    seconds: float
    epoch: int
    output: str | None
    error: str | None


STEPS = Statement(
    "steps",
    "select position, place, kind, name, status, attempts, recorded_at, seconds, epoch,"
    " output::text, error::text from rowlock.steps"
    " where run_id = %(run)s and generation = %(generation)s order by position",
    StepRow,
)

# --- retention (functions/retention.sql, functions/removal.sql)

HOUSE_DUE: Statement[float | None] = Statement(
    "house_due", "select rowlock.house_due()", lambda seconds: seconds
)


@dataclass(frozen=True, slots=True)
class HouseKept:
    """What a batch of the walk that all workers share removed, and when to come again."""

    removed: int
    keys: int
    next_in: float | None


KEEP_HOUSE = Statement("keep_house", "select * from rowlock.keep_house(%(limit)s)", HouseKept)


@dataclass(frozen=True, slots=True)
class Planned:
    """Runs of one kind that retention would remove now, or that stay although they are old."""

    app: str
    workflow: str
    outcome: str
    keep: timedelta
    """What the policy says."""
    archive: bool
    """Whether only those remove them who archive them first."""
    runs: int
    oldest: datetime | None
    """When the first of them ended."""
    held_back: dict[str, int] | None
    """How many stay, by reason; None: none does."""
    at_least: bool
    """Whether there may be more: the count stopped early."""


RETAIN_PLAN = Statement("retain_plan", "select * from rowlock.retain_plan(%(app)s)", Planned)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Runs that may leave, their rows locked; and how far the walk has come."""

    runs: list[UUID]
    lane: list[str] | None
    after_id: UUID | None
    done: bool


CHOOSE_RUNS = Statement(
    "choose_runs",
    "select * from rowlock.choose_runs(%(limit)s, %(app)s, %(archived)s, %(lane)s::text[],"
    " %(after_id)s::uuid)",
    Chosen,
)


@dataclass(frozen=True, slots=True)
class ArchivedRow:
    """A row of a run, as JSON."""

    run_id: UUID
    part: str
    row: str


ARCHIVED_ROWS = Statement(
    "archived_rows", "select * from rowlock.archived_rows(%(runs)s::uuid[])", ArchivedRow
)
REMOVE_CHOSEN = Statement(
    "remove_chosen", "select rowlock.remove_chosen(%(runs)s::uuid[])", _nothing
)
EXPIRE_KEYS: Statement[int] = Statement("expire_keys", "select rowlock.expire_keys(%(limit)s)", int)

# --- what the database holds (functions/fleet.sql)


@dataclass(frozen=True, slots=True)
class FleetRow:
    """All of it at one moment; each part a JSON array of objects, which fleet.py decodes."""

    at: datetime
    schema_level: int
    minimum_level: int
    tasks: str
    workers: str
    versions: str
    rates: str
    limits: str


FLEET = Statement(
    "fleet",
    "select statement_timestamp() as at,"
    " (select coalesce(max(number), 0) from rowlock.migration) as schema_level,"
    " (select coalesce(max(minimum_level), 0) from rowlock.migration) as minimum_level,"
    " (select coalesce(json_agg(x), '[]') from rowlock.fleet_tasks(%(app)s::text) as x)::text"
    " as tasks,"
    " (select coalesce(json_agg(x), '[]') from rowlock.fleet_workers(%(app)s::text) as x)::text"
    " as workers,"
    " (select coalesce(json_agg(x), '[]') from rowlock.fleet_versions(%(app)s::text) as x)::text"
    " as versions,"
    " (select coalesce(json_agg(x), '[]') from rowlock.fleet_rates(%(app)s::text) as x)::text"
    " as rates,"
    " (select coalesce(json_agg(x), '[]') from rowlock.fleet_limits(%(app)s::text) as x)::text"
    " as limits",
    FleetRow,
)

# --- tests (functions/journal.sql reads it)

SET_TEST_OFFSET = Statement(
    "set_test_offset",
    "select set_config('rowlock.test_offset', %(offset)s, false)",
    _nothing,
)
