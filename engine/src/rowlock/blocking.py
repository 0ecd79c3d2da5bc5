"""The client for code that is not async.

One implementation: the async client, in a loop of its own in a thread; each method here hands its
call over and waits. Only what happens in the caller's own transaction happens in the caller's
thread, because that is where his connection is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload
from uuid import UUID

from rowlock.aside import LoopAside
from rowlock.client import Client, Run, RunInfo, StreamEntry, operations
from rowlock.client.client import IS_OPEN, RunFilters, unknown_or
from rowlock.client.connections import rows_on_blocking
from rowlock.client.operations import LimitName, Limits, Operation
from rowlock.errors import MisplacedCall, Refused
from rowlock.model.code import Code
from rowlock.model.envelope import Chain, Codec
from rowlock.scheduling import ScheduleField, ScheduleOptions, When
from rowlock.settings import Settings
from rowlock.starting import StartOptions
from rowlock.store.controls import Explanation, QueueRow, VersionRow, WorkerRow
from rowlock.store.schedules import BackfillRow, ScheduleRow
from rowlock.store.statements import START_MANY, StepRow
from rowlock.workflow import Workflow, WorkflowCall

if TYPE_CHECKING:
    from typing_extensions import TypeForm  # type checkers know it; nobody else needs it

R = TypeVar("R")
T = TypeVar("T")


class BlockingRun(Generic[R]):
    """A handle on one run; each method waits. See :class:`rowlock.client.Run`.

    ``connection``: psycopg's Connection, SQLAlchemy's Session or Connection, Django's connection.
    """

    def __init__(self, client: BlockingClient, run: Run[R]) -> None:
        self._client = client
        self._run = run
        self.id = run.id

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    def info(self) -> RunInfo:
        return self._client._wait(self._run.info())

    def status(self) -> str:
        return self._client._wait(self._run.status())

    def result(self, timeout: timedelta | float | None = None) -> R:
        return self._client._wait(self._run.result(timeout))

    def steps(self) -> list[StepRow]:
        return self._client._wait(self._run.steps())

    def explain(self) -> Explanation:
        return self._client._wait(self._run.explain())

    def send(
        self, topic: str, value: Any = None, *, key: str | None = None, connection: Any = None
    ) -> None:
        operation = operations.send(self.id, self._client._client._codecs, topic, value, key)
        self._client._do(operation, connection)

    def set_event(self, name: str, value: Any = None, *, connection: Any = None) -> None:
        operation = operations.set_event(self.id, self._client._client._codecs, name, value)
        self._client._do(operation, connection)

    def emit(self, stream: str, value: Any = None, *, connection: Any = None) -> int:
        operation = operations.emit(self.id, self._client._client._codecs, stream, value)
        return self._client._do(operation, connection)

    @overload
    def event(
        self, name: str, type: TypeForm[T], *, timeout: timedelta | float | None = None
    ) -> T: ...
    @overload
    def event(self, name: str, *, timeout: timedelta | float | None = None) -> Any: ...

    def event(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: timedelta | float | None = None,
    ) -> Any:
        return self._client._wait(self._run.event(name, type, timeout=timeout))

    @overload
    def stream(
        self, name: str, type: TypeForm[T], *, start: int = 0, follow: bool = True
    ) -> Iterator[StreamEntry[T]]: ...
    @overload
    def stream(
        self, name: str, *, start: int = 0, follow: bool = True
    ) -> Iterator[StreamEntry[Any]]: ...

    def stream(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        start: int = 0,
        follow: bool = True,
    ) -> Iterator[StreamEntry[Any]]:
        entries = aiter(self._run.stream(name, type, start=start, follow=follow))
        while (entry := self._client._wait(_next(entries))) is not None:
            yield entry

    def cancel(
        self,
        *,
        grace: timedelta | float = 30.0,
        force: bool = False,
        reason: str | None = None,
        connection: Any = None,
    ) -> None:
        operation = operations.cancel(self.id, grace=grace, force=force, reason=reason)
        self._client._do(operation, connection)

    def resume(self, *, connection: Any = None) -> None:
        self._client._do(operations.resume(self.id), connection)

    def retry(self, *, connection: Any = None) -> None:
        self._client._do(operations.retry(self.id), connection)

    def rewind(
        self, place: str, *, call: WorkflowCall[R] | None = None, connection: Any = None
    ) -> None:
        operation = operations.rewind(self.id, self._client._client._codecs, place, call)
        self._fit(call, connection)
        self._client._do(operation, connection)

    def fork(
        self,
        place: str | None = None,
        *,
        call: WorkflowCall[R] | None = None,
        outcomes: Mapping[str, Any] | None = None,
        version: str | None = None,
        children: bool = False,
        connection: Any = None,
    ) -> BlockingRun[R]:
        codecs = self._client._client._codecs
        operation = operations.fork(
            self.id, codecs, place, call, outcomes, version=version, children=children
        )
        self._fit(call, connection)
        run_id = self._client._do(operation, connection)
        return BlockingRun(self._client, Run(self._client._client, run_id, self._run._shape))

    def _fit(self, call: WorkflowCall[Any] | None, connection: Any) -> None:
        if call is not None:
            found = self._client._do(operations.workflow_of(self.id), connection)
            operations.fit(self.id, call, found)

    def delete(self, *, connection: Any = None) -> None:
        self._client._do(operations.delete(self.id), connection)

    def reprioritise(self, priority: int, *, connection: Any = None) -> bool:
        return self._client._do(operations.reprioritise(self.id, priority), connection)

    def reschedule(self, at: datetime, *, connection: Any = None) -> bool:
        return self._client._do(operations.reschedule(self.id, at), connection)

    def move(self, queue: str, *, connection: Any = None) -> bool:
        return self._client._do(operations.move(self.id, queue), connection)


class BlockingClient:
    """See :class:`rowlock.client.Client`: ``with app.blocking_client() as client:``."""

    def __init__(
        self,
        where: Settings | str | None = None,
        *,
        app: str | None = None,
        code: Code | None = None,
        codec: Codec | Chain | Sequence[Codec | Chain] | None = None,
    ) -> None:
        self._client = Client(where, app=app, code=code, codec=codec)
        self._aside = LoopAside(
            "rowlock-client",
            "the client is not open: use `with app.blocking_client() as client:`",
        )

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> Self:
        """For where there is no ``with`` to put it in: :meth:`close` it then. Not before a fork."""
        if self._aside.is_open:
            raise MisplacedCall(IS_OPEN)
        self._aside.open()
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Give its connections back."""
        if not self._aside.is_open:
            return
        try:
            self._wait(self._client.__aexit__())
        finally:
            self._aside.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._aside.wait(work)

    def _do(self, operation: Operation[T], connection: Any = None) -> T:
        if connection is None:
            return self._wait(self._client._do(operation))
        try:
            return rows_on_blocking(connection, operation.statement, operation.parameters)[0]
        except Refused as error:
            raise unknown_or(error, operation) from None

    def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        connection: Any = None,
        **options: Unpack[StartOptions],
    ) -> BlockingRun[R]:
        """Start a run; see :meth:`rowlock.client.Client.start`.

        ``connection``: psycopg's Connection, SQLAlchemy's Session or Connection, Django's.
        """
        run_id = self._do(self._client._starting(call, key, options), connection)
        return BlockingRun(self, self._client._handles([call], [run_id])[0])

    def start_many(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        keys: Iterable[str | None] | None = None,
        connection: Any = None,
        **options: Unpack[StartOptions],
    ) -> list[BlockingRun[R]]:
        """Start many runs; see :meth:`rowlock.client.Client.start_many`."""
        if connection is None:
            runs = self._wait(self._client.start_many(calls, keys=keys, **options))
        else:
            runs = []
            for part in filter(None, self._client._parts(calls, keys, options)):
                ids = rows_on_blocking(connection, START_MANY, part.parameters)
                runs += self._client._handles(part.calls, ids)
        return [BlockingRun(self, run) for run in runs]

    @overload
    def run(self, run_id: UUID | str, workflow: Workflow[..., R]) -> BlockingRun[R]: ...
    @overload
    def run(self, run_id: UUID | str) -> BlockingRun[Any]: ...

    def run(self, run_id: UUID | str, workflow: Any = None) -> BlockingRun[Any]:
        """A handle on a run by its id."""
        return BlockingRun(self, self._client.run(run_id, workflow))

    def runs(self, **filters: Unpack[RunFilters]) -> list[RunInfo]:
        """A page of runs, newest first; see :meth:`rowlock.client.Client.runs`."""
        return self._wait(self._client.runs(**filters))

    def queues(self) -> list[QueueRow]:
        """The queues and what is in them; see :meth:`rowlock.client.Client.queues`."""
        return self._wait(self._client.queues())

    def workers(self) -> list[WorkerRow]:
        """The worker processes."""
        return self._wait(self._client.workers())

    def versions(self) -> list[VersionRow]:
        """The code versions that have registered, the newest first."""
        return self._wait(self._client.versions())

    def pause(
        self,
        *,
        queue: str | None = None,
        workflow: str | None = None,
        reason: str | None = None,
        connection: Any = None,
    ) -> bool:
        """Stop the claiming of runs; see :meth:`rowlock.client.Client.pause`."""
        return self._do(operations.pause(self._client._app, queue, workflow, reason), connection)

    def unpause(
        self, *, queue: str | None = None, workflow: str | None = None, connection: Any = None
    ) -> bool:
        """End a pause that was made with the same arguments; whether there was one."""
        return self._do(operations.unpause(self._client._app, queue, workflow), connection)

    def set_limit(self, queue: str, *, connection: Any = None, **limits: Unpack[Limits]) -> bool:
        """Set limits of a queue; see :meth:`rowlock.client.Client.set_limit`."""
        app = self._client._app
        return self._do(operations.set_limit(app, queue, **limits), connection)

    def unset_limit(self, queue: str, name: LimitName, *, connection: Any = None) -> bool:
        """Take one limit of a queue away; whether there was one."""
        app = self._client._app
        return self._do(operations.unset_limit(app, queue, name), connection)

    def reset_limits(self, queue: str, *, connection: Any = None) -> bool:
        """Set the limits of a queue as its code declares them; whether they were otherwise."""
        app = self._client._app
        return self._do(operations.reset_limits(app, queue), connection)

    def promote(self, version: str, *, connection: Any = None) -> None:
        """Let a registered version take all runs that are not pinned yet."""
        app = self._client._named_app("promote")
        self._do(operations.promote(app, version), connection)

    def retire(self, version: str, *, connection: Any = None) -> bool:
        """Let a version that has nothing more to do never become current again."""
        app = self._client._named_app("retire")
        return self._do(operations.retire(app, version), connection)

    def drain_worker(self, worker_id: int, *, connection: Any = None) -> bool:
        """Let a worker take no new runs, for good; those it has go on."""
        return self._do(operations.drain_worker(worker_id), connection)

    def create_schedule(
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
        """Have a workflow started by the calendar; see :meth:`rowlock.Client.create_schedule`."""
        operation = self._client._creating(name, when, workflow, args, tick, options)
        self._do(operation, connection)

    def update_schedule(
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
        """Change a schedule; see :meth:`rowlock.Client.update_schedule`."""
        operation = self._client._updating(name, when, workflow, args, tick, options)
        return self._do(operation, connection)

    def unset_schedule(self, name: str, field: ScheduleField, *, connection: Any = None) -> bool:
        """Take one option of a schedule away; whether it had one."""
        app = self._client._named_app("unset_schedule")
        return self._do(operations.unset_schedule(app, name, field), connection)

    def pause_schedule(
        self, name: str, *, reason: str | None = None, connection: Any = None
    ) -> bool:
        """Stop its ticks; runs that it started go on. Whether it was not paused before."""
        app = self._client._named_app("pause_schedule")
        return self._do(operations.pause_schedule(app, name, reason), connection)

    def resume_schedule(self, name: str, *, connection: Any = None) -> bool:
        """Let it tick again, from now on. Whether it was paused."""
        app = self._client._named_app("resume_schedule")
        return self._do(operations.resume_schedule(app, name), connection)

    def delete_schedule(self, name: str, *, connection: Any = None) -> None:
        """Delete a schedule that code does not declare."""
        app = self._client._named_app("delete_schedule")
        self._do(operations.delete_schedule(app, name), connection)

    def trigger_schedule(self, name: str, *, connection: Any = None) -> BlockingRun[Any]:
        """Start a run of it now, beside its ticks."""
        app = self._client._named_app("trigger_schedule")
        return self.run(self._do(operations.trigger_schedule(app, name), connection))

    def backfill(
        self, name: str, since: datetime, until: datetime, *, connection: Any = None
    ) -> int:
        """Have the past ticks of a range run; see :meth:`rowlock.Client.backfill`."""
        app = self._client._named_app("backfill")
        return self._do(operations.backfill(app, name, since, until), connection)

    def schedules(self, name: str | None = None) -> list[ScheduleRow]:
        """The schedules, or the one of this name."""
        return self._wait(self._client.schedules(name))

    def explain_schedule(self, name: str) -> Explanation:
        """Whether it ticks, and why not."""
        return self._wait(self._client.explain_schedule(name))

    def backfills(self) -> list[BackfillRow]:
        """The backfills that were asked for, and how far they are."""
        return self._wait(self._client.backfills())


async def _next(entries: AsyncIterator[StreamEntry[Any]]) -> StreamEntry[Any] | None:
    return await anext(entries, None)
