"""Starts, watches and mends runs, from async code.

Every operation is a call of the database function of the same name: what the client can do, SQL
can do. A start may ride in the caller's own transaction.

Reads and writes: store's START, START_MANY, RUN, LIST_RUNS, STEPS, OUTCOMES, PROMOTE; SEND, EVENTS,
SET_EVENT, STREAMS; CANCEL, RESUME, RETRY, REWIND, FORK.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Generic, Self, TypeVar, cast
from uuid import UUID

import msgspec

from rowlock.errors import (
    ConfigurationError,
    Disconnected,
    EventNeverSet,
    MisplacedCall,
    ReceiveTimeout,
    Refused,
    ResultTimeout,
    RowlockError,
    RunFailed,
    UnknownRun,
)
from rowlock.model.code import Code
from rowlock.model.commands import seconds_of
from rowlock.model.envelope import Chain, Codec, Codecs
from rowlock.model.failure import ErrorRegistry, Failure
from rowlock.model.inputs import Arguments
from rowlock.model.states import Outcome, TaskState
from rowlock.model.values import Shape
from rowlock.settings import Settings
from rowlock.store.connection import (
    AsyncConnection,
    Backoff,
    Connection,
    SessionPool,
    Statement,
    translated,
)
from rowlock.store.statements import (
    CANCEL,
    EVENTS,
    FORK,
    LIST_RUNS,
    MISSING,
    OUTCOMES,
    PROMOTE,
    RESUME,
    RETRY,
    REWIND,
    RUN,
    SEND,
    SET_EVENT,
    SHOW_APP,
    START,
    START_MANY,
    STEPS,
    STREAMS,
    UNFINISHED,
    Ended,
    Entry,
    RunRow,
    StepRow,
)
from rowlock.telemetry import propagation
from rowlock.workflow import WorkflowCall

R = TypeVar("R")
T = TypeVar("T")

ATTRIBUTES = Shape(dict[str, Any], "attributes")
ANY = Shape(Any, "the result")
FIRST_PAUSE_S, MOST_PAUSE_S = 0.02, 0.25
"""Between two looks for what others do; longer as long as nothing happens."""
MOST_ENTRIES = 1000
MOST_SESSIONS = 8
CHUNK = 10_000
READ_TRIES = 6
MOST_ASKED = 1000
"""A poller asks for the outcomes of at most so many runs at a time."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run at the moment it was looked at. Times are aware; None: not (yet) so."""

    id: UUID
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
    parent_id: UUID | None
    attributes: dict[str, Any]
    input: Any
    output: Any
    error: dict[str, Any] | None
    reason: dict[str, Any] | None

    @property
    def finished(self) -> bool:
        """Whether it has an outcome."""
        return self.status not in tuple(TaskState)

    @classmethod
    def of(cls, row: RunRow) -> RunInfo:
        def load(text: str | None) -> Any:
            return None if text is None else msgspec.json.decode(text)

        return cls(
            row.run_id,
            row.app,
            row.workflow,
            row.queue,
            row.key,
            row.status,
            row.version,
            row.priority,
            row.generation,
            row.epoch,
            row.created_at,
            row.due_at,
            row.started_at,
            row.finished_at,
            row.worker_id,
            row.parent_id,
            load(row.attributes) or {},
            load(row.input),
            load(row.output),
            load(row.error),
            load(row.reason),
        )


def call(workflow: str, /, **arguments: Any) -> WorkflowCall[Any]:
    """Describe a run of a workflow whose code is not here: its name, its arguments by name."""
    return WorkflowCall(workflow, Arguments(workflow, arguments), ANY)


class Run(Generic[R]):
    """A handle on one run."""

    def __init__(self, client: Client, run_id: UUID, shape: Shape = ANY) -> None:
        self.id = run_id
        self._client = client
        self._shape = shape

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    async def info(self) -> RunInfo:
        """Everything about it now. Raises UnknownRun."""
        rows = await self._client._read(RUN, {"run": self.id})
        if not rows:
            raise UnknownRun(self.id)
        return RunInfo.of(rows[0])

    async def status(self) -> str:
        """scheduled, ready, running, waiting, blocked, or how it ended. Raises UnknownRun."""
        return (await self.info()).status

    async def result(self, timeout: timedelta | float | None = None) -> R:
        """Wait for its outcome and give its result.

        ``timeout``: seconds or timedelta; None waits for ever. Raises RunFailed (its ``__cause__``
        is the run's own error), ResultTimeout, UnknownRun.
        """
        seconds = None if timeout is None else seconds_of(timeout)
        ended = await self._client._outcome(self.id, seconds)
        if ended.status == Outcome.SUCCEEDED:
            return cast("R", self._shape.load(ended.output if ended.output is not None else "null"))
        failure = Failure.from_json(ended.error) if ended.error else Failure("", "")
        error = RunFailed(
            ended.run_id,
            ended.workflow,
            ended.status,
            failure.type,
            failure.message,
            failure.traceback,
        )
        cause = self._client._errors.rebuild(failure, f"run {self.id}") if failure.type else None
        raise error from cause

    async def steps(self) -> list[StepRow]:
        """The recorded steps of its present generation, in the order of recording."""
        info = await self.info()
        return await self._client._read(STEPS, {"run": self.id, "generation": info.generation})

    # --- telling it something

    async def send(
        self,
        topic: str,
        value: Any = None,
        *,
        key: str | None = None,
        connection: AsyncConnection[Any] | None = None,
    ) -> None:
        """Send it a message, which it gets with ``app.receive(topic)``.

        ``key``: a message with a key that was used for this run is not sent again.
        ``connection``: sent with your transaction. Raises Refused when the run has ended,
        InvalidValue; Disconnected when it is not known whether it was sent (give it a key).
        """
        await self._client._tell(SEND, self._message(topic, value, key), connection)

    def _message(self, topic: str, value: Any, key: str | None) -> dict[str, Any]:
        text = self._outgoing(value, f"a message on topic {topic}")
        return {"run": self.id, "topic": topic, "value": text, "key": key}

    def _outgoing(self, value: Any, what: str) -> str:
        return Shape(Any, what, codecs=self._client._codecs, outgoing=True).store(value)

    async def set_event(
        self, name: str, value: Any = None, *, connection: AsyncConnection[Any] | None = None
    ) -> None:
        """Set an event of it, as the run itself does with ``app.set_event``. Raises Refused."""
        await self._client._tell(SET_EVENT, self._event(name, value), connection)

    def _event(self, name: str, value: Any) -> dict[str, Any]:
        return {"run": self.id, "name": name, "value": self._outgoing(value, f"event {name}")}

    async def event(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: timedelta | float | None = None,
    ) -> Any:
        """The latest value of an event, waiting until it is set for the first time.

        ``type``: what it is loaded as. ``timeout``: seconds or timedelta; 0 only looks. Raises
        ReceiveTimeout, EventNeverSet when the run has ended without it.
        """
        shape = Shape(type, f"event {name}", codecs=self._client._codecs)
        clock = asyncio.get_running_loop()
        until = None if timeout is None else clock.time() + seconds_of(timeout)
        pause_s = FIRST_PAUSE_S
        while True:
            [told] = await self._client._read(EVENTS, {"runs": [self.id], "names": [name]})
            if told.value is not None:
                return shape.load(told.value)
            if told.ended:
                raise EventNeverSet(self.id, name)
            if until is not None and clock.time() >= until:
                raise ReceiveTimeout(f"event {name} of run {self.id}", seconds_of(timeout or 0))
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = min(MOST_PAUSE_S, pause_s * 1.5)

    async def stream(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        start: int = 0,
        follow: bool = True,
    ) -> AsyncIterator[StreamEntry]:
        """The entries of a stream from offset ``start``, in order, as they come, to the run's end.

        ``type``: what each value is loaded as. ``follow=False``: only those that are there.
        """
        await self._client._refuse_missing(self.id)
        shape = Shape(type, f"an entry of stream {name}", codecs=self._client._codecs)
        pause_s = FIRST_PAUSE_S
        while True:
            # Asked first: what it emitted before its end is there afterwards.
            unfinished = follow and bool(await self._client._read(UNFINISHED, {"runs": [self.id]}))
            found = await self._client._tail.read(self.id, name, start)
            for entry in found:
                yield StreamEntry(entry.offset, shape.load(entry.value), entry.emitted_at)
                start = entry.offset + 1
            if not found and not unfinished:
                return
            if not found:
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
            pause_s = FIRST_PAUSE_S if found else min(MOST_PAUSE_S, pause_s * 1.5)

    # --- its end, and what comes after

    async def cancel(
        self,
        *,
        grace: timedelta | float = 30.0,
        force: bool = False,
        reason: str | None = None,
        connection: AsyncConnection[Any] | None = None,
    ) -> None:
        """Ask it to stop: it gets CancelledError where it waits, and its children do.

        ``grace``: seconds or timedelta in which it may clean up. ``force``: it may not. ``reason``:
        stands in its error. Returns when that is asked, not when it has ended: await ``result``.
        Raises Refused when it has ended, UnknownRun.
        """
        parameters = {
            "run": self.id,
            "grace": seconds_of(grace),
            "force": force,
            "reason": reason,
        }
        await self._client._tell(CANCEL, parameters, connection)

    async def resume(self) -> None:
        """Let it go on: a blocked, cancelled or dead run. Raises Refused, UnknownRun."""
        await self._client._write(RESUME, {"run": self.id}, self.id)

    async def retry(self) -> None:
        """Let a failed run go on from its failed step. Raises Refused, UnknownRun."""
        await self._client._write(RETRY, {"run": self.id}, self.id)

    async def rewind(self, place: str, *, call: WorkflowCall[R] | None = None) -> None:
        """Let an ended run do again what it recorded at ``place`` and after it.

        ``call``: a call of its workflow with other arguments. Raises Refused, UnknownRun.
        """
        text = None if call is None else call.input_with(self._client._codecs)
        await self._client._write(REWIND, {"run": self.id, "place": place, "input": text}, self.id)

    async def fork(
        self,
        place: str | None = None,
        *,
        call: WorkflowCall[R] | None = None,
        outcomes: Mapping[str, Any] | None = None,
    ) -> Run[R]:
        """Start a new run with a copy of its history up to ``place`` (without one: all of it).

        ``call``: a call of its workflow with other arguments. ``outcomes``: other outcomes by
        place. The key is not copied. Raises Refused, UnknownRun, InvalidValue.
        """
        edited = None
        if outcomes is not None:
            texts = {
                at: msgspec.Raw(self._outgoing(value, f"the outcome at {at}").encode())
                for at, value in outcomes.items()
            }
            edited = msgspec.json.encode(texts).decode()
        [run_id] = await self._client._write(
            FORK,
            {
                "run": self.id,
                "place": place,
                "input": None if call is None else call.input_with(self._client._codecs),
                "outcomes": edited,
            },
            self.id,
        )
        return Run(self._client, run_id, self._shape)


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """An entry of a stream: its offset from 0, its value, when it was emitted."""

    offset: int
    value: Any
    emitted_at: datetime


class Tail:
    """Reads the streams that this client's users follow: those that ask meanwhile share a look."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: dict[tuple[UUID, str, int], asyncio.Future[list[Entry]]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def read(self, run_id: UUID, stream: str, first: int) -> list[Entry]:
        """The entries from offset ``first`` that are there now, at most MOST_ENTRIES."""
        asked = (run_id, stream, first)
        if asked not in self._asked:
            self._asked[asked] = asyncio.get_running_loop().create_future()
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(self._asked[asked])

    async def _read(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            keys = list(asked)
            try:
                entries = await self._client._read(
                    STREAMS,
                    {
                        "runs": [run_id for run_id, _, _ in keys],
                        "streams": [stream for _, stream, _ in keys],
                        "offsets": [first for _, _, first in keys],
                        "limit": MOST_ENTRIES,
                    },
                )
            except BaseException as error:
                for future in asked.values():
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # whoever asked may be gone
                raise
            # Who asks for the same stream from another offset on gets its own rows of it.
            found: dict[int, list[Entry]] = defaultdict(list)
            for entry in entries:
                found[entry.ask].append(entry)
            for number, future in enumerate(asked.values(), 1):
                if not future.done():
                    future.set_result(found[number])


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
        if code is not None and app not in (None, code.app):
            raise ConfigurationError(f"the code is of app {code.app}, not {app}")
        self._app = code.app if code else app
        self._code = code
        self._errors = code.errors if code else ErrorRegistry()
        self._codecs = code.codecs if code and codec is None else Codecs.of(codec)
        self._sessions: SessionPool | None = None
        self._waiting: dict[UUID, set[asyncio.Future[Ended]]] = {}
        self._poller: asyncio.Task[None] | None = None
        self._tail = Tail(self)

    async def __aenter__(self) -> Self:
        self._sessions = SessionPool(self._settings, "client", most=MOST_SESSIONS)
        if self._code is not None:
            workflows = sorted(self._code.workflows.values(), key=lambda w: w.name)
            await self._read(
                SHOW_APP,
                {
                    "app": self._code.app,
                    "queues": list(self._code.queues),
                    "workflows": [w.name for w in workflows],
                    "workflow_queues": [w.queue for w in workflows],
                },
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._poller is not None:
            self._poller.cancel()
            with suppress(asyncio.CancelledError):
                await self._poller
            self._poller = None
        if self._sessions is not None:
            await self._sessions.close()
            self._sessions = None

    # --- starting

    async def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        deadline: timedelta | float | None = None,
        attributes: Mapping[str, Any] | None = None,
        connection: AsyncConnection[Any] | None = None,
    ) -> Run[R]:
        """Start a run; when this returns, the run will reach an outcome.

        ``key``: a start with a key that exists gives that run back. ``priority``: 0 first to 100
        last, 50 by default. ``delay``: seconds or timedelta before it is due. ``deadline``: seconds
        or timedelta, from when it is due, within which it must end; else it fails with
        DeadlineExceeded. ``attributes``: JSON to search runs by. ``connection``: a psycopg
        connection of yours; the run then commits or vanishes with your transaction. Raises
        InvalidValue, Refused; Disconnected when it is not known whether it was started (with a
        key, just start again).
        """
        parameters = self._start_parameters(
            call,
            key=key,
            queue=queue,
            priority=priority,
            delay=delay,
            deadline=deadline,
            attributes=attributes,
        )
        if connection is not None:
            run_id = await _one_on(connection, START, parameters)
        else:
            [run_id] = await self._write(START, parameters)
        return Run(self, run_id, call.result_with(self._codecs))

    def _start_parameters(
        self,
        call: WorkflowCall[Any],
        *,
        key: str | None,
        queue: str | None,
        priority: int | None,
        delay: timedelta | float | None,
        deadline: timedelta | float | None,
        attributes: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        if not isinstance(call, WorkflowCall):
            raise MisplacedCall(
                f"start takes a call of a workflow, such as fulfil(order), not {call!r}. Without "
                'the code: rowlock.call("fulfil", order=…).'
            )
        return {
            "workflow": call.workflow,
            "input": call.input_with(self._codecs),
            "key": key,
            "queue": queue,
            "app": self._app,
            "priority": priority,
            "delay": None if delay is None else seconds_of(delay),
            "deadline": None if deadline is None else seconds_of(deadline),
            "attributes": None if attributes is None else ATTRIBUTES.store(dict(attributes)),
            "trace_context": propagation.outgoing(),
        }

    async def start_many(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        keys: Iterable[str | None] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        deadline: timedelta | float | None = None,
        attributes: Mapping[str, Any] | None = None,
        connection: AsyncConnection[Any] | None = None,
    ) -> list[Run[R]]:
        """Start many runs; the handles come in the order of the calls.

        ``keys``: one for each call, or None where a run has none. Without ``connection`` each
        ten thousand commit together.
        """
        calls = list(calls)
        names = [None] * len(calls) if keys is None else list(keys)
        if len(names) != len(calls):
            raise ConfigurationError(f"{len(calls)} calls but {len(names)} keys")
        asked = []
        for one, name in zip(calls, names, strict=True):
            p = self._start_parameters(
                one,
                key=name,
                queue=queue,
                priority=priority,
                delay=delay,
                deadline=deadline,
                attributes=attributes,
            )
            asked.append(
                {
                    "workflow": p["workflow"],
                    "input": msgspec.Raw(p["input"].encode()),
                    "key": p["key"],
                    "queue": p["queue"],
                    "priority": p["priority"],
                    "delay": None if p["delay"] is None else f"{p['delay']} seconds",
                    "deadline": None if p["deadline"] is None else f"{p['deadline']} seconds",
                    "attributes": msgspec.Raw((p["attributes"] or "null").encode()),
                    "trace_context": msgspec.Raw((p["trace_context"] or "null").encode()),
                }
            )
        handles: list[Run[R]] = []
        for first in range(0, len(asked), CHUNK):
            chunk = asked[first : first + CHUNK]
            parameters = {"runs": msgspec.json.encode(chunk).decode(), "app": self._app}
            if connection is not None:
                with translated():
                    cursor = await connection.execute(START_MANY.sql, parameters)
                    ids = [row[0] for row in await cursor.fetchall()]
            else:
                ids = await self._write(START_MANY, parameters)
            handles += [
                Run(self, run_id, one.result_with(self._codecs))
                for run_id, one in zip(ids, calls[first : first + CHUNK], strict=True)
            ]
        return handles

    # --- watching

    def run(self, run_id: UUID | str, workflow: Any = None) -> Run[Any]:
        """A handle on a run by its id; with the ``workflow`` object its result comes back typed."""
        shape = workflow.code.result if workflow else ANY.with_codecs(self._codecs)
        return Run(self, UUID(str(run_id)), shape)

    async def runs(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        queue: str | None = None,
        key: str | None = None,
        parent: UUID | None = None,
        attributes: Mapping[str, Any] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        before: UUID | None = None,
        limit: int = 50,
    ) -> list[RunInfo]:
        """A page of runs, newest first. ``before``: the last id of the page before this one.

        ``attributes``: runs whose attributes contain these. ``limit``: at most 1,000.
        """
        known = (*TaskState, *Outcome)
        if status is not None and status not in known:
            raise ConfigurationError(f"status {status!r} is none of {', '.join(known)}")
        if not 1 <= limit <= 1000:
            raise ConfigurationError(f"limit must be between 1 and 1,000, not {limit}")
        rows = await self._read(
            LIST_RUNS,
            {
                "app": self._app,
                "status": status,
                "workflow": workflow,
                "queue": queue,
                "key": key,
                "parent": parent,
                "attributes": None if attributes is None else ATTRIBUTES.store(dict(attributes)),
                "created_after": created_after,
                "created_before": created_before,
                "before": before,
                "limit": limit,
            },
        )
        return [RunInfo.of(row) for row in rows]

    async def promote(self, version: str) -> None:
        """Let a registered version take all runs that are not pinned yet. Raises Refused."""
        if self._app is None:
            raise ConfigurationError("promote needs the app: Client(url, app=…)")
        await self._write(PROMOTE, {"app": self._app, "version": version})

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

    async def _write(
        self, statement: Statement[T], parameters: Mapping[str, Any], run_id: UUID | None = None
    ) -> list[T]:
        try:
            return await self._pool().rows(statement, parameters)
        except Refused as error:
            if error.sqlstate == "RLN03" and run_id is not None:
                raise UnknownRun(run_id) from None
            raise

    async def _outcome(self, run_id: UUID, seconds: float | None) -> Ended:
        """Wait for an outcome; all waiters of this client share one poller."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(future)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            assert seconds is not None
            raise ResultTimeout(run_id, seconds) from None
        finally:
            waiters = self._waiting.get(run_id)
            if waiters is not None:
                waiters.discard(future)
                if not waiters:
                    del self._waiting[run_id]

    async def _poll(self) -> None:
        """Look for all awaited outcomes in one statement, less often while none come."""
        pause_s = 0.004
        known: set[UUID] = set()
        while self._waiting:
            asked = list(islice(self._waiting, MOST_ASKED))
            try:
                ended = await self._pool().rows(OUTCOMES, {"runs": asked})
                strange = [run_id for run_id in asked if run_id not in known]
                if len(strange) > len(ended):
                    await self._refuse_unknown(strange, known)
            except Disconnected:
                ended = []
            except RowlockError as error:
                self._fail_all(error)
                return
            for one in ended:
                for future in self._waiting.pop(one.run_id, ()):
                    if not future.done():
                        future.set_result(one)
            for run_id in asked:  # to the end of the line: all get their turn
                if (waiters := self._waiting.pop(run_id, None)) is not None:
                    self._waiting[run_id] = waiters
            pause_s = 0.004 if ended else min(0.25, pause_s * 1.5)
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))

    async def _tell(
        self,
        statement: Statement[Any],
        parameters: Mapping[str, Any],
        connection: AsyncConnection[Any] | None,
    ) -> None:
        if connection is not None:
            await _one_on(connection, statement, parameters)
        else:
            await self._write(statement, parameters, parameters["run"])

    async def _refuse_missing(self, run_id: UUID) -> None:
        if await self._read(MISSING, {"runs": [run_id]}):
            raise UnknownRun(run_id)

    async def _refuse_unknown(self, run_ids: list[UUID], known: set[UUID]) -> None:
        missing = set(await self._pool().rows(MISSING, {"runs": run_ids}))
        known.update(run_id for run_id in run_ids if run_id not in missing)
        for run_id in missing:
            for future in self._waiting.pop(run_id, ()):
                if not future.done():
                    future.set_exception(UnknownRun(run_id))

    def _fail_all(self, error: RowlockError) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
        self._waiting.clear()


async def _one_on(
    connection: AsyncConnection[Any], statement: Statement[T], parameters: Mapping[str, Any]
) -> T:
    """Run a statement on a connection of the caller's, in his transaction."""
    if isinstance(connection, Connection):
        raise MisplacedCall(
            "an async client needs psycopg's AsyncConnection; with a Connection use "
            "app.blocking_client()."
        )
    with translated():
        cursor = await connection.execute(statement.sql, parameters)
        row = await cursor.fetchone()
    assert row is not None
    return statement.row(*row)
