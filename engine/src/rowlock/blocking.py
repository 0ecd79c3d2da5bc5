"""The client for code that is not async.

One implementation: the async client, in a loop of its own in a thread; each method here hands its
call over and waits. Only a start in the caller's own transaction runs in the caller's thread,
because that is where his connection is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar
from uuid import UUID

from rowlock.aside import LoopAside
from rowlock.client import Client, Run, RunInfo, StreamEntry
from rowlock.model.code import Code
from rowlock.model.commands import seconds_of
from rowlock.model.envelope import Chain, Codec
from rowlock.settings import Settings
from rowlock.store.connection import Connection, Statement, translated
from rowlock.store.statements import CANCEL, SEND, SET_EVENT, START, StepRow
from rowlock.workflow import WorkflowCall

R = TypeVar("R")
T = TypeVar("T")


class BlockingRun(Generic[R]):
    """A handle on one run; each method waits. See :class:`rowlock.client.Run`."""

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

    def send(
        self,
        topic: str,
        value: Any = None,
        *,
        key: str | None = None,
        connection: Connection[Any] | None = None,
    ) -> None:
        self._client._tell(SEND, self._run._message(topic, value, key), connection)

    def set_event(
        self, name: str, value: Any = None, *, connection: Connection[Any] | None = None
    ) -> None:
        self._client._tell(SET_EVENT, self._run._event(name, value), connection)

    def event(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        timeout: timedelta | float | None = None,
    ) -> Any:
        return self._client._wait(self._run.event(name, type, timeout=timeout))

    def stream(
        self,
        name: str,
        type: Any = Any,  # noqa: A002
        *,
        start: int = 0,
        follow: bool = True,
    ) -> Iterator[StreamEntry]:
        entries = aiter(self._run.stream(name, type, start=start, follow=follow))
        while (entry := self._client._wait(_next(entries))) is not None:
            yield entry

    def cancel(
        self,
        *,
        grace: timedelta | float = 30.0,
        force: bool = False,
        reason: str | None = None,
        connection: Connection[Any] | None = None,
    ) -> None:
        parameters = {
            "run": self.id,
            "grace": seconds_of(grace),
            "force": force,
            "reason": reason,
        }
        self._client._tell(CANCEL, parameters, connection)

    def resume(self) -> None:
        self._client._wait(self._run.resume())

    def retry(self) -> None:
        self._client._wait(self._run.retry())

    def rewind(self, place: str, *, call: WorkflowCall[R] | None = None) -> None:
        self._client._wait(self._run.rewind(place, call=call))

    def fork(
        self,
        place: str | None = None,
        *,
        call: WorkflowCall[R] | None = None,
        outcomes: Mapping[str, Any] | None = None,
    ) -> BlockingRun[R]:
        forked = self._run.fork(place, call=call, outcomes=outcomes)
        return BlockingRun(self._client, self._client._wait(forked))


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
        self._aside.open()
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self._aside.is_open:
            return
        try:
            self._wait(self._client.__aexit__())
        finally:
            self._aside.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._aside.wait(work)

    def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        deadline: timedelta | float | None = None,
        attributes: Mapping[str, Any] | None = None,
        connection: Connection[Any] | None = None,
    ) -> BlockingRun[R]:
        """Start a run; see :meth:`rowlock.client.Client.start`."""
        if connection is None:
            started = self._client.start(
                call,
                key=key,
                queue=queue,
                priority=priority,
                delay=delay,
                deadline=deadline,
                attributes=attributes,
            )
            return BlockingRun(self, self._wait(started))
        parameters = self._client._start_parameters(
            call,
            key=key,
            queue=queue,
            priority=priority,
            delay=delay,
            deadline=deadline,
            attributes=attributes,
        )
        with translated():
            row = connection.execute(START.sql, parameters).fetchone()
        assert row is not None
        result = call.result_with(self._client._codecs)
        return BlockingRun(self, Run(self._client, row[0], result))

    def start_many(
        self,
        calls: Iterable[WorkflowCall[R]],
        *,
        keys: Iterable[str | None] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        delay: timedelta | float | None = None,
        deadline: timedelta | float | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> list[BlockingRun[R]]:
        """Start many runs; see :meth:`rowlock.client.Client.start_many`."""
        started = self._wait(
            self._client.start_many(
                calls,
                keys=keys,
                queue=queue,
                priority=priority,
                delay=delay,
                deadline=deadline,
                attributes=attributes,
            )
        )
        return [BlockingRun(self, run) for run in started]

    def _tell(
        self,
        statement: Statement[Any],
        parameters: Mapping[str, Any],
        connection: Connection[Any] | None,
    ) -> None:
        if connection is None:
            self._wait(self._client._tell(statement, parameters, None))
        else:
            with translated():
                connection.execute(statement.sql, parameters)

    def run(self, run_id: UUID | str, workflow: Any = None) -> BlockingRun[Any]:
        """A handle on a run by its id."""
        return BlockingRun(self, self._client.run(run_id, workflow))

    def runs(self, **filters: Any) -> list[RunInfo]:
        """A page of runs, newest first; see :meth:`rowlock.client.Client.runs`."""
        return self._wait(self._client.runs(**filters))

    def promote(self, version: str) -> None:
        """Let a registered version take all runs that are not pinned yet."""
        self._wait(self._client.promote(version))


async def _next(entries: AsyncIterator[StreamEntry]) -> StreamEntry | None:
    return await anext(entries, None)
