"""Starts, watches and mends runs, from async code.

Every operation is a call of the database function of the same name: what the client can do, SQL
can do. A start may ride in the caller's own transaction.

Reads and writes: store's START, START_MANY, RUN, LIST_RUNS, STEPS, OUTCOMES, RESUME, PROMOTE.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
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
    MisplacedCall,
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
    LIST_RUNS,
    MISSING,
    OUTCOMES,
    PROMOTE,
    RESUME,
    RUN,
    SHOW_APP,
    START,
    START_MANY,
    STEPS,
    Ended,
    RunRow,
    StepRow,
)
from rowlock.telemetry import propagation
from rowlock.workflow import WorkflowCall

R = TypeVar("R")
T = TypeVar("T")

ATTRIBUTES = Shape(dict[str, Any], "attributes")
ANY = Shape(Any, "the result")
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

    async def resume(self) -> None:
        """Make a blocked run ready again. Raises Refused, UnknownRun."""
        await self._client._write(RESUME, {"run": self.id}, self.id)


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
        attributes: Mapping[str, Any] | None = None,
        connection: AsyncConnection[Any] | None = None,
    ) -> Run[R]:
        """Start a run; when this returns, the run will reach an outcome.

        ``key``: a start with a key that exists gives that run back. ``priority``: 0 first to 100
        last, 50 by default. ``delay``: seconds or timedelta before it is due. ``attributes``: JSON
        to search runs by. ``connection``: a psycopg connection of yours; the run then commits or
        vanishes with your transaction. Raises InvalidValue, Refused; Disconnected when it is not
        known whether it was started (with a key, just start again).
        """
        parameters = self._start_parameters(
            call, key=key, queue=queue, priority=priority, delay=delay, attributes=attributes
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
                one, key=name, queue=queue, priority=priority, delay=delay, attributes=attributes
            )
            asked.append(
                {
                    "workflow": p["workflow"],
                    "input": msgspec.Raw(p["input"].encode()),
                    "key": p["key"],
                    "queue": p["queue"],
                    "priority": p["priority"],
                    "delay": None if p["delay"] is None else f"{p['delay']} seconds",
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
