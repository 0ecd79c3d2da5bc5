"""One worker in the test's own process: it can be killed at a moment, or be made a zombie.

It is the worker that ships, on a wire of its own. Killed, it is gone for the database at that very
moment; what is left of it here is cleared away in silence.

Reads and writes: what a tenure does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from rowlock.errors import Disconnected, StepTimeout
from rowlock.model.code import Code
from rowlock.model.commands import ExecuteStep
from rowlock.model.lease import Lease
from rowlock.runtime.points import Points
from rowlock.runtime.request import Request
from rowlock.runtime.step_threads import StepThreads
from rowlock.runtime.tenure import Tenure, WorkerOptions
from rowlock.settings import Settings
from rowlock.store.databases import through
from rowlock.store.entries import Entry
from rowlock.store.laboratory import Look
from rowlock.store.statements import SET_TEST_OFFSET, Answer, Claimed
from rowlock.telemetry.observer import Observer
from rowlock.testing.moments import Mark, When, mark_of_claim, mark_of_request, marks_of
from rowlock.testing.wire import Wire

LEAVING_S = 20.0
LOOK_S = 0.001
_WRITTEN = ("written", "recorded")


class Hangs(Exception):
    """What a watcher raises from CALLING to have the step hang for ever."""


class Watcher(Protocol):
    """Decides what happens at a moment: True kills the worker there."""

    async def at(self, worker: Worker, when: When, marks: Sequence[Mark]) -> bool: ...
    def claimed(self, worker: Worker, marks: Sequence[Mark]) -> bool: ...


class Farewell(logging.Filter):
    """Keeps quiet that a dead worker's statements can't be cancelled: it is cut off, as it should.

    For the logger ``psycopg``, while there may be such a worker.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("query cancellation")


class _Ears(Observer):
    """Tells the worker what the database gave it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def claimed(self, runs: Sequence[Claimed], seconds: float | None) -> None:
        self._worker.on_claimed(runs)


class Worker(Points):
    """See the module's text. :meth:`begin` it; then :meth:`leave`, :meth:`kill` or forget it."""

    def __init__(
        self,
        settings: Settings,
        address: tuple[str, int],
        watcher: Watcher,
        on_over: Callable[[Worker], None],
    ) -> None:
        self._settings = settings
        self._host = address[0]
        self._wire = Wire(*address)
        self._watcher = watcher
        self._on_over = on_over
        self._drain = asyncio.Event()
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[bool]
        self._registered_until = 0.0
        self._standing: set[asyncio.Future[None]] = set()
        self.tenure: Tenure
        self.hanging: set[Request] = set()
        """Steps that hang because a test wants them to."""
        self.stirred = asyncio.Event()
        """Something was written, or nothing was found to do: a look may show that all is quiet."""
        self.is_dead = False
        self.is_zombie = False
        """Its runs were taken over, and it lives on."""
        self.doings = 0
        """How often it got work, or wrote something: while this stays the same, it did nothing."""
        self.looks_in_vain = 0
        """How often it has asked for work and got none."""

    @property
    def id(self) -> int:
        return self.tenure.worker_id

    @property
    def is_ending(self) -> bool:
        """It was killed, or does not serve any more."""
        return self.is_dead or self._serving.done()

    @property
    def is_over(self) -> bool:
        return self._serving.done()

    async def begin(self, code: Code, slots: int, threads: StepThreads) -> None:
        """Register, and begin to serve."""
        port = await self._wire.open()
        url = through(self._settings.require_database_url(), self._host, port)
        options = WorkerOptions(slots=slots, grace_s=0.0, in_memory_s=0.0)
        try:
            self.tenure = await Tenure.begin(
                self._settings.with_(database_url=url), code, options, threads, _Ears(self), self
            )
        except BaseException:
            self._wire.cut()
            raise
        self._registered_until = self.tenure.trusted_until
        self._serving = asyncio.create_task(self.tenure.serve(self._drain, self._stop))
        self._serving.add_done_callback(lambda _: self._on_over(self))

    # --- what it is at

    @property
    def loaded(self) -> int:
        """How many runs are loaded."""
        return self.tenure.loaded

    @property
    def is_placed(self) -> bool:
        """Whether its schedules stand in the database."""
        return self.tenure.scheduler.is_placed

    def has_loaded(self, run_id: UUID) -> bool:
        return any(execution.run_id == run_id for execution in self.tenure.executions)

    def only_hangs(self) -> bool:
        """Whether all that is loaded waits, for timers, runs, and steps that hang."""
        return all(one.waits_but_for(self.hanging) for one in self.tenure.executions)

    def timers(self) -> list[float]:
        """When the next timer of each loaded run fires, in seconds from now."""
        now = asyncio.get_running_loop().time()
        due = [one.next_alarm() for one in self.tenure.executions]
        return [at - now for at in due if at is not None]

    def business(self) -> str:
        """What it does, for people."""
        return "; ".join(self.tenure.steps.running())

    async def something(self, within_s: float) -> None:
        """Wait until it has done something, so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.stirred.wait()

    def nudge(self, look: Look) -> None:
        """Have it do at once what it would do with its next poll."""
        is_due = look.next_due_us is not None and look.next_due_us <= 0
        if not self.is_ending and (look.ready or look.wakes or is_due):
            self.tenure.look_now()
        if not self.is_ending and look.has_ticks:
            self.tenure.scheduler.poke()

    async def pass_time(self, by: timedelta, offset: str) -> None:
        """Time has passed: timers in memory come nearer; the history is told what time it is."""
        with suppress(Disconnected):  # a new connection, or worker, is told by the database
            await self.tenure.journal.session.rows(SET_TEST_OFFSET, {"offset": offset})
        for execution in self.tenure.executions:
            execution.pass_time(by.total_seconds())
        if not self.is_ending:
            self.tenure.look_now()

    async def renewed(self) -> None:
        """Wait for its first heartbeat: until the next it will not hear that its runs are lost."""
        await self._until(lambda: self.tenure.trusted_until > self._registered_until)

    async def hear(self) -> None:
        """Let its loaded runs hear of all there is: messages, outcomes, requests to cancel."""
        now = asyncio.get_running_loop().time()
        looks = self.tenure.hear_now()
        lease = Lease.renewed(self.id, sent_at=now, lease_s=self._settings.lease_seconds)
        await self._until(
            lambda: (
                self.tenure.watcher.done >= looks
                and self.tenure.trusted_until >= lease.trusted_until
            )
        )

    async def _until(self, what: Callable[[], bool]) -> None:
        # Nobody tells of these, and nobody has to: they take as long as a statement does.
        while not self.is_ending and not what():  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    # --- its end

    def kill(self) -> None:
        """Be gone at this moment: nothing more is written, nothing is handed back."""
        self.is_dead = True
        self._wire.cut()
        self._serving.cancel()

    async def gone(self) -> None:
        """Wait until nothing of it is left in this process."""
        await asyncio.wait([self._serving])
        for future in self._standing:
            future.cancel()
        self._wire.cut()
        await asyncio.sleep(0)
        if self.is_dead or self._serving.cancelled():
            return
        if (error := self._serving.exception()) is not None:
            raise error

    async def leave(self) -> None:
        """Hand back what it has and go."""
        self._stop.set()
        self._drain.set()
        done, _ = await asyncio.wait([self._serving], timeout=LEAVING_S)
        if not done:
            self.kill()
        await self.gone()

    async def _stand_still(self) -> None:
        """The process is dead: this task of it does not go on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._standing.add(future)
        try:
            await future
        finally:
            self._standing.discard(future)

    def on_claimed(self, runs: Sequence[Claimed]) -> None:
        """The database was asked for work."""
        if not runs:
            self.looks_in_vain += 1
            self.stirred.set()
            return
        self.doings += 1
        if not self.is_dead and self._watcher.claimed(self, [mark_of_claim(r) for r in runs]):
            self.kill()

    # --- where it can be stopped (Points)

    async def writing(self, entries: Sequence[Entry]) -> None:
        await self._pass(When.WRITING, marks_of(entries))

    async def written(self, entries: Sequence[Entry], answers: Mapping[int, Answer]) -> None:
        held = [number for number, answer in answers.items() if answer.verdict not in _WRITTEN]
        done = [entry for number, entry in enumerate(entries) if number not in held]
        if done:
            await self._pass(When.WRITTEN, marks_of(done))
        self.doings += 1
        self.stirred.set()

    async def calling(self, run: Claimed, request: Request) -> None:
        try:
            await self._pass(When.CALLING, [mark_of_request(run, request)])
        except Hangs:
            await self._hang(request)

    async def called(self, run: Claimed, request: Request) -> None:
        await self._pass(When.CALLED, [mark_of_request(run, request)])

    async def committing(self, run: Claimed, request: Request) -> None:
        await self._pass(When.WRITING, [mark_of_request(run, request)])

    async def committed(self, run: Claimed, request: Request) -> None:
        self.doings += 1
        await self._pass(When.WRITTEN, [mark_of_request(run, request)])

    async def _pass(self, when: When, marks: list[Mark]) -> None:
        if not self.is_dead and await self._watcher.at(self, when, marks):
            self.kill()
        if self.is_dead:
            await self._stand_still()

    async def _hang(self, request: Request) -> None:
        command = request.command
        assert isinstance(command, ExecuteStep)
        if command.timeout_s is not None:
            # Its patience is real time, and nobody wants to wait for that.
            raise StepTimeout(command.name, command.timeout_s)
        self.hanging.add(request)
        try:
            await self._stand_still()
        finally:
            self.hanging.discard(request)
