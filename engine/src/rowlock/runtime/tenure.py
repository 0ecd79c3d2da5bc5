"""One registration of a worker process: from its lease to its leaving.

Binds the services together: the claimer loads runs, executions journal their outcomes, the keeper
renews the lease, the tender, the watcher, the janitor and the scheduler look around. When the
database no longer knows the worker, or the lease could not be renewed, the tenure ends: all its
runs are dropped, nothing more is recorded, and the process begins a new one.

Reads and writes: store's DECLARE_QUEUES, SHOW_APP, REGISTER_WORKER, DRAIN, LEAVE; the rest through
its services.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

import msgspec

from rowlock.errors import Refused
from rowlock.model.code import Code
from rowlock.model.commands import StartChild
from rowlock.model.failure import Failure
from rowlock.runtime.claimer import Claimer
from rowlock.runtime.crier import Crier
from rowlock.runtime.execution import Execution
from rowlock.runtime.in_flight import IN_MEMORY_S
from rowlock.runtime.janitor import Janitor
from rowlock.runtime.journal import Journal, WorkerGone
from rowlock.runtime.keeper import LeaseExpired, LeaseKeeper
from rowlock.runtime.points import Points
from rowlock.runtime.request import Request
from rowlock.runtime.scheduler import Scheduler
from rowlock.runtime.step_threads import StepThreads
from rowlock.runtime.steps import StepRunner
from rowlock.runtime.stopping import CancelRequest
from rowlock.runtime.tender import Tender
from rowlock.runtime.watcher import Watcher
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Poisoned, Session, SessionPool
from rowlock.store.entries import Release
from rowlock.store.statements import (
    DECLARE_QUEUES,
    DRAIN,
    LEAVE,
    REGISTER_WORKER,
    SHOW_APP,
    START_CHILD,
    Claimed,
    Ended,
    Remembered,
)
from rowlock.store.transactions import Transactions
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How one worker process works."""

    slots: int = 100
    """Most runs that are loaded at a time."""
    queues: tuple[str, ...] | None = None
    """Queues it serves; None: all of its app's."""
    grace_s: float = 30.0
    """How long a draining worker lets its runs go on before it hands them back."""
    in_memory_s: float = IN_MEMORY_S
    """Timers up to this long are waited for in memory. 0: all are rows, as tests want it."""


class Tenure:
    """See the module's text. Made by :meth:`begin`; is the Host of its executions."""

    def __init__(
        self,
        settings: Settings,
        code: Code,
        options: WorkerOptions,
        threads: StepThreads,
        control: Session,
        worker_id: int,
        registered_at: float,
        observer: Observer,
        points: Points | None = None,
    ) -> None:
        self.settings = settings
        self.code = code
        self.version = settings.version
        self.worker_id = worker_id
        self.observer = observer
        self.in_memory_s = options.in_memory_s
        self._options = options
        self._points = points
        self._control = control
        self._listener = Session(settings, "listen")
        self._side = SessionPool(
            settings,
            "control",
            most=settings.transaction_connections,
            timeout_s=settings.lease_seconds,
        )
        self._executions: dict[UUID, Execution] = {}
        self._room = asyncio.Event()
        self._crier = Crier(control)
        self._claimer = Claimer(
            settings,
            control,
            worker_id=worker_id,
            app=code.app,
            queues=list(options.queues) if options.queues is not None else None,
            slots=self,
            load=self._load,
            observer=observer,
        )
        self.journal = Journal(
            settings,
            worker_id,
            on_ready=self._poke,
            on_tend=self._poke_tender,
            on_news=self._crier.tell,
            heirs=self._claimer,
            observer=observer,
            points=points,
        )
        self._transactions = Transactions(settings, threads.executor)
        self.steps = StepRunner(
            threads,
            self._transactions,
            self._side,
            settings.transaction_connections,
            observer,
            points,
        )
        self.watcher = Watcher(self._control)
        self.tender = Tender(settings, control, on_ready=self._poke, observer=observer)
        self._janitor = Janitor(settings, control, observer)
        self.scheduler = Scheduler(code.app, settings.version, code.schedules, control)
        self._keeper = LeaseKeeper(
            settings,
            control,
            worker_id,
            registered_at,
            self,
            suspects=self.steps.running,
            doing=self.steps.doing,
        )
        self._claiming: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[None]] = set()

    @classmethod
    async def begin(
        cls,
        settings: Settings,
        code: Code,
        options: WorkerOptions,
        threads: StepThreads,
        observer: Observer,
        points: Points | None = None,
    ) -> Tenure:
        """Show the app, register, take up a lease; waits for the database as long as needed."""
        control = Session(settings, "control", timeout_s=settings.lease_seconds / 2)
        clock = asyncio.get_running_loop()
        backoff = Backoff()
        workflows = sorted(code.workflows.values(), key=lambda w: w.name)
        while True:
            try:
                # First, so that no queue is there without its limits.
                await control.rows(
                    DECLARE_QUEUES,
                    {
                        "app": code.app,
                        "version": settings.version,
                        "queues": code.declared,
                        "only_new": False,
                    },
                )
                await control.rows(
                    SHOW_APP,
                    {
                        "app": code.app,
                        "queues": list(code.queues),
                        "workflows": [w.name for w in workflows],
                        "workflow_queues": [w.queue for w in workflows],
                    },
                )
                registered_at = clock.time()
                worker_id = await control.one(
                    REGISTER_WORKER,
                    {
                        "app": code.app,
                        "version": settings.version,
                        "host": socket.gethostname(),
                        "pid": os.getpid(),
                        "slots": options.slots,
                        "queues": list(options.queues) if options.queues is not None else None,
                        "lease": settings.lease_seconds,
                    },
                )
            except Disconnected as error:
                pause_s = backoff.next_s()
                log.warning("can't register with the database, again in %.1f s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                continue
            log.info(
                "worker %d serves %s of app %s with %d slots%s",
                worker_id,
                "queues " + ", ".join(options.queues) if options.queues else "all queues",
                code.app,
                options.slots,
                f", version {settings.version}" if settings.version else "",
            )
            return cls(
                settings,
                code,
                options,
                threads,
                control,
                worker_id,
                registered_at,
                observer,
                points,
            )

    # --- its life

    async def serve(self, drain: asyncio.Event, stop: asyncio.Event) -> bool:
        """Work until drained (True: left in good order) or until the lease is lost (False)."""
        in_good_order = True
        try:
            async with asyncio.TaskGroup() as group:
                services = [
                    group.create_task(self.journal.run(), name="journal"),
                    group.create_task(self._keeper.run(), name="keeper"),
                    group.create_task(self.tender.run(), name="tender"),
                    group.create_task(self.watcher.run(), name="watcher"),
                    group.create_task(self._janitor.run(), name="janitor"),
                    group.create_task(self.scheduler.run(), name="scheduler"),
                    group.create_task(self._crier.run(), name="crier"),
                    group.create_task(self._claimer.load_handed(), name="heir"),
                ]
                self._claiming = group.create_task(self._claimer.run(), name="claimer")
                services.append(self._claiming)
                if not self.settings.pgbouncer:
                    services.append(group.create_task(self._listen(), name="listener"))
                await drain.wait()
                await self._drain(stop)
                for service in services:
                    service.cancel()
        except* (WorkerGone, LeaseExpired) as ended:
            lease_ran_out = ended.subgroup(LeaseExpired) is not None
            log.warning(
                "worker %d %s: %d runs dropped, nothing of them is lost",
                self.worker_id,
                "has no lease any more" if lease_ran_out else "was declared dead",
                len(self._executions),
            )
            self.observer.lease_lost(len(self._executions))
            in_good_order = False
        finally:
            await self._close()
        return in_good_order

    async def _drain(self, stop: asyncio.Event) -> None:
        assert self._claiming is not None
        self._claiming.cancel()
        with suppress(asyncio.CancelledError, Disconnected):
            await self._claiming
        with suppress(Disconnected):
            await self._control.rows(DRAIN, {"worker": self.worker_id})
        log.info("draining: %d runs to finish or hand back", len(self._executions))
        clock = asyncio.get_running_loop()
        until = clock.time() + self._options.grace_s
        stopping = asyncio.create_task(stop.wait())
        try:
            while self._executions and not stop.is_set() and clock.time() < until:
                self._room.clear()
                waiting = asyncio.create_task(self._room.wait())
                await asyncio.wait(
                    [waiting, stopping],
                    timeout=until - clock.time(),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting.cancel()
        finally:
            stopping.cancel()
        if self._executions:
            log.info("handing back %d runs", len(self._executions))
            for execution in list(self._executions.values()):
                execution.release()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(2.0, self.settings.lease_seconds / 4)):
                await self.journal.flushed()
        with suppress(Disconnected):
            await self._control.rows(LEAVE, {"worker": self.worker_id})

    async def _close(self) -> None:
        for execution in list(self._executions.values()):
            execution.stop("stopped")
        await asyncio.sleep(0)  # let them unload: they are driven from plain callbacks
        for child in self._children:
            child.cancel()
        await self._control.close()
        await self._side.close()
        await self._listener.close()
        await self._transactions.close()

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            is_listening = False
            try:
                async for news in self._listener.listen(f"rowlock_worker_{self.worker_id}"):
                    backoff.reset()
                    if not is_listening:
                        is_listening = True
                        self.scheduler.poke()  # what was told before nobody heard
                    if news == "cancel":
                        self._keeper.poke()
                    elif news == "tend":
                        self._poke_tender()
                    elif news == "schedule":
                        self.scheduler.poke()
                    else:
                        self._poke()
            except Disconnected:
                await asyncio.sleep(backoff.next_s())

    def _poke(self) -> None:
        self._claimer.poke()

    def hear_now(self) -> int:
        """Ask for all that loaded runs could hear of: heard when the watcher has done so many looks
        and the lease was renewed."""
        self._keeper.poke()
        return self.watcher.look_again()

    def look_now(self) -> None:
        """Look for what is due and for work at once; a test knows that there is some."""
        self._poke_tender()
        self._poke()

    def _poke_tender(self) -> None:
        self.tender.expect(asyncio.get_running_loop().time())

    @property
    def is_trusted(self) -> bool:
        """Whether the lease holds."""
        return self._keeper.lease.is_trusted(asyncio.get_running_loop().time())

    @property
    def trusted_until(self) -> float:
        """Until when (loop time) it holds; every renewal moves it."""
        return self._keeper.lease.trusted_until

    @property
    def loaded(self) -> int:
        return len(self._executions)

    @property
    def executions(self) -> list[Execution]:
        """The runs that are loaded."""
        return list(self._executions.values())

    # --- slots, for the claimer

    def free(self) -> int:
        working = sum(not execution.is_ending for execution in self._executions.values())
        ending = len(self._executions) - working
        # Those that only wait for the journal make room, so that it never runs dry; but not
        # without end, or a worker that claims faster than it writes would load every run there is.
        return self._options.slots - working - max(0, ending - self._options.slots)

    async def wait_for(self, wanted: int, timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.free() < wanted:
                    self._room.clear()
                    await self._room.wait()

    # --- claims, for the keeper

    def alive(self) -> dict[UUID, int]:
        return {run_id: execution.epoch for run_id, execution in self._executions.items()}

    def drop(self, run_id: UUID, epoch: int) -> None:
        execution = self._executions.get(run_id)
        # One that is ending hears from its own entry, which may have been written meanwhile.
        if execution is not None and execution.epoch == epoch and not execution.is_ending:
            execution.lost()

    def hand_back(self, run_id: UUID, epoch: int) -> None:
        self.journal.add(Release(str(run_id), epoch), lambda _verdict, _detail: None)

    def cancel(self, run_id: UUID, request: CancelRequest) -> None:
        execution = self._executions.get(run_id)
        if execution is not None:
            execution.on_cancel(request)

    # --- what executions need: the Host

    def _load(
        self, claimed: Claimed, remembered: list[Remembered], outcomes: dict[UUID, Ended]
    ) -> None:
        workflow = self.code.workflows.get(claimed.workflow)
        if workflow is None:
            log.error(
                "workflow %s is not in this worker's code; run %s is blocked until a worker that "
                "has it registers",
                claimed.workflow,
                claimed.run_id,
            )
            reason = {
                "kind": "unknown_workflow",
                "message": f"no workflow named {claimed.workflow} in the code of worker "
                f"{self.worker_id}; a worker that has it will make the run ready again",
            }
            self.journal.add(
                Release(
                    str(claimed.run_id),
                    claimed.epoch,
                    msgspec.Raw(msgspec.json.encode(reason)),
                ),
                lambda _verdict, _detail: None,
            )
            return
        before = self._executions.get(claimed.run_id)
        if before is not None:
            before.stop("lost")
        execution = Execution(self, claimed, workflow, remembered, outcomes)
        self._executions[claimed.run_id] = execution
        execution.start()

    def execute_step(self, execution: Execution, request: Request) -> None:
        self.steps.execute(execution, request)

    def start_keyed_child(self, execution: Execution, request: Request) -> None:
        """Start over a connection of its own: a start with a key may have to wait for another."""
        task = asyncio.create_task(self._start_child(execution, request))
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        request.task = task

    async def _start_child(self, execution: Execution, request: Request) -> None:
        child = request.command
        assert isinstance(child, StartChild)
        backoff = Backoff()
        while True:
            try:
                if self._points is not None:
                    await self._points.committing(execution.claimed, request)
                [run_id] = await self._side.rows(
                    START_CHILD,
                    {
                        "app": self.code.app,
                        "workflow": child.name,
                        "input": child.input,
                        "key": child.key,
                        "queue": child.queue,
                        "priority": child.priority,
                        "attributes": child.attributes,
                        "trace_context": execution.context_for_child(),
                        "detached": child.detached,
                        "deadline": child.deadline_s,
                        "partition": child.partition,
                        "parent": execution.run_id,
                        "generation": execution.generation,
                        "place": request.place,
                    },
                )
            except Disconnected:
                await asyncio.sleep(backoff.next_s())
            except (Poisoned, Refused) as error:
                execution.record_failure(request, Failure.of(error))
                return
            else:
                if self._points is not None:
                    await self._points.committed(execution.claimed, request)
                execution.record_child(request, run_id)
                self._poke()
                return

    def watch(self, execution: Execution, *, now: bool) -> None:
        self.watcher.watch(execution, now=now)

    def unwatch(self, execution: Execution) -> None:
        self.watcher.unwatch(execution)

    def unloaded(self, execution: Execution, how: str) -> None:
        if self._executions.get(execution.run_id) is execution:
            del self._executions[execution.run_id]
        if how == "suspended":
            due = execution.next_due()
            if due is not None:
                self.tender.expect(due)
        self._room.set()

    def room_changed(self) -> None:
        self._room.set()
