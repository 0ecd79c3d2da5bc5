"""One loaded run: replays its history, carries out what its code asks for, puts it to sleep.

The run's code lives in a RunLoop. Whatever it awaits is a Request at a place. Outcomes are
delivered one at a time, in the order in which they were recorded, and the code runs until it is
quiet before the next: first those of the history, then, when all are delivered, live ones as the
journal acknowledges them. Nothing new is begun before the history is exhausted, so a branch that
was cancelled is not executed again by its replay.

When the code is quiet and waits for nothing but parked requests (long timers, other runs), the
run is suspended: the journal puts its task to sleep, and the code is thrown away with Suspended.

Reads: model/history.py (what fits), the journal's verdicts.  Writes: through its Outbox.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import uuid
from collections.abc import Container, Iterable
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import msgspec

from rowlock.errors import (
    InvalidValue,
    LeaseLost,
    MisplacedCall,
    Nondeterminism,
    RunFailed,
    StepFailed,
    Suspended,
    UnknownRun,
)
from rowlock.model.code import Code, WorkflowCode
from rowlock.model.commands import AwaitRun, Command, ExecuteStep, Note, Sleep, StartChild
from rowlock.model.deliveries import Deliveries
from rowlock.model.failure import Failure
from rowlock.model.history import History, Misfit, Record, describe
from rowlock.model.states import Outcome
from rowlock.runtime.branches import Branch, RunLoop, Spinning
from rowlock.runtime.journal import LOST, RECORDED, REFUSED, Journal
from rowlock.runtime.outbox import Outbox, child_entry
from rowlock.runtime.request import Request, Result
from rowlock.runtime.suspension import Suspension
from rowlock.runtime.threads import WorkflowThread
from rowlock.store.statements import Claimed, Ended, Remembered
from rowlock.telemetry import logs
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.run")

IN_MEMORY_S = 1.0
"""Timers up to this long are waited for in memory; longer ones cost a row and no slot. What a
worker goes by is its own option, of which this is the default."""

MOST_REFUSALS = 100
"""Code that is refused so often while it is unloaded gets no error any more, only silence."""

MOST_PATIENCE_MS = 2000
WATCHES_WITHOUT_PATIENCE = 8


class Host(Protocol):
    """What a worker process does for its executions."""

    code: Code
    version: str
    journal: Journal
    observer: Observer
    in_memory_s: float

    def execute_step(self, execution: Execution, request: Request) -> None: ...
    def start_keyed_child(self, execution: Execution, request: Request) -> None: ...
    def watch(self, execution: Execution, run_id: UUID, *, now: bool) -> None: ...
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
        records, self._waits = [], {}
        for one in remembered:
            if one.position is None:
                self._waits[one.place] = one
            else:
                records.append(
                    Record(one.place, one.kind, one.name or "", one.position, one.output, one.error)
                )
        self._history = History(records)
        self._outcomes = outcomes or {}
        self._requests: dict[str, Request] = {}
        """Asked for, and not delivered yet."""
        self._fresh: list[Request] = []
        """Not recorded; begun when the history is exhausted."""
        self._open: dict[str, Request] = {}
        """Begun, and nothing has been handed to the journal for them yet."""
        self._deliveries: Deliveries[Result] = Deliveries(self._history.last_position)
        self._outbox = Outbox(host.journal, claimed)
        self._outbox.waited = bool(self._waits)
        self._suspension = Suspension(
            self._send_suspend,
            on_asleep=partial(self.stop, "suspended"),
            on_awake=self._on_awake,
            on_lost=self.lost,
        )
        self._misfit: Misfit | None = None
        self._refusals = 0
        self._ending = False
        self._pumping = False

    def __repr__(self) -> str:
        return f"<run {self.run_id} of {self.workflow.name}, epoch {self.epoch}>"

    @property
    def is_over(self) -> bool:
        """Its code has ended, or is being thrown away."""
        return self._ending or self.end is not None

    @property
    def is_ending(self) -> bool:
        """Its code runs no more; it only waits for the journal."""
        return self._ending or bool(self._suspension)

    def next_due(self) -> float | None:
        """When its next timer falls due (loop time)."""
        return min((r.due for r in self._requests.values() if r.due is not None), default=None)

    def waits_but_for(self, stuck: Container[Request]) -> bool:
        """Whether it does nothing but wait, for timers, other runs, and these requests."""
        if self.is_ending or self.busy or self._pumping or self._deliveries or not self._open:
            return False
        return all(request.parked or request in stuck for request in self._open.values())

    def pass_time(self, seconds: float) -> None:
        """A test lets time pass: its timers fall due so much earlier."""
        self._loaded_at -= seconds
        for request in self._requests.values():
            if request.timer is not None and request.due is not None:
                request.timer.cancel()
                self._park_until(request, request.due - seconds - self._clock.time())

    def context_for_child(self) -> str | None:
        """The trace context that the run's children start with."""
        own = self.host.observer.context_for_child(self.claimed)
        return self.claimed.trace_context if own is None else own

    # --- life

    def start(self) -> None:
        """Begin to run. What follows happens in callbacks of the worker's loop."""
        try:
            arguments = self.workflow.inputs.load(self.claimed.input)
        except InvalidValue as error:
            self._finish(Outcome.FAILED, failure=Failure.of(error))
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
        self.schedule_pump()

    def stop(self, how: str) -> None:
        """Unload the run; without an entry that says otherwise, it goes on elsewhere."""
        self._clock.call_soon(self._unload, how)

    def release(self) -> None:
        """Hand the run back, so that another worker goes on with it at once."""
        if self.end is None and not self._ending:
            self._ending = True
            self._outbox.release(None, lambda _verdict, _detail: self.stop("released"))

    def lost(self) -> None:
        """Another worker owns this run, or nobody does."""
        if self.end is None:
            if not self._ending:  # else we gave it away ourselves, and its last steps hear of it
                log.warning("%s", LeaseLost(self.run_id, self.epoch), extra={"run": self.run_text})
            self.stop("lost")

    # --- what the run's code asks for

    def request(self, command: Command) -> asyncio.Future[Any]:
        """Called from the run's code: ask for something at the branch's next place."""
        if self._ending or self.end is not None:
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
            while self._ending is False and self.end is None:
                self.loop.drive()
                if self._misfit is not None:
                    raise self._misfit
                assert self._main is not None
                if self._main.done():
                    self._on_return(self._main)
                    return
                if self._history.replaying:
                    if self.busy:
                        return
                    self._deliver_record(self._history.next())
                    continue
                if self._fresh:
                    self._begin_fresh()
                result = self._deliveries.take()
                if result is None:
                    self._consider_sleep()
                    return
                del self._requests[result.request.place]
                result.deliver()
        except Spinning as error:
            self._ending = True
            self._cancel_branches()
            self._finish(Outcome.FAILED, failure=Failure.of(MisplacedCall(str(error))))
        except Misfit as misfit:
            self._block(misfit)

    def _deliver_record(self, record: Record) -> None:
        request = self._requests.get(record.place)
        if request is None:
            waiting = [str(r) for r in self._requests.values() if not r.future.done()]
            found = "a wait for " + ", ".join(waiting[:3]) if waiting else "no such call"
            raise Misfit(record.place, str(record), found)
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
        except InvalidValue as misfit:
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

    # --- beginning something new

    def _begin_fresh(self) -> None:
        fresh, self._fresh = self._fresh, []
        for request in fresh:
            if not request.future.done():
                self._open[request.place] = request
                request.future.add_done_callback(partial(self._on_answered, request))
                self._begin(request)

    def _on_answered(self, request: Request, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._open.pop(request.place, None)
            request.cancel_work()

    def _begin(self, request: Request) -> None:
        match request.command:
            case ExecuteStep():
                wait = self._waiting_for("retry", request)
                if wait is None:
                    self.host.execute_step(self, request)
                else:
                    request.attempt = wait.attempt
                    self._park_until(request, self._remaining(wait))
            case Sleep(seconds=seconds):
                wait = self._waiting_for("timer", request)
                remaining = seconds if wait is None else self._remaining(wait)
                if wait is None and remaining > self.host.in_memory_s:
                    self._journal_timer(request, "timer", remaining, None)
                self._park_until(request, remaining)
            case Note(kind="now"):
                self._record(request)  # the journal puts in the database's time
            case Note(kind=kind, shape=shape):
                value = uuid.uuid4() if kind == "uuid" else random.random()
                self._record(request, value, output=shape.store(value))
            case StartChild(key=None) as child:
                self._record(request, child=child_entry(child, self.context_for_child()))
            case StartChild():
                self.host.start_keyed_child(self, request)
            case AwaitRun(run_id=run_id):
                request.parked = True
                ended = self._outcomes.get(run_id)
                if ended is not None:
                    self._record_ended(request, ended)
                else:
                    self.host.watch(self, run_id, now=False)

    def _waiting_for(self, kind: str, request: Request) -> Remembered | None:
        """A timer of this kind that was begun at the place in an earlier life."""
        wait = self._waits.get(request.place)
        return wait if wait is not None and wait.kind == kind else None

    def _journal_timer(
        self, request: Request, kind: str, seconds: float, error: str | None
    ) -> None:
        def answered(verdict: str, detail: Any) -> None:
            if verdict == LOST:
                self.lost()
            elif verdict == REFUSED:
                request.cancel_timer()
                why = InvalidValue(request.command.shape.what, "", str(detail))
                self.record_failure(request, Failure.of(why))

        self._outbox.wait(request, kind, seconds, error, answered)

    def _remaining(self, wait: Remembered) -> float:
        return (wait.due_in or 0.0) - (self._clock.time() - self._loaded_at)

    def _park_until(self, request: Request, remaining: float) -> None:
        remaining = max(0.0, remaining)
        request.parked = True
        request.due = self._clock.time() + remaining
        request.timer = self._clock.call_later(
            remaining, self._suspension.hold_or_do, self._on_due, request
        )

    def _on_due(self, request: Request) -> None:
        if request.future.done() or self.end is not None:
            return
        request.parked = False
        if isinstance(request.command, Sleep):
            self._record(request)
        else:
            self.host.execute_step(self, request)

    def park_retry(self, request: Request, delay_s: float, failure: Failure) -> None:
        """Try the step again after a while; durably when that is long."""
        if request.future.done() or self.end is not None:
            return
        request.task = None
        if delay_s > self.host.in_memory_s:
            self._journal_timer(request, "retry", delay_s, failure.to_json())
        self._park_until(request, delay_s)
        self.schedule_pump()

    # --- outcomes

    def record_step(self, request: Request, value: Any, output: str, seconds: float) -> None:
        """A step succeeded."""
        self._record(request, value, output=output, seconds=seconds)

    def record_failure(self, request: Request, failure: Failure, seconds: float = 0.0) -> None:
        """A step failed for good."""
        error = self._rebuild(request, failure)
        self._record(request, error=error, failure=failure.to_json(), seconds=seconds)

    def record_child(self, request: Request, run_id: UUID) -> None:
        """A keyed child was started over a connection of its own."""
        self._record(request, run_id, output=request.command.shape.store(run_id))

    def on_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        """Runs that this one waits for have ended (or are not there)."""
        self._suspension.hold_or_do(self._apply_outcomes, outcomes, missing)

    def _apply_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        if self.end is not None:
            return
        self._outcomes |= outcomes
        for request in list(self._open.values()):
            if not isinstance(request.command, AwaitRun):
                continue
            run_id = request.command.run_id
            if run_id in outcomes:
                self._record_ended(request, outcomes[run_id])
            elif run_id in missing:
                self.record_failure(request, Failure.of(UnknownRun(run_id)))
        self.schedule_pump()

    def _record_ended(self, request: Request, ended: Ended) -> None:
        if ended.status == Outcome.SUCCEEDED:
            output = "null" if ended.output is None else ended.output
            try:
                value = request.command.shape.load(output)
            except InvalidValue as misfit:
                self.record_failure(request, Failure.of(misfit))
            else:
                self._record(request, value, output=output)
            return
        failure = Failure.from_json(ended.error) if ended.error else Failure("", "")
        if ended.status != Outcome.FAILED:
            failure = Failure.of(
                RunFailed(ended.run_id, ended.workflow, ended.status, failure.type, failure.message)
            )
        self.record_failure(request, failure)

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
        self._open.pop(result.request.place, None)
        self._deliveries.arrived(position, result)
        self.schedule_pump()

    def _record(
        self,
        request: Request,
        value: Any = None,
        error: BaseException | None = None,
        *,
        output: str | None = None,
        failure: str | None = None,
        seconds: float = 0.0,
        child: dict[str, Any] | None = None,
    ) -> None:
        """Hand an outcome to the journal; it is delivered when it is written."""
        if request.future.done() or self.end is not None:
            return
        self._open.pop(request.place, None)
        request.cancel_timer()
        position = self._deliveries.next_position()
        self._outbox.step(
            request,
            position,
            output,
            failure,
            seconds,
            child,
            partial(self._on_recorded, position, Result(request, value, error)),
        )

    def _on_recorded(self, position: int, result: Result, verdict: str, detail: Any) -> None:
        if self.end is not None:
            return
        request = result.request
        if verdict == LOST:
            self.lost()
        elif verdict == RECORDED:
            self.adopt(position, request, _text(detail["output"]), _text(detail["error"]))
        elif verdict == REFUSED:
            self._deliveries.came_to_nothing(position)
            failure = Failure.of(InvalidValue(request.command.shape.what, "", str(detail)))
            if request.future.done():
                self.schedule_pump()
            elif not isinstance(result.error, InvalidValue):
                self._open[request.place] = request
                self.record_failure(request, failure)
            elif not self._ending:  # not even an error can be recorded there
                self._finish(Outcome.FAILED, failure=failure)
        elif detail is not None:
            self.adopt(position, request, _text(detail), None)
        else:
            self._open.pop(request.place, None)
            self._deliveries.arrived(position, result)
            self.pump()  # the journal answers from a plain callback: no need to wait a turn

    # --- the end

    def _on_return(self, main: Branch) -> None:
        """The run's function has returned or raised."""
        for record in self._history.undelivered():
            if record.place not in self._requests:
                raise Misfit(record.place, str(record), "the end of the workflow")
        self._ending = True
        self._cancel_branches()
        error = asyncio.CancelledError() if main.cancelled() else main.exception()
        if isinstance(error, Suspended):
            error = MisplacedCall("the workflow raised Suspended itself; that is Rowlock's")
        if error is None:
            try:
                output = self.workflow.result.store(main.result())
            except InvalidValue as refused:
                error = refused
            else:
                self._finish(Outcome.SUCCEEDED, output=output)
                return
        self._finish(Outcome.FAILED, failure=Failure.of(error))

    def _finish(
        self, status: Outcome, *, output: str | None = None, failure: Failure | None = None
    ) -> None:
        self._ending = True
        self.host.room_changed()
        if failure is not None:
            self._context.copy().run(
                log.warning,
                "run %s of %s failed: %s: %s",
                self.run_text,
                self.workflow.name,
                failure.type,
                failure.message,
                extra={"run": self.run_text, "workflow": self.workflow.name},
            )
        error = None if failure is None else failure.to_json()
        self._outbox.finish(status, output, error, partial(self._on_finished, status, failure))

    def _on_finished(
        self, status: Outcome, failure: Failure | None, verdict: str, detail: Any
    ) -> None:
        if self.end is not None:
            return
        if verdict == LOST:
            self.lost()
        elif verdict == REFUSED:
            why = InvalidValue(f"the result of {self.workflow.name}", "", str(detail))
            self._finish(Outcome.FAILED, failure=Failure.of(why))
        else:
            age = self.claimed.age + self._clock.time() - self._loaded_at
            self.host.observer.run_ended(self.claimed, status, age, failure)
            self._unload("finished")

    def _block(self, misfit: Misfit) -> None:
        """This code must not go on with this history."""
        self._ending = True
        error = Nondeterminism(
            self.workflow.name,
            misfit.place,
            misfit.expected,
            misfit.found,
            self.claimed.version or None,
            self.host.version or None,
        )
        self._context.copy().run(
            log.error, "%s", error, extra={"run": self.run_text, "workflow": self.workflow.name}
        )
        reason = {
            "kind": "nondeterminism",
            "message": str(error),
            "place": error.place,
            "expected": error.expected,
            "found": error.found,
            "recorded_version": error.recorded_version,
            "running_version": error.running_version,
        }
        self._outbox.release(
            msgspec.json.encode(reason), lambda _verdict, _detail: self.stop("blocked")
        )

    # --- sleeping

    def _consider_sleep(self) -> None:
        """The code is quiet: put the run to sleep if it waits for nothing that is near."""
        if self.busy or self._deliveries or self._suspension:
            return
        if not self._open:
            error = MisplacedCall(
                f"workflow {self.workflow.name} waits for something that nothing in this run will "
                "ever bring about, such as an asyncio.Event that is never set. A workflow may "
                "wait for steps, timers, other runs, and its own branches."
            )
            self._finish(Outcome.FAILED, failure=Failure.of(error))
            return
        soon = self._clock.time() + self.host.in_memory_s
        for request in self._open.values():
            if not request.parked or (request.due is not None and request.due <= soon):
                return
        self.host.room_changed()
        self._suspension.begin()

    def _send_suspend(self, force: bool, done: Any) -> None:
        watches = [
            {"on": str(r.command.run_id), "place": r.place}
            for r in self._open.values()
            if isinstance(r.command, AwaitRun)
        ]
        # A replay costs about 0.1 ms a step: who waits for many may be woken a little later, so
        # that replays take a small share of the time, however many children end one by one.
        patience_ms = 0
        if len(watches) > WATCHES_WITHOUT_PATIENCE:
            patience_ms = min(MOST_PATIENCE_MS, self._deliveries.last // 4)
        self._outbox.suspend(watches, list(self._open), patience_ms, force, done)

    def _on_awake(self, look: bool) -> None:
        """The suspend did not come about; ``look``: something it waits for has ended."""
        if look:
            for request in self._open.values():
                if isinstance(request.command, AwaitRun):
                    self.host.watch(self, request.command.run_id, now=True)
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
            extra={"run": self.run_text, "workflow": self.workflow.name},
        )
        self.loop.keep_for_ever()

    def _unload(self, how: str) -> None:
        if self.end is not None:
            return
        self.end = how
        self._outbox.close()
        self.host.unwatch(self)
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
            log.warning("the workflow spins while it is unloaded", extra={"run": self.run_text})
        self._cancel_branches()
        self.host.unloaded(self, how)
        self.loop.forget()
        self._suspension.forget()
        self._main = None
        self._requests.clear()
        self._open.clear()

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """asyncio reports an error that nobody in the run's code has looked at."""
        if self.end is None and not self._ending:
            log.error(
                "%s",
                context.get("message", "unhandled error in the workflow's loop"),
                exc_info=context.get("exception"),
                extra={"run": self.run_text, "workflow": self.workflow.name},
            )


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
