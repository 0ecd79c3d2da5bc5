"""One loaded run: replays its history, carries out what its code asks for, puts it to sleep.

The run's code lives in a RunLoop. Whatever it awaits is a Request at a place. Outcomes are
delivered one at a time, in the order in which they were recorded, and the code runs until it is
quiet before the next: first those of the history, then, when all are delivered, live ones. Nothing
new is begun before the history is exhausted, so a branch that was cancelled is not executed again
by its replay.

A live outcome is delivered when the journal has written it; but where nothing else is open, when
it is queued. If the code ends with that, both are one commit. If it goes on, nothing is begun
before it is written.

When the code is quiet and waits for nothing but parked requests (long timers, messages, other
runs), the run is suspended: the journal puts its task to sleep, and the code is thrown away with
Suspended.

Reads: model/history.py (what fits), the journal's verdicts.  Writes: through its Outbox.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Container, Coroutine, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import msgspec

from rowlock.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidValue,
    LeaseLost,
    MisplacedCall,
    RunFailed,
    StepFailed,
    Suspended,
    UnreadableValue,
)
from rowlock.model.code import Code, WorkflowCode
from rowlock.model.commands import (
    RUN_ID,
    AwaitEvent,
    AwaitGroup,
    AwaitRun,
    Command,
    ExecuteStep,
    Receive,
    Sleep,
)
from rowlock.model.deliveries import Deliveries
from rowlock.model.envelope import Codecs
from rowlock.model.failure import Failure
from rowlock.model.history import History, Locked, Misfit, Record, describe
from rowlock.model.states import Outcome
from rowlock.runtime import source, stopping
from rowlock.runtime.branches import Branch, RunLoop, Spinning
from rowlock.runtime.ending import UNDO, Ending
from rowlock.runtime.in_flight import InFlight
from rowlock.runtime.journal import (
    EMPTY,
    LOST,
    RECORDED,
    REFUSED,
    UNDELIVERABLE,
    WRITTEN,
    Journal,
)
from rowlock.runtime.outbox import Hanging, Outbox, raw
from rowlock.runtime.request import Request, Result
from rowlock.runtime.stopping import CancelRequest, Stopping
from rowlock.runtime.suspension import Suspension
from rowlock.runtime.threads import WorkflowThread
from rowlock.store.entries import Watch
from rowlock.store.statements import Claimed, Ended, Member, Remembered, Told
from rowlock.telemetry import logs
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.run")

MOST_ATTEMPTS, MOST_CHARACTERS = 32767, 2000
"""Of an outcome that PostgreSQL takes for certain."""

MOST_REFUSALS = 100
"""Code that is refused so often while it is unloaded gets no error any more, only silence."""

MOST_PATIENCE_MS = 2000
WATCHES_WITHOUT_PATIENCE = 8


def is_whole(command: Command) -> bool:
    """Whether what it comes to is known before the journal writes it: made here, or by others."""
    return isinstance(command, ExecuteStep | Sleep | AwaitRun | AwaitGroup | AwaitEvent)


def is_surely_kept(text: str | None) -> bool:
    """Whether PostgreSQL takes this JSON text for certain.

    It refuses escapes that stand for no character, and what is too deep or too big: then the code
    is to get an error instead, which is too late when it has gone on.
    """
    return text is None or (len(text) <= MOST_CHARACTERS and "\\u" not in text)


class Host(Protocol):
    """What a worker process does for its executions."""

    code: Code
    version: str
    journal: Journal
    observer: Observer
    in_memory_s: float

    def execute_step(self, execution: Execution, request: Request) -> None: ...
    def start_keyed_child(self, execution: Execution, request: Request) -> None: ...
    def watch(self, execution: Execution, *, now: bool) -> None: ...
    def unwatch(self, execution: Execution) -> None: ...
    def room_changed(self) -> None: ...
    def unloaded(self, execution: Execution, how: str) -> None: ...


class Execution:
    """See the module's text."""

    def __init__(
        self,
        host: Host,
        claimed: Claimed,
        workflow: WorkflowCode,
        remembered: Iterable[Remembered] = (),
        outcomes: dict[UUID, Ended] | None = None,
    ) -> None:
        self.host = host
        self.workflow = workflow
        self.run_id = claimed.run_id
        self.run_text = str(claimed.run_id)
        self.epoch = claimed.epoch
        self.generation = claimed.generation
        self.end: str | None = None
        """How it left this worker; None while it is loaded."""
        self.busy = 0
        """Code of the run that is running elsewhere (a sync workflow's thread)."""
        self.loop = RunLoop(self)  # type: ignore[abstract]

        self.claimed = claimed
        self._context = contextvars.Context()
        """The context its code runs in: what is logged about the run belongs there."""
        self._clock = asyncio.get_running_loop()
        self._loaded_at = self._clock.time()
        self._main: Branch | None = None
        records: list[Record] = []
        waits: dict[str, Remembered] = {}
        stopped: Remembered | None = None
        grace_over: Remembered | None = None
        for one in remembered:
            if one.position is None:
                waits[one.place] = one
            else:
                records.append(
                    Record(one.place, one.kind, one.name or "", one.position, one.output, one.error)
                )
                if one.place == stopping.PLACE:
                    stopped = one
                elif one.place == stopping.OVER:
                    grace_over = one
        self._history = History(records)
        self._requests: dict[str, Request] = {}
        """Asked for, and not delivered yet."""
        self._fresh: list[Request] = []
        """Not recorded; begun when the history is exhausted."""
        self._ahead_of: int | None = None
        """Position of the outcome that the code has and the journal has not written yet."""
        self._deliveries: Deliveries[Result] = Deliveries(self._history.last_position)
        self.outbox: Outbox = Outbox(host.journal, claimed)
        self.outbox.waited = bool(waits)
        self.suspension: Suspension = Suspension(
            self._send_suspend,
            on_asleep=partial(self.stop, "suspended"),
            on_awake=self._on_awake,
            on_lost=self.lost,
        )
        self._in_flight = InFlight(self, waits, outcomes or {})
        self._stopping = Stopping(self, stopped, grace_over)
        self._ending = Ending(self)
        self._emitting: set[Future[None]] = set()
        """Of entries that its steps wait to see written."""
        self._misfit: Misfit | None = None
        self._refusals = 0
        self._code_is_over = False
        self._pumping = False

    def __repr__(self) -> str:
        return f"<run {self.run_id} of {self.workflow.name}, epoch {self.epoch}>"

    @property
    def is_over(self) -> bool:
        """Its code has ended, or is being thrown away."""
        return self._code_is_over or self.end is not None

    @property
    def is_ending(self) -> bool:
        """Its code runs no more; it only waits for the journal."""
        return self._code_is_over or bool(self.suspension)

    @property
    def codecs(self) -> Codecs | None:
        """What encodes its values."""
        return self.host.code.codecs

    def next_due(self) -> float | None:
        """When its next timer falls due (loop time)."""
        return min((r.due for r in self._requests.values() if r.due is not None), default=None)

    def waits_but_for(self, stuck: Container[Request]) -> bool:
        """Whether it does nothing but wait, for timers, others, and these requests."""
        if self.is_ending or self.busy or self._pumping or self._is_recording:
            return False
        return self._in_flight.waits_but_for(stuck)

    @property
    def _is_recording(self) -> bool:
        """Whether an outcome is on its way: not written yet, or not delivered."""
        return self._ahead_of is not None or bool(self._deliveries)

    def next_alarm(self) -> float | None:
        """When time alone makes something happen (loop time): a timer, deadline or grace."""
        times = (self.next_due(), self._stopping.next_due())
        return min((time for time in times if time is not None), default=None)

    def pass_time(self, seconds: float) -> None:
        """A test lets time pass: all that comes with time comes so much nearer."""
        self._loaded_at -= seconds
        self._in_flight.pass_time(seconds)
        self._stopping.pass_time(seconds)

    def context_for_child(self) -> str | None:
        """The trace context that the run's children start with."""
        own = self.host.observer.context_for_child(self.claimed)
        return self.claimed.trace_context if own is None else own

    def trace(self) -> Hanging:
        """The same, as it goes into the journal."""
        context = self.context_for_child()
        return {} if context is None else {"trace_context": raw(context)}

    @property
    def is_undoing(self) -> bool:
        """Its code has ended; what it did is being undone."""
        return self._ending.is_undoing

    @property
    def has_undos(self) -> bool:
        """Something is registered to be undone."""
        return self._ending.has_undos

    # --- life

    def start(self) -> None:
        """Begin to run. What follows happens in callbacks of the worker's loop."""
        try:
            arguments = self.workflow.inputs.load(self.claimed.input)
        except UnreadableValue as error:
            self._ending.block(Locked("", error))
            return
        except InvalidValue as error:
            self._ending.refuse(error)
            return
        deadline_in = self.claimed.deadline_in
        if deadline_in is not None and deadline_in <= 0 and self.epoch == 1:
            self._ending.refuse(DeadlineExceeded(self.workflow.name))
            return
        context = contextvars.copy_context()
        context.run(logs.enter, logs.Where(self.run_text, self.workflow.name))
        context.run(self.host.observer.run_loaded, self.claimed)
        self._context = context
        if self.workflow.is_async:
            coroutine = self.workflow.function(**arguments)
        else:
            function = partial(self.workflow.function, **arguments)
            coroutine = WorkflowThread(self, self._clock, function).main()
        self._main = self.loop.begin(coroutine, context)
        if deadline_in is not None:
            self._stopping.set_deadline(deadline_in)
        if self.claimed.cancel is not None:
            self._stopping.on_request(stopping.decode_request(self.claimed.cancel))
        self.schedule_pump()

    def stop(self, how: str) -> None:
        """Unload the run; without an entry that says otherwise, it goes on elsewhere."""
        self._clock.call_soon(self.unload, how)

    def release(self) -> None:
        """Hand the run back, so that another worker goes on with it at once."""
        if self.end is None and not self._code_is_over:
            self._code_is_over = True
            self.outbox.release(None, lambda _verdict, _detail: self.stop("released"))

    def lost(self) -> None:
        """Another worker owns this run, or nobody does."""
        if self.end is None:
            if (
                not self._code_is_over
            ):  # else we gave it away ourselves, and its last steps hear of it
                log.warning("%s", LeaseLost(self.run_id, self.epoch), extra=self.where)
            self.stop("lost")

    # --- what the run's code asks for

    def request(self, command: Command) -> asyncio.Future[Any]:
        """Called from the run's code: ask for something at the branch's next place."""
        if self._code_is_over or self.end is not None:
            self._refusals += 1
            if self._refusals > MOST_REFUSALS:
                # It catches whatever is raised and tries again, and would freeze the worker.
                return self.loop.request_future()
            raise Suspended(
                f"{describe(command.kind, command.name)} was refused: the run has ended or is "
                "being unloaded while it waits. A `finally` block is passed on every unloading; "
                "it can't use steps for that reason."
            )
        place = self.loop.branch().next_place()
        future = self.loop.request_future()
        request = Request(place, command, future, contextvars.copy_context())
        self._requests[place] = request
        try:
            if not self._history.called(place, command.kind, command.name):
                self._fresh.append(request)
        except Misfit as misfit:
            misfit.line = source.line_of_caller()
            self._misfit = self._misfit or misfit
        return future

    # --- running until quiet, then the next outcome

    def schedule_pump(self) -> None:
        """Pump soon. Never from inside the run's own code."""
        if not self._pumping:
            self._pumping = True
            self._clock.call_soon(self.pump)

    def pump(self) -> None:
        """Run the code until it is quiet, deliver the next outcome, and so on."""
        self._pumping = False
        try:
            while not self._code_is_over and self.end is None:
                self.loop.drive()
                if self._misfit is not None:
                    raise self._misfit
                assert self._main is not None
                if self._main.done():
                    self._on_return(self._main)
                    return
                if self._stopping.is_over and not self.is_undoing:
                    self.give_up(self._stopping.error)
                    return
                if self.busy:
                    return
                if self._history.replaying:
                    if self._was_stuck_here():
                        self._on_stuck()
                        return
                    self._deliver_record(self._history.next())
                    continue
                if self._fresh and self._ahead_of is None and not self._stopping.is_pending:
                    self._begin_fresh()
                result = self._deliveries.take()
                if result is None:
                    self._consider_sleep()
                    return
                del self._requests[result.request.place]
                result.deliver()
        except Spinning as error:
            self._code_is_over = True
            self._cancel_branches()
            self._ending.refuse(MisplacedCall(str(error)))
        except Misfit as misfit:
            self._ending.block(misfit)

    def _deliver_record(self, record: Record) -> None:
        request = self._requests.get(record.place)
        if request is None:
            waiting = [str(r) for r in self._requests.values() if not r.future.done()]
            found = "a wait for " + ", ".join(waiting[:3]) if waiting else "no such call"
            raise Misfit(record.place, str(record), found, record.name)
        del self._requests[record.place]
        if not request.future.done():
            self._load(request, record.output, record.error).deliver()

    def _load(self, request: Request, output: str | None, error: str | None) -> Result:
        """A recorded outcome as what the code gets."""
        if error is not None:
            return Result(request, error=self._rebuild(request, Failure.from_json(error)))
        shape = request.command.shape
        try:
            return Result(request, shape.load("null" if output is None else output))
        except UnreadableValue as locked:
            raise Locked(request.place, locked) from None
        except InvalidValue as misfit:
            if isinstance(request.command, Receive):
                # It is as its sender made it: that is for this code to cope with.
                return Result(request, error=self._rebuild(request, Failure.of(misfit)))
            raise Misfit(request.place, f"{shape.what} as recorded", str(misfit)) from None

    def _rebuild(self, request: Request, failure: Failure) -> BaseException:
        command = request.command
        error = self.host.code.errors.rebuild(failure, describe(command.kind, command.name))
        if isinstance(command, AwaitRun) and isinstance(error, StepFailed):
            return RunFailed(
                command.run_id,
                command.name,
                Outcome.FAILED,
                failure.type,
                failure.message,
                failure.traceback,
            )
        return error

    def _begin_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        for request in fresh:
            if not request.future.done():
                self._in_flight.begin(request)

    def park_retry(self, request: Request, delay_s: float, failure: Failure) -> None:
        """Try a step again after a while; durably when that is long."""
        self._in_flight.park_retry(request, delay_s, failure)

    def await_delivery(self, request: Request) -> None:
        """An outcome will come for this, which no code has asked for."""
        self._requests[request.place] = request

    # --- what it watches

    def watches(self) -> list[Watch]:
        """What it waits for, timers aside."""
        return self._in_flight.watches()

    def on_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        """Runs that this one waits for have ended (or are not there)."""
        self.suspension.hold_or_do(self._hear, self._in_flight.on_outcomes, outcomes, missing)

    def on_events(self, events: dict[tuple[UUID, str], Told]) -> None:
        """The events of other runs as they are now."""
        self.suspension.hold_or_do(self._hear, self._in_flight.on_events, events)

    def on_mail(self, topics: set[str]) -> None:
        """There are messages."""
        self.suspension.hold_or_do(self._hear, self._in_flight.on_mail, topics)

    def on_group(self, name: str, members: list[Member] | None) -> None:
        """A group of its children as it is now."""
        self.suspension.hold_or_do(self._hear, self._in_flight.on_group, name, members)

    def on_cancel(self, request: CancelRequest) -> None:
        """Somebody wants it cancelled."""
        if not self.is_ending or self.is_undoing:
            self._stopping.on_request(request)

    def _hear(self, hear: Any, *what: Any) -> None:
        if self.end is None:
            hear(*what)

    # --- what its steps emit

    def emit(self, stream: str, value: str) -> Future[None]:
        """Append to a stream, from inside a step: in whatever thread that works."""
        written: Future[None] = Future()
        self._clock.call_soon_threadsafe(self._emit, stream, value, written)
        return written

    def _emit(self, stream: str, value: str, written: Future[None]) -> None:
        def answered(verdict: str, detail: Any) -> None:
            self._emitting.discard(written)
            if written.done():
                return
            if verdict == LOST:
                written.set_exception(LeaseLost(self.run_id, self.epoch))
            elif verdict == REFUSED:
                what = f"an entry of stream {stream}"
                written.set_exception(InvalidValue(what, "", str(detail)))
            else:
                written.set_result(None)

        if self.end is not None:
            written.set_exception(LeaseLost(self.run_id, self.epoch))
        else:
            self._emitting.add(written)
            self.outbox.emit(stream, value, answered)

    # --- outcomes

    def record_step(self, request: Request, value: Any, output: str, seconds: float) -> None:
        """A step succeeded."""
        self.record(request, value, output=output, seconds=seconds)

    def record_failure(self, request: Request, failure: Failure, seconds: float = 0.0) -> None:
        """What was asked for failed for good."""
        error = self._rebuild(request, failure)
        self.record(request, error=error, failure=failure.to_json(), seconds=seconds)

    def lock(self, request: Request, unreadable: UnreadableValue) -> None:
        """What came can't be read here: the run is blocked until it is where that can be."""
        self._misfit = self._misfit or Locked(request.place, unreadable)
        self.schedule_pump()

    def record_child(self, request: Request, run_id: UUID) -> None:
        """A keyed child was started over a connection of its own."""
        self.record(request, run_id, output=RUN_ID.store(run_id))

    def next_position(self) -> int:
        """A position for a transaction step that is about to commit."""
        return self._deliveries.next_position()

    def settle(self, position: int, request: Request, value: Any) -> None:
        """A transaction step has committed."""
        self._arrived(position, Result(request, value))

    def unsettle(self, position: int) -> None:
        """It has not."""
        self._deliveries.came_to_nothing(position)
        self.schedule_pump()

    def adopt(self, position: int, request: Request, output: str | None, error: str | None) -> None:
        """The place stands recorded: that is what counts."""
        try:
            self._arrived(position, self._load(request, output, error))
        except Misfit as misfit:
            self._misfit = misfit
            self.schedule_pump()

    def _arrived(self, position: int, result: Result) -> None:
        self._in_flight.close(result.request)
        self._deliveries.arrived(position, result)
        self.schedule_pump()

    def record(
        self,
        request: Request,
        value: Any = None,
        error: BaseException | None = None,
        *,
        output: str | None = None,
        failure: str | None = None,
        seconds: float = 0.0,
        hanging: Hanging | None = None,
        keep_timer: bool = False,
    ) -> None:
        """Hand an outcome to the journal, and deliver it in its turn.

        Some outcomes are made by the journal: then ``value`` and ``output`` stay empty, and they
        are delivered when they are written.
        """
        if request.future.done() or self.end is not None:
            return
        self._in_flight.close(request)
        if not keep_timer:
            request.cancel_timer()
        is_ahead = self._may_be_ahead(request, output, failure)
        position = self._deliveries.next_position()
        result = Result(request, value, error)
        done = partial(self._on_recorded, position, result)
        if is_ahead:
            # The code first, then the journal: its end comes into the same commit.
            self._ahead_of = position
            self._deliveries.arrived(position, result)
            self.schedule_pump()
            done = partial(self._on_written, position)
        self.outbox.step(request, position, output, failure, seconds, hanging, done)

    def _may_be_ahead(self, request: Request, output: str | None, failure: str | None) -> bool:
        """Whether the code may have this before it is written.

        Nothing else is open, so nothing is stopped or decided by it; and nobody can refuse it.
        """
        return (
            len(self._requests) == 1
            and not self._deliveries
            and is_whole(request.command)
            and request.attempt <= MOST_ATTEMPTS
            and is_surely_kept(output)
            and is_surely_kept(failure)
        )

    def _on_written(self, position: int, verdict: str, detail: Any) -> None:
        """What was delivered before is written now."""
        if self.end is not None:
            return
        self._ahead_of = None
        if verdict == LOST:
            self.lost()
        elif verdict != WRITTEN and not (verdict == RECORDED and detail["position"] == position):
            # Never seen. The code went on with what does not stand: away with it and its end.
            what = "outcome %d was not recorded (%s): %s"
            self.log(logging.ERROR, what, position, verdict, detail)
            self.outbox.close()
            self.lost()
        else:
            self.pump()

    def _on_recorded(self, position: int, result: Result, verdict: str, detail: Any) -> None:
        if self.end is not None:
            return
        request = result.request
        if verdict == LOST:
            self.lost()
        elif verdict == RECORDED:
            self.adopt(position, request, _text(detail["output"]), _text(detail["error"]))
        elif verdict in (EMPTY, UNDELIVERABLE, REFUSED):
            self._deliveries.came_to_nothing(position)
            self._on_unwritten(result, verdict, detail)
            self.schedule_pump()
        elif detail is not None or (result.error is None and isinstance(request.command, Receive)):
            request.cancel_timer()
            self.adopt(position, request, _text(detail), None)
        else:
            self._in_flight.close(request)
            self._deliveries.arrived(position, result)
            self.pump()  # the journal answers from a plain callback: no need to wait a turn

    def _on_unwritten(self, result: Result, verdict: str, detail: Any) -> None:
        request = result.request
        if request.future.done():
            return
        if verdict == EMPTY:
            self._in_flight.on_empty(request)
        elif verdict == UNDELIVERABLE:
            self._in_flight.on_undeliverable(request)
        elif not isinstance(result.error, InvalidValue):
            refused = InvalidValue(request.command.shape.what, "", str(detail))
            self._in_flight.reopen(request)
            self.record_failure(request, Failure.of(refused))
        elif not self._code_is_over:  # not even an error can be recorded there
            self._ending.refuse(result.error)

    # --- the end

    def _on_return(self, main: Branch) -> None:
        """The run's function has returned or raised; or all is undone."""
        error = asyncio.CancelledError() if main.cancelled() else main.exception()
        undo = self._ending.will_undo(error)
        for record in self._history.undelivered():
            if record.place not in self._requests and not (undo and record.place.startswith(UNDO)):
                end = "the end of the workflow"
                raise Misfit(record.place, str(record), end, record.name)
        self._code_is_over = True
        self._cancel_branches()
        if error is None:
            self._ending.returned(main.result())
        else:
            self._ending.raised(error)

    def code_ended(self) -> None:
        """Nothing more is asked for; what stops it from outside is too late."""
        self._code_is_over = True
        self._stopping.close()
        self.host.room_changed()

    def stopped_with(self) -> Cancelled | DeadlineExceeded | None:
        """Why its code got a CancelledError, if it came from outside."""
        return self._stopping.error if self._stopping.is_delivered else None

    def begin_undoing(self, undoing: Coroutine[Any, Any, None]) -> None:
        """What the code did is undone in its place, however long that takes."""
        self._code_is_over = False
        self._stopping.close()
        self._main = self.loop.begin(undoing, self._context.copy(), UNDO)
        self.schedule_pump()

    def compensate(self, undo: ExecuteStep) -> None:
        """Called from the run's code: do this if the run fails or is cancelled.

        The thread of a sync workflow may still run when its code was dropped: that is too late.
        """
        if not self._code_is_over and not self.is_undoing:
            self._ending.register(undo)

    def cancel_code(self) -> None:
        """Let the run's function get a CancelledError where it waits."""
        if self._main is not None and not self._main.done():
            self._main.cancel()

    def give_up(self, error: Cancelled | DeadlineExceeded, *, forced: bool = False) -> None:
        """Its time to clean up is over: drop its code and end. ``forced``: and undo nothing."""
        if self.end is not None or self.is_ending:
            return
        log.warning(
            "the run's code was dropped: %s",
            "it was cancelled by force" if forced else "its time to clean up is over",
            extra=self.where,
        )
        self._code_is_over = True
        self._drop_code()
        self._ending.drop(error, forced=forced)

    def age(self) -> float:
        """Seconds since it was claimed for the first time."""
        return self.claimed.age + self._clock.time() - self._loaded_at

    @property
    def where(self) -> dict[str, str]:
        """What a line of the log about it carries."""
        return {"run": self.run_text, "workflow": self.workflow.name}

    def log(self, level: int, text: str, *arguments: object) -> None:
        """Say something about the run, where its code says what it says."""
        self._context.copy().run(log.log, level, text, *arguments, extra=self.where)

    # --- sleeping

    def _consider_sleep(self) -> None:
        """The code is quiet: put the run to sleep if it waits for nothing that is near."""
        if self.busy or self._is_recording or self.suspension or self._stopping.is_pending:
            return
        if not self._in_flight:
            self._on_stuck()
            return
        if self._stopping.is_delivered and not self.is_undoing:
            return  # it cleans up: that does not take long, and its claim counts meanwhile
        if not self._in_flight.is_parked(self._clock.time() + self.host.in_memory_s):
            return
        self.host.room_changed()
        self.suspension.begin()

    def _on_stuck(self) -> None:
        error = MisplacedCall(
            f"workflow {self.workflow.name} waits for something that nothing in this run will "
            "ever bring about, such as an asyncio.Event that is never set. A workflow may "
            "wait for steps, timers, messages, events, other runs, and its own branches."
        )
        self._code_is_over = True
        self._cancel_branches()
        self._ending.fail(error)

    def _was_stuck_here(self) -> bool:
        """Whether an earlier life found that nothing will ever happen, and began to undo."""
        return (
            not self.is_undoing
            and self.has_undos
            and self._history.peek().place.startswith(UNDO)
            and all(request.future.done() for request in self._requests.values())
        )

    def _send_suspend(self, force: bool, done: Any) -> None:
        watches = self.watches()
        # A replay costs about 0.1 ms a step: who waits for many may be woken a little later, so
        # that replays take a small share of the time, however many children end one by one.
        patience_ms = 0
        if len(watches) > WATCHES_WITHOUT_PATIENCE:
            patience_ms = min(MOST_PATIENCE_MS, self._deliveries.last // 4)
        deadline_s = self.claimed.deadline_in
        if deadline_s is not None:
            deadline_s = max(0.0, deadline_s - (self._clock.time() - self._loaded_at))
        if self.is_undoing:
            deadline_s = None
        self.outbox.suspend(watches, self._in_flight.places(), patience_ms, deadline_s, force, done)

    def _on_awake(self, look: bool, detail: Any) -> None:
        """The suspend did not come about; ``look``: something it waits for has happened."""
        if detail is not None:
            self.on_cancel(msgspec.convert(detail, CancelRequest))
        if look:
            self.host.watch(self, now=True)
        else:
            self.schedule_pump()

    # --- unloading

    def _cancel_branches(self) -> None:
        """Cancel what is left of the run's tasks; what they try now is refused."""
        for _ in range(3):
            left = [branch for branch in self.loop.branches if not branch.done()]
            if not left:
                return
            for branch in left:
                branch.cancel()
            try:
                self.loop.drive()
            except Spinning:
                break
        log.warning(
            "the workflow's code caught its cancellation and goes on; it was dropped",
            extra=self.where,
        )
        self.loop.keep_for_ever()

    def _drop_code(self) -> None:
        """Let Suspended pass through the run's code; what it waits for is stopped."""
        try:
            for request in self._requests.values():
                if not request.future.done():
                    request.cancel_work()
                    request.future.set_exception(
                        Suspended("the run is unloaded; it goes on later from what is recorded")
                    )
                    request.future._log_traceback = False
            self.loop.drive()
        except Spinning:
            log.warning("the workflow spins while it is unloaded", extra=self.where)
        self._cancel_branches()
        if self._main is not None and self._main.done() and not self._main.cancelled():
            self._main.exception()  # nobody else looks at it, and asyncio would complain
        self._fresh.clear()
        self._in_flight.forget()
        self.busy = 0

    def unload(self, how: str) -> None:
        if self.end is not None:
            return
        self.end = how
        self.outbox.close()
        self.host.unwatch(self)
        self._stopping.close()
        self._drop_code()
        for written in self._emitting:
            if not written.done():
                written.set_exception(LeaseLost(self.run_id, self.epoch))
        self.host.unloaded(self, how)
        self.loop.forget()
        self.suspension.forget()
        self._main = None
        self._requests.clear()

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """asyncio reports an error that nobody in the run's code has looked at."""
        if self.end is None and not self._code_is_over:
            log.error(
                "%s",
                context.get("message", "unhandled error in the workflow's loop"),
                exc_info=context.get("exception"),
                extra=self.where,
            )


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
