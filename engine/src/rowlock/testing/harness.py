"""A worker and a client in the test's process, a database, and time that passes when told to.

The harness knows when nothing can happen any more without time passing: no run is loaded but in
steps that hang, none is ready, none is due. Only then does it let time pass, up to the next timer
and not further, so that every timer fires at its own time and in its order.

Reads and writes: what its worker does; the database's clock, through store/laboratory.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar, Unpack

from rowlock.app import App
from rowlock.client import Client, Run
from rowlock.errors import ConfigurationError, MisplacedCall
from rowlock.runtime.step_threads import StepThreads
from rowlock.settings import Settings
from rowlock.starting import StartOptions
from rowlock.store.connection import AsyncConnection
from rowlock.store.laboratory import Laboratory, Look, offset_text
from rowlock.store.migrate import migrate
from rowlock.testing.crashes import CrashReport, exhaust
from rowlock.testing.databases import Databases
from rowlock.testing.faults import Fault, Kind, Step
from rowlock.testing.stuck import takes_too_long, waits_for_ever
from rowlock.testing.succession import Succession
from rowlock.testing.worker import Farewell, Watcher, Worker
from rowlock.workflow import WorkflowCall

R = TypeVar("R")

log = logging.getLogger("rowlock.testing")

# A debugger may stop the whole process for a while: no lease shall run out meanwhile.
SETTINGS = Settings(lease_seconds=600.0, poll_seconds=0.2)
A_YEAR = timedelta(days=366)
SLOTS = 100
PAUSE_S = 0.002
LOOK_S = 0.02
PATIENCE_S = 10.0
"""How long something may go on in real time before the log says what it is."""


class Harness:
    """``async with Harness(app) as harness:`` serves ``app`` on a fresh database of its own.

    ``database_url``: a database to use instead; it is migrated if need be, and kept. ``databases``:
    where to make databases, instead of :func:`~rowlock.testing.databases.default_server`.
    ``schedules``: whether those that the code declares tick; without, only runs that the test
    starts are there. ``slots``: as of a worker. ``settings``: for the worker and the client; their
    database is replaced.
    """

    def __init__(
        self,
        app: App,
        database_url: str | None = None,
        *,
        databases: Databases | None = None,
        schedules: bool = False,
        slots: int = SLOTS,
        settings: Settings = SETTINGS,
    ) -> None:
        self.app = app
        self._code = app.code if schedules else replace(app.code, schedules=())
        self._given_url = database_url
        self._databases = databases
        self._own_databases: Databases | None = None
        self._slots = slots
        self._settings = settings
        self._farewell = Farewell()
        self._client: Client | None = None
        self.lab: Laboratory
        """A connection of the test's own, for looking and for the clock."""
        self._threads: StepThreads
        self._worker: Worker
        self._workers: Succession
        self._turn = asyncio.Lock()
        """Held from a look until the time has passed that it called for."""

    # --- opening and closing

    async def __aenter__(self) -> Self:
        url = self._given_url
        if url is None:
            if self._databases is None:
                self._databases = self._own_databases = await asyncio.to_thread(Databases)
            url = await asyncio.to_thread(self._databases.make)
        self._settings = self._settings.with_(database_url=url)
        logging.getLogger("psycopg").addFilter(self._farewell)
        self._threads = StepThreads(self._slots, most_abandoned=0, connections=1)
        try:
            self.lab = Laboratory(self._settings)
            await self.lab.open()
            if not await self.lab.is_migrated():
                await asyncio.to_thread(migrate, self._settings)
            client = self.app.client(self._settings)
            await client.__aenter__()
            self._client = client
            self._workers = Succession(self.lab, self._settings.max_takeovers, self._new_worker)
            await self._workers.open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            await self._workers.close()
        finally:
            await self._close()
        if kind is None:
            self._workers.refuse_unhappened()

    async def _close(self) -> None:
        logging.getLogger("psycopg").removeFilter(self._farewell)
        if self._client is not None:
            await self._client.__aexit__()
            self._client = None
        with suppress(AttributeError):  # it was never opened
            await self.lab.close()
        self._threads.close()
        if self._given_url is None and self._databases is not None:
            await asyncio.to_thread(self._databases.drop, self.database_url)
        if self._own_databases is not None:
            await asyncio.to_thread(self._own_databases.close)

    @property
    def database_url(self) -> str:
        """Where the test's data is, for connections of your own."""
        return self._settings.require_database_url()

    @property
    def watchers(self) -> list[Watcher]:
        """Told of every moment of every worker; see crashes.py."""
        return self._workers.watchers

    @property
    def is_open(self) -> bool:
        return self._client is not None

    @property
    def client(self) -> Client:
        """A client of the app: to send, cancel, list and whatever else clients do."""
        if self._client is None:
            raise MisplacedCall(
                "the harness is not open: use `async with Harness(app) as harness:`"
            )
        return self._client

    # --- running

    async def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        connection: AsyncConnection[Any] | None = None,
        **options: Unpack[StartOptions],
    ) -> Run[R]:
        """Start a run; see :meth:`rowlock.client.Client.start`. It runs while the test awaits."""
        return await self.client.start(call, key=key, connection=connection, **options)

    async def run(self, call: WorkflowCall[R], *, within: timedelta = A_YEAR) -> R:
        """Start a run and give its result, as soon as possible: see :meth:`result`."""
        return await self.result(await self.start(call), within=within)

    async def result(self, run: Run[R], *, within: timedelta = A_YEAR) -> R:
        """The result of a run; time passes whenever everything only waits.

        ``within``: how much time may pass. Raises RunFailed, whose ``__cause__`` is the run's own
        error; Stuck when the run waits for what never comes, or takes longer.
        """
        until = self.lab.offset + within
        while True:
            look, due = await self._go_on(until, run)
            if look.finished:
                return await run.result()
            if due is None:
                await run.info()  # it may not exist at all
                raise waits_for_ever(run.id, await self.lab.unfinished())
            if self.lab.offset + due > until:
                raise takes_too_long(run.id, within, await self.lab.unfinished())

    async def run_until_idle(self) -> None:
        """Let everything happen that can happen without time passing."""
        await self._settle()

    async def run_until_done(self, *, within: timedelta = A_YEAR) -> None:
        """Let time pass until no run waits for a timer any more, ``within`` of it at most.

        Schedules tick while it passes, but time does not pass for their ticks alone.
        """
        until = self.lab.offset + within
        while True:
            _, due = await self._go_on(until)
            if due is None or self.lab.offset + due > until:
                return

    async def advance(self, by: timedelta) -> None:
        """Let so much time pass, timer by timer; what falls due happens at its time.

        So do the ticks of schedules, one after the other, each with its own time.
        """
        if by < timedelta():
            raise ConfigurationError(f"time can't go back: advance({by!r})")
        until = self.lab.offset + by
        while True:
            _, due = await self._go_on(until, ticks=True)
            if due is None or self.lab.offset + due > until:
                break
        async with self._turn:
            left = until - self.lab.offset
            if left > timedelta():
                await self._pass_time(left)
        await self._settle()

    async def now(self) -> datetime:
        """What time it is for workflows: as ``app.now()`` would say."""
        return await self.lab.now()

    # --- faults

    def crash_after(self, step: Step, *, nth: int = 1) -> None:
        """Kill the worker right after the commit that records this step's outcome.

        Another worker goes on with all its runs at once. ``nth``: at which time that such a
        commit is seen.
        """
        self._workers.faults.append(Fault(Kind.CRASH_AFTER, step, nth))

    def crash_before_record(self, step: Step, *, nth: int = 1) -> None:
        """Kill the worker when this step's function has run and nothing of it is written."""
        self._workers.faults.append(Fault(Kind.CRASH_BEFORE_RECORD, step, nth))

    def takeover(self, step: Step, *, nth: int = 1) -> None:
        """While this step is in flight another worker takes all runs over.

        The first one lives on without knowing: its step ends after the new owner's, and it tries
        to record that. AssertionError, should it succeed.
        """
        self._workers.faults.append(Fault(Kind.TAKEOVER, step, nth))

    def hang(self, step: Step, *, nth: int = 1) -> None:
        """This step's function is not called: the attempt never ends, and time may pass meanwhile.

        A step with a ``timeout`` of its own raises StepTimeout at once.
        """
        self._workers.faults.append(Fault(Kind.HANG, step, nth))

    async def crash(self) -> None:
        """Kill the worker now, wherever it is; returns when another has taken its runs over."""
        self._workers.present.kill()
        await self._workers.changed()

    async def exhaust_crashes(
        self,
        call: Callable[[], WorkflowCall[Any]],
        *,
        prepare: Callable[[Harness], Awaitable[object] | object] | None = None,
        drive: Callable[[Harness, Run[Any]], Awaitable[object]] | None = None,
        effects: Callable[[Harness], Awaitable[object] | object] | None = None,
        history: bool = True,
        at_once: int = 1,
    ) -> CrashReport:
        """Crash a run at every point at which a crash can make a difference, one after the other.

        Runs ``call()`` once in peace, then once for each point with a crash there, each time on a
        fresh database, and compares how it ends, what is recorded (unless ``history`` is False),
        and what ``effects`` gives. ``prepare`` is called before each start, ``drive`` after it, to
        do what the run needs from outside. ``at_once``: so many lives side by side, if they share
        nothing in this process. Raises AssertionError that names the point and the difference.
        """
        return await exhaust(
            self._another,
            call,
            prepare=prepare,
            drive=drive,
            effects=effects,
            history=history,
            at_once=at_once,
        )

    def _another(self) -> Harness:
        """One like this on a fresh database of its own."""
        if self._databases is None:
            self._databases = self._own_databases = Databases(self.database_url)
        settings = self._settings.with_(database_url="")
        return Harness(self.app, databases=self._databases, slots=self._slots, settings=settings)

    # --- when nothing happens any more

    async def _go_on(
        self, until: timedelta, run: Run[Any] | None = None, *, ticks: bool = False
    ) -> tuple[Look, timedelta | None]:
        """Let everything happen, then the time pass that is left to the next timer.

        No time passes beyond ``until`` (an offset), nor when the run has ended. A tick on the way
        comes first; with ``ticks`` it counts as a timer of its own. Gives the look that was decided
        by, and how far the timer was away.
        """
        async with self._turn:
            look = await self._settle(run)
            due = self._next_due(look)
            step = due
            if look.next_tick_us is not None and (ticks or due is not None):
                tick = max(timedelta(microseconds=look.next_tick_us), timedelta())
                step = tick if due is None else min(tick, due)
                due = step if ticks else due
            if not look.finished and step is not None and self.lab.offset + step <= until:
                await self._pass_time(step)
                return look, timedelta()
            return look, due

    async def _settle(self, run: Run[Any] | None = None) -> Look:
        """Wait until nothing can happen without time passing, or until the run has ended."""
        _ = self.client
        clock = asyncio.get_running_loop()
        look_at, warn_at = 0.0, clock.time() + PATIENCE_S
        vain: tuple[Worker, int] | None = None
        heard: tuple[Worker, int] | None = None
        while True:
            await self._workers.changed()
            worker = self._workers.present
            worker.stirred.clear()
            # While code runs here, the database need not be asked whether all is quiet.
            if worker.only_hangs() or clock.time() > look_at:
                look_at = clock.time() + LOOK_S
                look = await self.lab.look(self._code.app, None if run is None else run.id)
                if not look.finished and not self._only_waits(worker, look):
                    vain = heard = None
                elif worker.loaded and not look.finished and heard != (worker, worker.doings):
                    # What it waits for may be there, and the news on its way.
                    heard = (worker, worker.doings)
                    await worker.hear()
                    look_at = 0.0
                    continue
                elif look.finished or not look.ready:
                    if not await self._workers.bury_zombies():
                        return look
                elif vain is None or vain[0] is not worker:
                    vain = (worker, worker.looks_in_vain + 2)
                elif worker.looks_in_vain >= vain[1]:
                    return look  # what is ready is held back: a claim has tried and got nothing
                worker.nudge(look)
            if clock.time() > warn_at:
                warn_at += PATIENCE_S
                log.warning("still busy: %s", worker.business() or "nothing that is known")
            await worker.something(PAUSE_S)

    def _only_waits(self, worker: Worker, look: Look) -> bool:
        if self._workers.is_changing or worker is not self._workers.present or look.wakes:
            return False
        if look.next_due_us is not None and look.next_due_us <= 0:
            return False
        if not worker.is_placed or look.has_ticks:
            return False
        return look.running == worker.loaded and worker.only_hangs()

    def _next_due(self, look: Look) -> timedelta | None:
        """How long until the next timer fires, of runs that sleep and of runs that hang."""
        due = [] if look.next_due_us is None else [timedelta(microseconds=look.next_due_us)]
        due += [timedelta(seconds=seconds) for seconds in self._workers.present.timers()]
        return max(min(due), timedelta()) if due else None

    async def _pass_time(self, by: timedelta) -> None:
        await self.lab.pass_time(by)
        await self._workers.present.pass_time(by, offset_text(self.lab.offset))

    async def _new_worker(self, watcher: Watcher, on_over: Callable[[Worker], None]) -> Worker:
        worker = Worker(self._settings, self.lab.address, watcher, on_over)
        await worker.begin(self._code, self._slots, self._threads)
        return worker
