"""Starts, watches and mends runs, from async code.

Every operation is a call of the database function of the same name: what the client can do, SQL
can do. A start may ride in the caller's own transaction, whatever his driver.

Reads and writes: store's START, START_MANY, LIST_RUNS, ENDED_OR_UNKNOWN, EVENTS, STREAMS,
DECLARE_QUEUES, SHOW_APP, QUEUES, WORKERS, VERSIONS; what the handles do, see client/run.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from itertools import repeat
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack, overload
from uuid import UUID

import msgspec

from rowlock.client import operations
from rowlock.client.arguments import check, run_id_of
from rowlock.client.connections import rows_on
from rowlock.client.news import News, Watch
from rowlock.client.operations import LimitName, Limits, Operation
from rowlock.client.run import ANY, Run, RunInfo
from rowlock.client.together import Together
from rowlock.errors import (
    ConfigurationError,
    Disconnected,
    EventNeverSet,
    MisplacedCall,
    Refused,
    RowlockError,
    UnknownRun,
)
from rowlock.model.code import Code
from rowlock.model.envelope import Chain, Codec, Codecs
from rowlock.model.failure import ErrorRegistry
from rowlock.model.inputs import Arguments
from rowlock.model.states import Outcome, TaskState
from rowlock.scheduling import ScheduleField, ScheduleOptions, When
from rowlock.settings import Settings
from rowlock.starting import (
    ATTRIBUTES,
    StartOptions,
    aware,
    refuse_unknown,
    start_parameters,
)
from rowlock.store.connection import Backoff, SessionPool, Statement
from rowlock.store.controls import (
    QUEUES,
    VERSIONS,
    WORKERS,
    Explanation,
    QueueRow,
    VersionRow,
    WorkerRow,
)
from rowlock.store.schedules import (
    BACKFILLS,
    EXPLAIN_SCHEDULE,
    SCHEDULES,
    BackfillRow,
    ScheduleRow,
)
from rowlock.store.statements import (
    DECLARE_QUEUES,
    ENDED_OR_UNKNOWN,
    EVENTS,
    LIST_RUNS,
    SHOW_APP,
    START,
    START_MANY,
    STREAMS,
    UNKNOWN,
    Ended,
    Entry,
    Told,
)
from rowlock.workflow import Workflow, WorkflowCall

R = TypeVar("R")
T = TypeVar("T")

MOST_ENTRIES = 1000
MOST_SESSIONS = 8
CHUNK = 10_000
"""Of many runs to start, in one statement."""
BREATH = 250
READ_TRIES = 6
IS_OPEN = (
    "the client is open already. Share it, or make another: app.client(), Client(…). When it is "
    "closed it can be opened again."
)


class RunFilters(TypedDict, total=False):
    """Which runs to list.

    ``attributes``: runs whose attributes contain these. ``created_after``, ``created_before``:
    aware. ``before``: the last id of the page before this one. ``limit``: 1 to 1,000 (50).
    """

    status: str | None
    workflow: str | None
    queue: str | None
    version: str | None
    key: str | None
    parent: UUID | None
    attributes: Mapping[str, Any] | None
    created_after: datetime | None
    created_before: datetime | None
    before: UUID | None
    limit: int


def call(workflow: str, /, **arguments: Any) -> WorkflowCall[Any]:
    """Describe a run of a workflow whose code is not here: its name, its arguments by name."""
    return WorkflowCall(workflow, Arguments(workflow, arguments), ANY)


class Client:
    """A client of one app: ``async with Client(url, app="shop") as client:``.

    With the code (``app.client()``) results come back typed; without it as plain JSON. ``codec``:
    the App's own, where the code is not here.
    """

    def __init__(
        self,
        where: Settings | str | None = None,
        *,
        app: str | None = None,
        code: Code | None = None,
        codec: Codec | Chain | Sequence[Codec | Chain] | None = None,
    ) -> None:
        if isinstance(where, str):
            where = Settings.from_environment().with_(database_url=where)
        self._settings = where or Settings.from_environment()
        self._settings.require_database_url()
        check(app=app)
        if code is not None and app not in (None, code.app):
            raise ConfigurationError(f"the code is of app {code.app}, not {app}")
        self._app = code.app if code else app
        self._code = code
        self._errors = code.errors if code else ErrorRegistry()
        self._codecs = code.codecs if code and codec is None else Codecs.of(codec)
        self._sessions: SessionPool | None = None
        self._news: News | None = None
        self._ask_together()

    def _ask_together(self) -> None:
        self._ends = Together(self._look_for_ends)
        self._events = Together(self._look_for_events)
        self._entries = Together(self._look_for_entries)

    async def __aenter__(self) -> Self:
        if self._sessions is not None:
            raise MisplacedCall(IS_OPEN)
        self._sessions = SessionPool(self._settings, "client", most=MOST_SESSIONS)
        self._news = News(self._settings, self._sessions)
        self._ask_together()  # who still waits for an answer of before gets none of this loop's
        try:
            await self._show_code()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _show_code(self) -> None:
        if self._code is not None:
            workflows = sorted(self._code.workflows.values(), key=lambda w: w.name)
            # First, so that no queue is there without its limits.
            await self._read(
                DECLARE_QUEUES,
                {
                    "app": self._code.app,
                    "version": "",
                    "queues": self._code.declared,
                    "only_new": True,
                },
            )
            await self._read(
                SHOW_APP,
                {
                    "app": self._code.app,
                    "queues": list(self._code.queues),
                    "workflows": [w.name for w in workflows],
                    "workflow_queues": [w.queue for w in workflows],
                },
            )

    async def __aexit__(self, *_: object) -> None:
        for asked in (self._ends, self._events, self._entries):
            await asked.close()
        if self._news is not None:
            await self._news.close()
            self._news = None
        if self._sessions is not None:
            await self._sessions.close()
            self._sessions = None

    # --- starting

    async def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        connection: Any = None,
        **options: Unpack[StartOptions],
    ) -> Run[R]:
        """Start a run; when this returns, the run will reach an outcome.

        ``key``: a start with a key that exists gives that run back. ``connection``: yours
        (psycopg's AsyncConnection, SQLAlchemy's AsyncSession or AsyncConnection); the run then
        commits or vanishes with your transaction. Options: see :class:`StartOptions`. Raises
        InvalidValue, Refused; Disconnected when it is not known whether it was started (with a
        key, just start again).
        """
        run_id = await self._do(self._starting(call, key, options), connection)
        return Run(self, run_id, call.result_with(self._codecs))

    def _starting(
        self, call: WorkflowCall[Any], key: str | None, options: StartOptions
    ) -> Operation[UUID]:
        return Operation(START, self._start_parameters(call, key, options))

    def _start_parameters(
        self, call: WorkflowCall[Any], key: str | None, options: StartOptions
    ) -> dict[str, Any]:
        if not isinstance(call, WorkflowCall):
            raise MisplacedCall(
                f"start takes a call of a workflow, such as fulfil(order), not {call!r}. Without "
                'the code: rowlock.call("fulfil", order=…).'
            )
        refuse_unknown("start", options, StartOptions)
        check(workflow=call.workflow, key=key, **options)
        text = call.input_with(self._codecs)
        return start_parameters(call.workflow, text, app=self._app or call.app, key=key, **options)

    async def start_many(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        keys: Iterable[str | None] | None = None,
        connection: Any = None,
        **options: Unpack[StartOptions],
    ) -> list[Run[R]]:
        """Start many runs; the handles come in the order of the calls.

        ``keys``: one for each call, or None where a run has none. Without ``connection`` each
        ten thousand commit together. Both iterables are read as they are needed, ten thousand at a
        time. When a later ten thousand can't be started, the error has a note of how many are: with
        keys, just start them all again.
        """
        handles: list[Run[R]] = []
        with _noting(handles, connection):
            for part in self._parts(calls, keys, options):
                if part is None:
                    await asyncio.sleep(0)
                    continue
                if connection is not None:
                    ids = await rows_on(connection, START_MANY, part.parameters)
                else:
                    ids = await self._pool().rows(START_MANY, part.parameters)
                handles += self._handles(part.calls, ids)
        return handles

    def _parts(
        self,
        calls: Iterable[WorkflowCall[R]],
        keys: Iterable[str | None] | None,
        options: StartOptions,
    ) -> Iterator[Part[R] | None]:
        """CHUNK calls at a time; and None now and then, so that a loop can do something else."""
        if isinstance(calls, Sized) and isinstance(keys, Sized) and len(calls) != len(keys):
            raise ConfigurationError(
                f"{len(calls)} calls but {len(keys)} keys. Nothing was started."
            )
        part: Part[R] = Part(self._app)
        for call, key in _paired(calls, keys):
            part.add(call, _entry(self._start_parameters(call, key, options)))
            if len(part.calls) == CHUNK:
                yield part
                part = Part(self._app)
            elif len(part.calls) % BREATH == 0:
                yield None
        if part.calls:
            yield part

    def _handles(self, calls: Sequence[WorkflowCall[R]], ids: Sequence[UUID]) -> list[Run[R]]:
        return [
            Run(self, run_id, one.result_with(self._codecs))
            for run_id, one in zip(ids, calls, strict=True)
        ]

    # --- watching

    @overload
    def run(self, run_id: UUID | str, workflow: Workflow[..., R]) -> Run[R]: ...
    @overload
    def run(self, run_id: UUID | str) -> Run[Any]: ...

    def run(self, run_id: UUID | str, workflow: Any = None) -> Run[Any]:
        """A handle on a run by its id; with the ``workflow`` object its result comes back typed."""
        if workflow is not None and not isinstance(workflow, Workflow):
            raise MisplacedCall(f"run takes the workflow itself, such as fulfil, not {workflow!r}")
        shape = workflow.code.result if workflow else ANY.with_codecs(self._codecs)
        return Run(self, run_id_of(run_id), shape)

    async def runs(self, **filters: Unpack[RunFilters]) -> list[RunInfo]:
        """A page of runs, newest first. Filters: see :class:`RunFilters`."""
        refuse_unknown("runs", filters, RunFilters)
        return [RunInfo.of(row) for row in await self._read(LIST_RUNS, self._filters(**filters))]

    def _filters(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        queue: str | None = None,
        version: str | None = None,
        key: str | None = None,
        parent: UUID | None = None,
        attributes: Mapping[str, Any] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> dict[str, Any]:
        check(
            workflow=workflow,
            queue=queue,
            version=version,
            key=key,
            parent=parent,
            attributes=attributes,
            created_after=created_after,
            created_before=created_before,
            before=before,
            limit=limit,
        )
        known = (*TaskState, *Outcome)
        if status is not None and status not in known:
            raise ConfigurationError(f"status {status!r} is none of {', '.join(known)}")
        if not 1 <= limit <= 1000:
            raise ConfigurationError(f"limit must be between 1 and 1,000, not {limit}")
        return {
            "app": self._app,
            "status": status,
            "workflow": workflow,
            "queue": queue,
            "version": version,
            "key": key,
            "parent": parent,
            "attributes": None if attributes is None else ATTRIBUTES.store(dict(attributes)),
            "created_after": created_after and aware(created_after, "created_after"),
            "created_before": created_before and aware(created_before, "created_before"),
            "before": before,
            "limit": limit,
        }

    async def queues(self) -> list[QueueRow]:
        """The queues and what is in them. Reads all unfinished runs: not for every second."""
        return await self._read(QUEUES, {"app": self._app})

    async def workers(self) -> list[WorkerRow]:
        """The worker processes."""
        return await self._read(WORKERS, {"app": self._app})

    async def versions(self) -> list[VersionRow]:
        """The code versions that have registered, the newest first."""
        return await self._read(VERSIONS, {"app": self._app})

    # --- holding back, and rolling out

    async def pause(
        self,
        *,
        queue: str | None = None,
        workflow: str | None = None,
        reason: str | None = None,
        connection: Any = None,
    ) -> bool:
        """Stop the claiming of runs of a queue, a workflow, or (neither) all of the app.

        Runs that run go on until they next wait. Whether it was not paused before. Raises Refused.
        """
        operation = operations.pause(self._app, queue, workflow, reason)
        return await self._do(operation, connection)

    async def unpause(
        self, *, queue: str | None = None, workflow: str | None = None, connection: Any = None
    ) -> bool:
        """End a pause that was made with the same arguments; whether there was one."""
        operation = operations.unpause(self._app, queue, workflow)
        return await self._do(operation, connection)

    async def set_limit(
        self, queue: str, *, connection: Any = None, **limits: Unpack[Limits]
    ) -> bool:
        """Set limits of a queue while it works; those that are not named stay.

        They hold until the code declares other ones. Whether something changed. Limits: see
        :class:`Limits`. Raises ConfigurationError, Refused.
        """
        operation = operations.set_limit(self._app, queue, **limits)
        return await self._do(operation, connection)

    async def unset_limit(self, queue: str, name: LimitName, *, connection: Any = None) -> bool:
        """Take one limit of a queue away; whether there was one. Raises Refused."""
        operation = operations.unset_limit(self._app, queue, name)
        return await self._do(operation, connection)

    async def reset_limits(self, queue: str, *, connection: Any = None) -> bool:
        """Set the limits of a queue as its code declares them; whether they were otherwise."""
        operation = operations.reset_limits(self._app, queue)
        return await self._do(operation, connection)

    async def promote(self, version: str, *, connection: Any = None) -> None:
        """Let a registered version take all runs that are not pinned yet. Raises Refused."""
        await self._do(operations.promote(self._named_app("promote"), version), connection)

    async def retire(self, version: str, *, connection: Any = None) -> bool:
        """Let a version that has nothing more to do never become current again. Raises Refused."""
        return await self._do(operations.retire(self._named_app("retire"), version), connection)

    async def drain_worker(self, worker_id: int, *, connection: Any = None) -> bool:
        """Let a worker take no new runs, for good; those it has go on. Raises Refused."""
        return await self._do(operations.drain_worker(worker_id), connection)

    # --- schedules

    async def create_schedule(
        self,
        name: str,
        when: When,
        workflow: Workflow[..., Any] | str,
        *,
        args: Mapping[str, Any] | None = None,
        tick: str | None = None,
        connection: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        """Have a workflow started by the calendar from now on.

        ``when``: a cron expression or an interval. ``args``: the workflow's arguments by name.
        ``tick``: which argument is given the time of the tick; ``tick`` by default, if the workflow
        is known here and has it. Options: see :class:`rowlock.scheduling.ScheduleOptions`. Raises
        ConfigurationError, Refused.
        """
        operation = self._creating(name, when, workflow, args, tick, options)
        await self._do(operation, connection)

    def _creating(
        self,
        name: str,
        when: When,
        workflow: Workflow[..., Any] | str,
        args: Mapping[str, Any] | None,
        tick: str | None,
        options: ScheduleOptions,
    ) -> Operation[None]:
        return operations.create_schedule(
            self._named_app("create_schedule"),
            name,
            self._codecs,
            when=when,
            workflow=workflow,
            args=args,
            tick=tick,
            options=options,
        )

    async def update_schedule(
        self,
        name: str,
        *,
        when: When | None = None,
        workflow: Workflow[..., Any] | str | None = None,
        args: Mapping[str, Any] | None = None,
        tick: str | None = None,
        connection: Any = None,
        **options: Unpack[ScheduleOptions],
    ) -> bool:
        """Change a schedule; what is not given, or is None, stays. Whether that made a difference.

        :meth:`unset_schedule` takes an option away.
        With another timing it ticks anew from now on. One that code declares stays as changed until
        its declaration changes. Raises ConfigurationError, Refused.
        """
        operation = self._updating(name, when, workflow, args, tick, options)
        return await self._do(operation, connection)

    def _updating(
        self,
        name: str,
        when: When | None,
        workflow: Workflow[..., Any] | str | None,
        args: Mapping[str, Any] | None,
        tick: str | None,
        options: ScheduleOptions,
    ) -> Operation[bool]:
        return operations.update_schedule(
            self._named_app("update_schedule"),
            name,
            self._codecs,
            when=when,
            workflow=workflow,
            args=args,
            tick=tick,
            options=options,
        )

    async def unset_schedule(
        self, name: str, field: ScheduleField, *, connection: Any = None
    ) -> bool:
        """Take one option of a schedule away, as if it had never been given; whether it had one.

        Raises ConfigurationError, Refused.
        """
        app = self._named_app("unset_schedule")
        return await self._do(operations.unset_schedule(app, name, field), connection)

    async def pause_schedule(
        self, name: str, *, reason: str | None = None, connection: Any = None
    ) -> bool:
        """Stop its ticks; runs that it started go on. Whether it was not paused before."""
        app = self._named_app("pause_schedule")
        return await self._do(operations.pause_schedule(app, name, reason), connection)

    async def resume_schedule(self, name: str, *, connection: Any = None) -> bool:
        """Let it tick again, from now on. Whether it was paused."""
        app = self._named_app("resume_schedule")
        return await self._do(operations.resume_schedule(app, name), connection)

    async def delete_schedule(self, name: str, *, connection: Any = None) -> None:
        """Delete a schedule that code does not declare. Raises Refused."""
        app = self._named_app("delete_schedule")
        await self._do(operations.delete_schedule(app, name), connection)

    async def trigger_schedule(self, name: str, *, connection: Any = None) -> Run[Any]:
        """Start a run of it now, beside its ticks. Raises Refused."""
        app = self._named_app("trigger_schedule")
        run_id = await self._do(operations.trigger_schedule(app, name), connection)
        return self.run(run_id)

    async def backfill(
        self, name: str, since: datetime, until: datetime, *, connection: Any = None
    ) -> int:
        """Have the past ticks of a range run, each once; the end itself is not in it.

        A tick that has a run keeps it. Gives the number under which :meth:`backfills` tells how far
        it is. Raises ConfigurationError, Refused.
        """
        app = self._named_app("backfill")
        return await self._do(operations.backfill(app, name, since, until), connection)

    async def schedules(self, name: str | None = None) -> list[ScheduleRow]:
        """The schedules, or the one of this name; rowlock.scheduling.next_ticks computes on."""
        check(name=name)
        return await self._read(SCHEDULES, {"app": self._app, "name": name})

    async def explain_schedule(self, name: str) -> Explanation:
        """Whether it ticks, and why not: what has to go first, and what to do about it."""
        check(name=name)
        return (await self._read(EXPLAIN_SCHEDULE, {"app": self._app, "name": name}))[0]

    async def backfills(self) -> list[BackfillRow]:
        """The backfills that were asked for, and how far they are."""
        return await self._read(BACKFILLS, {"app": self._app})

    def _named_app(self, what: str) -> str:
        if self._app is None:
            raise ConfigurationError(f"{what} needs the app: Client(url, app=…)")
        return self._app

    # --- how it asks

    def _pool(self) -> SessionPool:
        if self._sessions is None:
            raise MisplacedCall("the client is not open: use `async with app.client() as client:`")
        return self._sessions

    async def _read(self, statement: Statement[T], parameters: Mapping[str, Any]) -> list[T]:
        """Ask something that changes nothing; a lost connection is worth a few more tries."""
        backoff = Backoff()
        for last in range(READ_TRIES, 0, -1):
            try:
                return await self._pool().rows(statement, parameters)
            except Disconnected:
                if last == 1:
                    raise
                await asyncio.sleep(backoff.next_s())
        raise AssertionError("unreachable")

    async def _do(self, operation: Operation[T], connection: Any = None) -> T:
        """Carry out an operation, in a transaction of its own or in the caller's."""
        try:
            if connection is not None:
                rows = await rows_on(connection, operation.statement, operation.parameters)
            else:
                rows = await self._pool().rows(operation.statement, operation.parameters)
        except Refused as error:
            raise unknown_or(error, operation) from None
        return rows[0]

    # --- how it waits

    def _open_news(self) -> News:
        self._pool()
        assert self._news is not None
        return self._news

    def _watch(self, run_id: UUID) -> AbstractContextManager[Watch]:
        return self._open_news().watch(run_id)

    async def _until(
        self, run_id: UUID, look: Callable[[], Awaitable[T | None]], seconds: float | None
    ) -> T:
        return await self._open_news().until(run_id, look, seconds)

    async def _ended(self, run_id: UUID) -> Ended | None:
        """How a run has ended; None: not yet. Raises UnknownRun."""
        ended = await self._ends(run_id)
        if ended is not None and ended.status == UNKNOWN:
            raise UnknownRun(run_id)
        return ended

    async def _look_for_ends(self, run_ids: list[UUID]) -> dict[UUID, Ended | None]:
        found = await self._read(ENDED_OR_UNKNOWN, {"runs": run_ids})
        return dict.fromkeys(run_ids, None) | {ended.run_id: ended for ended in found}

    async def _event(self, run_id: UUID, name: str) -> str | None:
        """The value of an event; None: it is not set yet. Raises EventNeverSet, UnknownRun."""
        told = await self._events((run_id, name))
        if told.value is None and told.ended and await self._ended(run_id) is not None:
            raise EventNeverSet(run_id, name)
        return told.value

    async def _look_for_events(self, asked: list[tuple[UUID, str]]) -> dict[tuple[UUID, str], Told]:
        run_ids, names = zip(*asked, strict=True)
        found = await self._read(EVENTS, {"runs": list(run_ids), "names": list(names)})
        return {(told.run_id, told.name): told for told in found}

    async def _look_for_entries(
        self, asked: list[tuple[UUID, str, int]]
    ) -> dict[tuple[UUID, str, int], list[Entry]]:
        """The entries that are there from an offset on, at most MOST_ENTRIES for each."""
        run_ids, streams, offsets = zip(*asked, strict=True)
        found = await self._read(
            STREAMS,
            {
                "runs": list(run_ids),
                "streams": list(streams),
                "offsets": list(offsets),
                "limit": MOST_ENTRIES,
            },
        )
        answers: dict[tuple[UUID, str, int], list[Entry]] = {one: [] for one in asked}
        for entry in found:
            answers[asked[entry.ask - 1]].append(entry)
        return answers


class Part(Generic[R]):
    """Some of many calls to start."""

    def __init__(self, app: str | None) -> None:
        self.calls: list[WorkflowCall[R]] = []
        self._entries: list[bytes] = []
        self._app = app

    def add(self, call: WorkflowCall[R], entry: Mapping[str, Any]) -> None:
        self.calls.append(call)
        self._entries.append(msgspec.json.encode(entry))

    @property
    def parameters(self) -> dict[str, Any]:
        """What START_MANY is given."""
        runs = (b"[" + b",".join(self._entries) + b"]").decode()
        return {"runs": runs, "app": self._app or self.calls[0].app}


def _paired(
    calls: Iterable[WorkflowCall[R]], keys: Iterable[str | None] | None
) -> Iterator[tuple[WorkflowCall[R], str | None]]:
    """Each call with its key."""
    given = repeat(None) if keys is None else iter(keys)
    for call in calls:
        try:
            yield call, next(given)
        except StopIteration:
            raise ConfigurationError("there are fewer keys than calls") from None
    if keys is not None and next(given, missing := object()) is not missing:
        raise ConfigurationError("there are more keys than calls")


@contextmanager
def _noting(handles: Sized, connection: Any) -> Iterator[None]:
    """An error says how much of many was done before it."""
    try:
        yield
    except Exception as error:
        if handles and connection is None:
            error.add_note(f"The first {len(handles)} runs were started before.")
        raise


def _entry(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a start as START_MANY wants them."""
    asked = {name: value for name, value in parameters.items() if value is not None}
    asked.pop("app", None)
    for name in ("delay", "deadline", "quiet", "most", "wait"):
        if name in asked:
            asked[name] = f"{asked[name]} seconds"
    for name in ("input", "attributes", "trace_context"):
        if name in asked:
            asked[name] = msgspec.Raw(asked[name].encode())
    return asked


def unknown_or(error: Refused, operation: Operation[Any]) -> RowlockError:
    """What a refusal means to who has a handle: perhaps that there is no such run."""
    if error.sqlstate == "RLN03" and "run" in operation.parameters:
        return UnknownRun(operation.parameters["run"])
    return error
