"""A handle on one run, and what is known of it.

Reads: store's RUN, STEPS.  Writes: client/operations.py, through the client.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload
from uuid import UUID

import msgspec

from rowlock.client import operations
from rowlock.client.arguments import check
from rowlock.errors import ReceiveTimeout, ResultTimeout, RunFailed, UnknownRun
from rowlock.model.commands import seconds_of
from rowlock.model.failure import Failure
from rowlock.model.states import Outcome, TaskState
from rowlock.model.values import Shape
from rowlock.store.controls import EXPLAIN, Explanation
from rowlock.store.statements import RUN, STEPS, RunRow, StepRow
from rowlock.workflow import WorkflowCall

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # type checkers know it; nobody else needs it

    from rowlock.client.client import Client

R = TypeVar("R")
T = TypeVar("T")

ANY = Shape(Any, "the result")


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
    partition: str | None = None
    start_before: datetime | None = None
    dedup: str | None = None
    debounce: str | None = None
    batch: str | None = None

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
            row.partition,
            row.start_before,
            row.dedup,
            row.debounce,
            row.batch,
        )


@dataclass(frozen=True, slots=True)
class StreamEntry(Generic[R]):
    """An entry of a stream: its offset from 0, its value, when it was emitted."""

    offset: int
    value: R
    emitted_at: datetime


class Run(Generic[R]):
    """A handle on one run.

    What changes something takes a ``connection`` of yours (psycopg's AsyncConnection, SQLAlchemy's
    AsyncSession or AsyncConnection): it then happens, or not, with your transaction. Each raises
    Refused when the run is in no state for it, UnknownRun, Disconnected when it is not known
    whether it happened.
    """

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
        try:
            ended = await self._client._until(
                self.id, lambda: self._client._ended(self.id), seconds
            )
        except TimeoutError:
            raise ResultTimeout(self.id, seconds or 0.0) from None
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

    async def explain(self) -> Explanation:
        """Why it is not running, or not done: what has to go first, and what to do about it."""
        return (await self._client._read(EXPLAIN, {"run": self.id}))[0]

    # --- telling it something, and listening

    async def send(
        self, topic: str, value: Any = None, *, key: str | None = None, connection: Any = None
    ) -> None:
        """Send it a message, which it gets with ``app.receive(topic)``.

        ``key``: a message with a key that was used for this run is not sent again. Raises Refused
        when the run has ended, InvalidValue.
        """
        codecs = self._client._codecs
        await self._client._do(operations.send(self.id, codecs, topic, value, key), connection)

    async def set_event(self, name: str, value: Any = None, *, connection: Any = None) -> None:
        """Set an event of it, as the run itself does with ``app.set_event``."""
        codecs = self._client._codecs
        await self._client._do(operations.set_event(self.id, codecs, name, value), connection)

    async def emit(self, stream: str, value: Any = None, *, connection: Any = None) -> int:
        """Append to a stream of it, as the run itself does with ``app.emit``; the offset, from 0.

        Raises Refused when the run has ended, InvalidValue.
        """
        codecs = self._client._codecs
        return await self._client._do(operations.emit(self.id, codecs, stream, value), connection)

    @overload
    async def event(
        self, name: str, type: TypeForm[T], *, timeout: timedelta | float | None = None
    ) -> T: ...
    @overload
    async def event(self, name: str, *, timeout: timedelta | float | None = None) -> Any: ...

    async def event(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: timedelta | float | None = None,
    ) -> Any:
        """The latest value of an event, waiting until it is set for the first time.

        ``type``: what it is loaded as. ``timeout``: seconds or timedelta; 0 only looks. Raises
        ReceiveTimeout, EventNeverSet when the run has ended without it, UnknownRun.
        """
        check(name=name)
        shape = Shape(type, f"event {name}", codecs=self._client._codecs)
        seconds = None if timeout is None else seconds_of(timeout)
        try:
            value = await self._client._until(
                self.id, lambda: self._client._event(self.id, name), seconds
            )
        except TimeoutError:
            raise ReceiveTimeout(f"event {name} of run {self.id}", seconds or 0.0) from None
        return shape.load(value)

    @overload
    def stream(
        self, name: str, type: TypeForm[T], *, start: int = 0, follow: bool = True
    ) -> AsyncIterator[StreamEntry[T]]: ...
    @overload
    def stream(
        self, name: str, *, start: int = 0, follow: bool = True
    ) -> AsyncIterator[StreamEntry[Any]]: ...

    async def stream(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        start: int = 0,
        follow: bool = True,
    ) -> AsyncIterator[StreamEntry[Any]]:
        """The entries of a stream from offset ``start``, in order, as they come, to the run's end.

        ``type``: what each value is loaded as. ``follow=False``: only those that are there. Raises
        UnknownRun.
        """
        check(name=name)
        shape = Shape(type, f"an entry of stream {name}", codecs=self._client._codecs)
        with self._client._watch(self.id) as watch:
            while True:
                # Asked first: what it emitted before its end is there afterwards.
                unfinished = await self._client._ended(self.id) is None
                found = await self._client._entries((self.id, name, start))
                for entry in found:
                    yield StreamEntry(entry.offset, shape.load(entry.value), entry.emitted_at)
                    start = entry.offset + 1
                if found:
                    watch.found_something()
                elif follow and unfinished:
                    await watch.wait()
                else:
                    return

    # --- its end, and what comes after

    async def cancel(
        self,
        *,
        grace: timedelta | float = 30.0,
        force: bool = False,
        reason: str | None = None,
        connection: Any = None,
    ) -> None:
        """Ask it to stop: it gets CancelledError where it waits, and its children do.

        ``grace``: seconds or timedelta in which it may clean up. ``force``: it may not. ``reason``:
        stands in its error. Returns when that is asked, not when it has ended: await ``result``.
        """
        operation = operations.cancel(self.id, grace=grace, force=force, reason=reason)
        await self._client._do(operation, connection)

    async def resume(self, *, connection: Any = None) -> None:
        """Let it go on: a blocked, cancelled or dead run."""
        await self._client._do(operations.resume(self.id), connection)

    async def retry(self, *, connection: Any = None) -> None:
        """Let a failed run go on from its failed step."""
        await self._client._do(operations.retry(self.id), connection)

    async def rewind(
        self, place: str, *, call: WorkflowCall[R] | None = None, connection: Any = None
    ) -> None:
        """Let an ended run do again what it recorded at ``place`` and after it.

        ``call``: a call of its workflow with other arguments.
        """
        operation = operations.rewind(self.id, self._client._codecs, place, call)
        await self._fit(call, connection)
        await self._client._do(operation, connection)

    async def fork(
        self,
        place: str | None = None,
        *,
        call: WorkflowCall[R] | None = None,
        outcomes: Mapping[str, Any] | None = None,
        version: str | None = None,
        children: bool = False,
        connection: Any = None,
    ) -> Run[R]:
        """Start a new run with a copy of its history up to ``place`` (without one: all of it).

        ``call``: a call of its workflow with other arguments. ``outcomes``: other outcomes by
        place. ``version``: the code version that takes it, whatever the current one is.
        ``children``: children that have not ended are forked with it, instead of being waited for
        by both. The key is not copied. Raises InvalidValue as well.
        """
        codecs = self._client._codecs
        operation = operations.fork(
            self.id, codecs, place, call, outcomes, version=version, children=children
        )
        await self._fit(call, connection)
        return Run(self._client, await self._client._do(operation, connection), self._shape)

    async def _fit(self, call: WorkflowCall[Any] | None, connection: Any) -> None:
        """Raises MisplacedCall when this is no call of its workflow."""
        if call is not None:
            found = await self._client._do(operations.workflow_of(self.id), connection)
            operations.fit(self.id, call, found)

    async def delete(self, *, connection: Any = None) -> None:
        """Remove it, ended, with all that is recorded of it, and its key; if nothing needs it."""
        await self._client._do(operations.delete(self.id), connection)

    # --- its place among the others

    async def reprioritise(self, priority: int, *, connection: Any = None) -> bool:
        """Give it another priority, 0 first to 100 last, from its next claim on; whether it had."""
        return await self._client._do(operations.reprioritise(self.id, priority), connection)

    async def reschedule(self, at: datetime, *, connection: Any = None) -> bool:
        """Let it be claimed at another time (aware; a past one means now), if it is not begun."""
        return await self._client._do(operations.reschedule(self.id, at), connection)

    async def move(self, queue: str, *, connection: Any = None) -> bool:
        """Put it into another queue of its app, while it is not running; whether it was in one."""
        return await self._client._do(operations.move(self.id, queue), connection)
