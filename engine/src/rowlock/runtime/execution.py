"""One loaded run: replays its history, carries out what its code asks for, puts it to sleep.

The run's code lives in a RunLoop. Whatever it awaits is a Request at a place. Outcomes are
delivered one at a time, in the order in which they were recorded, and the code runs until it is
quiet before the next: first those of the history, then, when all are delivered, live ones as the
journal acknowledges them. Nothing new is begun before the history is exhausted, so a branch that
was cancelled is not executed again by its replay.

When the code is quiet and waits for nothing but parked requests (long timers, other runs), the
run is suspended: the journal puts its task to sleep, and the code is thrown away with Suspended.

Reads: model/history.py (what fits), the journal's verdicts.  Writes: journal entries.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
import uuid
from collections.abc import Callable, Iterable
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
from rowlock.model.commands import (
    AwaitRun,
    Command,
    ExecuteStep,
    Note,
    Sleep,
    StartChild,
)
from rowlock.model.failure import Failure
from rowlock.model.history import History, Misfit, Record, describe
from rowlock.model.states import Outcome
from rowlock.runtime.branches import Branch, RunLoop, Spinning
from rowlock.runtime.journal import (
    AGAIN,
    LOOK,
    LOST,
    RECORDED,
    REFUSED,
    Journal,
)
from rowlock.runtime.threads import WorkflowThread
from rowlock.store.entries import Finish, Release, Step, Suspend, Wait
from rowlock.store.statements import Claimed, Ended, Remembered
from rowlock.telemetry import logs

log = logging.getLogger("rowlock.run")

IN_MEMORY_S = 1.0
"""Timers up to this long are waited for in memory; longer ones cost a row and no slot."""

FORCE_AFTER_S = 0.3
MOST_PATIENCE_MS = 2000
CHILDREN_WITHOUT_PATIENCE = 8


class Request:
    """Something the run's code waits for, at a place."""

    __slots__ = (
        "attempt",
        "command",
        "context",
        "due",
        "future",
        "parked",
        "place",
        "task",
        "timer",
    )

    def __init__(
        self,
        place: str,
        command: Command,
        future: asyncio.Future[Any],
        context: contextvars.Context,
    ) -> None:
        self.place = place
        self.command = command
        self.future = future
        self.context = context
        self.parked = False
        self.due: float | None = None
        self.attempt = 0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Any] | None = None

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def cancel_work(self) -> None:
        """Stop whatever is under way for it."""
        self.cancel_timer()
        if self.task is not None:
            self.task.cancel()

    def __str__(self) -> str:
        return f"{describe(self.command.kind, self.command.name)} at {self.place}"


class Host(Protocol):
    """What a worker process does for its executions."""

    code: Code
    version: str
    journal: Journal

    def execute_step(self, execution: Execution, request: Request) -> None: ...
    def start_keyed_child(self, execution: Execution, request: Request) -> None: ...
    def watch(self, execution: Execution, run_id: UUID, *, now: bool) -> None: ...
    def unwatch(self, execution: Execution) -> None: ...
    def unloaded(self, execution: Execution, how: str) -> None: ...
    def room_changed(self) -> None: ...


class _Value:
    """A live outcome that waits for its turn to be delivered."""

    __slots__ = ("error", "request", "value")

    def __init__(
        self, request: Request, value: Any = None, error: BaseException | None = None
    ) -> None:
        self.request = request
        self.value = value
        self.error = error


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
        self.claimed = claimed
        self.workflow = workflow
        self.run_id = claimed.run_id
        self.epoch = claimed.epoch
        self.generation = claimed.generation
        self.end: str | None = None
        """How it left this worker; None while it is loaded."""
        self.busy = 0
        """Code of the run that is running elsewhere (a sync workflow's thread)."""

        self._run_text = str(claimed.run_id)
        self._clock = asyncio.get_running_loop()
        self._loaded_at = self._clock.time()
        self._loop = RunLoop(self)  # type: ignore[abstract]
        self._main: Branch | None = None
        remembered = list(remembered)
        self._history = History(
            Record(r.place, r.kind, r.name or "", r.position, r.output, r.error)
            for r in remembered
            if r.position is not None
        )
        self._waits = {r.place: r for r in remembered if r.position is None}
        self._waited = bool(self._waits)
        self._outcomes = outcomes or {}
        self._requests: dict[str, Request] = {}
        self._fresh: list[Request] = []
        self._open: dict[str, Request] = {}
        """Live requests whose outcome has not been handed to the journal yet."""
        self._position = self._history.last_position
        self._inflight: dict[int, _Value | None] = {}
        """Positions handed out, in order; the value when it is written and may be delivered."""
        self._misfit: Misfit | None = None
        self._ending = False
        self._suspending_since: float | None = None
        self._held: list[Callable[[], None]] = []
        self._pump_scheduled = False

    @property
    def is_ending(self) -> bool:
        """Its code runs no more; it only waits for the journal."""
        return self._ending or self._suspending_since is not None

    def next_due(self) -> float | None:
        """When its next timer falls due (loop time)."""
        dues = [r.due for r in self._requests.values() if r.due is not None]
        return min(dues, default=None)

    @property
    def loop(self) -> RunLoop:
        return self._loop

    # --- life

    def start(self) -> None:
        """Begin to run. What follows happens in callbacks of the worker's loop."""
        try:
            arguments = self.workflow.inputs.load(self.claimed.input)
        except InvalidValue as error:
            self._finish(Outcome.FAILED, error=Failure.of(error).to_json())
            return
        context = contextvars.copy_context()
        context.run(logs.within, run=self._run_text, workflow=self.workflow.name)
        function = self.workflow.function
        if self.workflow.is_async:
            coroutine = function(**arguments)
        else:
            thread = WorkflowThread(self, self._clock, partial(function, **arguments))
            coroutine = thread.main()
        self._main = self._loop.begin(coroutine, context)
        self.schedule_pump()

    def stop(self, how: str) -> None:
        """Drop the run where it is, recording nothing: it belongs to another, or soon will."""
        self._clock.call_soon(self._unload, how)

    def release(self) -> None:
        """Hand the run back, so that another worker goes on with it at once."""
        if self.end is None and not self._ending:
            self._ending = True
            self.host.journal.add(
                Release(self._run_text, self.generation, self.epoch),
                lambda _verdict, _detail: self._unload("released"),
                self._is_over,
            )

    def _is_over(self) -> bool:
        return self.end is not None

    # --- what the run's code asks for

    def request(self, command: Command) -> asyncio.Future[Any]:
        """Called from the run's code: ask for something at the branch's next place."""
        if self.end is not None or self._ending:
            raise Suspended(
                f"{describe(command.kind, command.name)} was refused: the run has ended or is "
                "being unloaded while it waits. A `finally` block is passed on every unloading; "
                "it can't use steps for that reason."
            )
        place = self._loop.branch().next_place()
        future = self._loop.create_future()
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
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._clock.call_soon(self.pump)

    def pump(self) -> None:
        """Run the code until it is quiet, deliver the next outcome, and so on."""
        self._pump_scheduled = False
        try:
            while self.end is None and not self._ending:
                self._loop.drive()
                if self._misfit is not None:
                    self._block(self._misfit)
                    return
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
                    fresh, self._fresh = self._fresh, []
                    for request in fresh:
                        if not request.future.done():
                            self._begin(request)
                value = self._next_value()
                if value is None:
                    break
                self._deliver(value.request, value.value, value.error)
        except Spinning as error:
            self._finish(Outcome.FAILED, error=Failure.of(error).to_json())
            return
        except Misfit as misfit:
            self._block(misfit)
            return
        if self.end is None and not self._ending:
            self._consider_sleep()

    def _deliver_record(self, record: Record) -> None:
        request = self._requests.get(record.place)
        if request is None:
            waiting = [str(r) for r in self._requests.values() if not r.future.done()]
            raise Misfit(
                record.place,
                str(record),
                ("a wait for " + ", ".join(waiting[:3])) if waiting else "no such call",
            )
        if not request.future.done():
            self._deliver(request, *self._load(request, record.output, record.error))

    def _load(
        self, request: Request, output: str | None, error: str | None
    ) -> tuple[Any, BaseException | None]:
        """A recorded outcome as the value or the exception that the code gets."""
        if error is not None:
            return None, self._rebuild(request, Failure.from_json(error))
        try:
            return request.command.shape.load(output if output is not None else "null"), None
        except InvalidValue as misfit:
            raise Misfit(
                request.place, f"{request.command.shape.what} as it was recorded", str(misfit)
            ) from None

    def _rebuild(self, request: Request, failure: Failure) -> BaseException:
        what = describe(request.command.kind, request.command.name)
        error = self.host.code.errors.rebuild(failure, what)
        if isinstance(request.command, AwaitRun) and isinstance(error, StepFailed):
            return RunFailed(
                request.command.run_id,
                request.command.name,
                Outcome.FAILED,
                failure.type,
                failure.message,
                failure.traceback,
            )
        return error

    def _deliver(self, request: Request, value: Any, error: BaseException | None) -> None:
        if request.future.done():
            return  # its branch was cancelled before the outcome came
        if error is not None:
            request.future.set_exception(error)
        else:
            request.future.set_result(value)

    def _next_value(self) -> _Value | None:
        """The next live outcome in order, if it is written."""
        for position, value in self._inflight.items():
            if value is None:
                return None
            del self._inflight[position]
            return value
        return None

    # --- beginning something new

    def _begin(self, request: Request) -> None:
        self._open[request.place] = request
        request.future.add_done_callback(partial(self._on_future_done, request))
        match request.command:
            case ExecuteStep():
                wait = self._waits.get(request.place)
                if wait is not None and wait.kind == "retry":
                    request.attempt = wait.attempt
                    self._park_until(request, self._remaining(wait))
                else:
                    self.host.execute_step(self, request)
            case Sleep() as sleep:
                self._begin_timer(request, sleep)
            case Note() as note:
                self._begin_note(request, note)
            case StartChild(key=None) as child:
                self._begin_child(request, child)
            case StartChild():
                self.host.start_keyed_child(self, request)
            case AwaitRun() as awaited:
                request.parked = True
                ended = self._outcomes.get(awaited.run_id)
                if ended is not None:
                    self._record_ended(request, ended)
                else:
                    self.host.watch(self, awaited.run_id, now=False)

    def _remaining(self, wait: Remembered) -> float:
        return (wait.due_in or 0.0) - (self._clock.time() - self._loaded_at)

    def _begin_timer(self, request: Request, sleep: Sleep) -> None:
        wait = self._waits.get(request.place)
        if wait is not None:
            remaining = self._remaining(wait)
        else:
            remaining = sleep.seconds
            if remaining > IN_MEMORY_S:
                self._journal_wait(request, "timer", remaining)
        self._park_until(request, remaining)

    def _begin_note(self, request: Request, note: Note) -> None:
        value: Any = None
        match note.kind:
            case "uuid":
                value = uuid.uuid4()
            case "random":
                value = random.random()
        text = note.shape.store(value) if value is not None else None
        self._record(request, value=value, output=text)

    def _begin_child(self, request: Request, child: StartChild) -> None:
        asked: dict[str, Any] = {"workflow": child.name, "input": msgspec.Raw(child.input.encode())}
        if child.queue is not None:
            asked["queue"] = child.queue
        if child.priority is not None:
            asked["priority"] = child.priority
        if child.attributes is not None:
            asked["attributes"] = msgspec.Raw(child.attributes.encode())
        self._record(request, child=asked)

    def _journal_wait(
        self,
        request: Request,
        kind: str,
        seconds: float,
        attempt: int = 0,
        error: str | None = None,
    ) -> None:
        self._waited = True
        self.host.journal.add(
            Wait(
                self._run_text,
                self.generation,
                self.epoch,
                request.place,
                kind,
                seconds,
                attempt,
                _raw(error),
            ),
            lambda _verdict, _detail: None,
            self._is_over,
        )

    def _park_until(self, request: Request, remaining: float) -> None:
        remaining = max(0.0, remaining)
        request.parked = True
        request.due = self._clock.time() + remaining
        request.timer = self._clock.call_later(remaining, self._hold_or, self._on_due, request)

    def park_retry(self, request: Request, delay_s: float, failure: Failure) -> None:
        """Try the step again after a while; durably when that is long."""
        if request.future.done() or self.end is not None:
            return
        request.task = None
        if delay_s > IN_MEMORY_S:
            self._journal_wait(request, "retry", delay_s, request.attempt, failure.to_json())
        self._park_until(request, delay_s)
        self.schedule_pump()

    def _on_due(self, request: Request) -> None:
        if request.future.done() or self.end is not None:
            return
        request.parked = False
        if isinstance(request.command, Sleep):
            self._record(request)
        else:
            self.host.execute_step(self, request)

    def _on_future_done(self, request: Request, future: asyncio.Future[Any]) -> None:
        self._open.pop(request.place, None)
        if future.cancelled():
            request.cancel_work()

    # --- outcomes

    def record_step(self, request: Request, *, value: Any, output: str, seconds: float) -> None:
        """A step succeeded."""
        self._record(request, value=value, output=output, seconds=seconds)

    def record_failure(self, request: Request, failure: Failure, *, seconds: float = 0.0) -> None:
        """A step failed for good."""
        error = self._rebuild(request, failure)
        self._record(request, error=error, failure=failure.to_json(), seconds=seconds)

    def record_child(self, request: Request, run_id: UUID) -> None:
        """A keyed child was started over a connection of its own."""
        text = request.command.shape.store(run_id)
        self._record(request, value=run_id, output=text)

    def on_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        """Runs that this one waits for have ended (or are not there)."""
        self._hold_or(self._apply_outcomes, outcomes, missing)

    def _apply_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        if self.end is not None:
            return
        self._outcomes |= outcomes
        for request in list(self._open.values()):
            if isinstance(request.command, AwaitRun):
                if request.command.run_id in outcomes:
                    self._record_ended(request, outcomes[request.command.run_id])
                elif request.command.run_id in missing:
                    gone = Failure.of(UnknownRun(request.command.run_id))
                    self.record_failure(request, gone)
        self.schedule_pump()

    def _record_ended(self, request: Request, ended: Ended) -> None:
        assert isinstance(request.command, AwaitRun)
        if ended.status == Outcome.SUCCEEDED:
            output = ended.output if ended.output is not None else "null"
            value, error = None, None
            try:
                value = request.command.shape.load(output)
            except InvalidValue as misfit:
                error = Failure.of(misfit)
            if error is not None:
                self.record_failure(request, error)
            else:
                self._record(request, value=value, output=output)
            return
        failure = Failure.from_json(ended.error) if ended.error else None
        if ended.status != Outcome.FAILED or failure is None:
            failed = RunFailed(
                ended.run_id,
                ended.workflow,
                ended.status,
                failure.type if failure else "",
                failure.message if failure else "",
            )
            failure = Failure.of(failed)
        self.record_failure(request, failure)

    def next_position(self) -> int:
        """Hand out the next position; live outcomes behind it wait until its fate is known."""
        self._position += 1
        self._inflight[self._position] = None
        return self._position

    def settle(
        self,
        position: int,
        request: Request | None,
        value: Any = None,
        error: BaseException | None = None,
    ) -> None:
        """What came of a position: an outcome to deliver, or nothing (a gap)."""
        if request is None:
            self._inflight.pop(position, None)
        else:
            self._open.pop(request.place, None)
            self._inflight[position] = _Value(request, value, error)
        self.schedule_pump()

    def adopt(self, position: int, request: Request, output: str | None, error: str | None) -> None:
        """The place stands recorded already: that is what counts."""
        try:
            self.settle(position, request, *self._load(request, output, error))
        except Misfit as misfit:
            self._misfit = misfit
            self.schedule_pump()

    def _record(
        self,
        request: Request,
        *,
        value: Any = None,
        error: BaseException | None = None,
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
        position = self.next_position()
        command = request.command
        entry = Step(
            self._run_text,
            self.generation,
            self.epoch,
            request.place,
            position,
            command.kind,
            command.name,
            max(1, request.attempt),
            seconds,
            _raw(output),
            _raw(failure),
            child,
        )
        self.host.journal.add(
            entry,
            partial(self._on_recorded, position, _Value(request, value, error)),
            self._is_over,
        )

    def _on_recorded(self, position: int, value: _Value, verdict: str, detail: Any) -> None:
        if self.end is not None:
            return
        request = value.request
        if verdict == LOST:
            self.lost()
        elif verdict == RECORDED:
            self.adopt(position, request, _text(detail["output"]), _text(detail["error"]))
        elif verdict == REFUSED:
            del self._inflight[position]
            why = InvalidValue(request.command.shape.what, "", str(detail))
            self._open[request.place] = request
            self.record_failure(request, Failure.of(why))
        elif detail is not None:
            self.adopt(position, request, _text(detail), None)
        else:
            self._inflight[position] = value
            self.schedule_pump()

    # --- the end

    def _on_return(self, main: Branch) -> None:
        """The run's function has returned or raised."""
        self._ending = True
        for record in self._history.undelivered():
            if record.place not in self._requests:
                self._block(Misfit(record.place, str(record), "the end of the workflow"))
                return
        self._cancel_branches()
        if main.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = main.exception()
        if isinstance(error, Suspended):
            error = MisplacedCall("the workflow raised Suspended itself; that is Rowlock's")
        if error is not None:
            self._finish(Outcome.FAILED, error=Failure.of(error).to_json())
            return
        try:
            output = self.workflow.result.store(main.result())
        except InvalidValue as refused:
            self._finish(Outcome.FAILED, error=Failure.of(refused).to_json())
            return
        self._finish(Outcome.SUCCEEDED, output=output)

    def _finish(
        self, status: Outcome, *, output: str | None = None, error: str | None = None
    ) -> None:
        self._ending = True
        self.host.room_changed()
        self.host.journal.add(
            Finish(
                self._run_text,
                self.generation,
                self.epoch,
                status,
                _raw(output),
                _raw(error),
                self._waited,
            ),
            self._on_finished,
            self._is_over,
        )

    def _on_finished(self, verdict: str, detail: Any) -> None:
        if self.end is not None:
            return
        if verdict == LOST:
            self.lost()
        elif verdict == REFUSED:
            why = InvalidValue(f"the result of {self.workflow.name}", "", str(detail))
            self._finish(Outcome.FAILED, error=Failure.of(why).to_json())
        else:
            self._clock.call_soon(self._unload, "finished")

    def block_unfit(self, error: Nondeterminism) -> None:
        """Block the run: this code must not go on with its history."""
        self._ending = True
        log.error("%s", error, extra={"run": self._run_text, "workflow": self.workflow.name})
        reason = msgspec.json.encode(
            {
                "kind": "nondeterminism",
                "message": str(error),
                "place": error.place,
                "expected": error.expected,
                "found": error.found,
                "recorded_version": error.recorded_version,
                "running_version": error.running_version,
            }
        )
        self.host.journal.add(
            Release(self._run_text, self.generation, self.epoch, msgspec.Raw(reason)),
            lambda _verdict, _detail: self._unload("blocked"),
            self._is_over,
        )

    def _block(self, misfit: Misfit) -> None:
        self.block_unfit(
            Nondeterminism(
                self.workflow.name,
                misfit.place,
                misfit.expected,
                misfit.found,
                self.claimed.version or None,
                self.host.version or None,
            )
        )

    def lost(self) -> None:
        """Another worker owns this run, or nobody does."""
        if self.end is None:
            log.warning("%s", LeaseLost(self.run_id, self.epoch), extra={"run": self._run_text})
            self.stop("lost")

    # --- sleeping

    def _consider_sleep(self) -> None:
        """The code is quiet: put the run to sleep if it waits for nothing that is near."""
        if self.busy or self._inflight or self._suspending_since is not None:
            return
        if not self._open:
            error = MisplacedCall(
                f"workflow {self.workflow.name} waits for something that nothing in this run will "
                "ever bring about, such as an asyncio.Event that is never set. A workflow may "
                "wait for steps, timers, other runs, and its own branches."
            )
            self._finish(Outcome.FAILED, error=Failure.of(error).to_json())
            return
        soon = self._clock.time() + IN_MEMORY_S
        for request in self._open.values():
            if not request.parked or (request.due is not None and request.due <= soon):
                return
        self._suspending_since = self._clock.time()
        self._send_suspend()

    def _send_suspend(self) -> None:
        since = self._suspending_since
        if since is None or self.end is not None:
            return
        self._waited = True
        watches = [
            {"on": str(r.command.run_id), "place": r.place}
            for r in self._open.values()
            if isinstance(r.command, AwaitRun)
        ]
        # A replay costs about 0.1 ms a step: who waits for many may be woken a little later, so
        # that replays take a small share of the time, however many children end one by one.
        patience_ms = min(MOST_PATIENCE_MS, self._position // 4)
        self.host.journal.add(
            Suspend(
                self._run_text,
                self.generation,
                self.epoch,
                watches,
                [request.place for request in self._open.values()],
                patience_ms if len(watches) > CHILDREN_WITHOUT_PATIENCE else 0,
                force=self._clock.time() - since > FORCE_AFTER_S,
            ),
            self._on_suspend,
            self._is_over,
        )

    def _on_suspend(self, verdict: str, detail: Any) -> None:
        if self.end is not None:
            return
        if verdict in (AGAIN, LOOK):
            if verdict == LOOK:
                for request in self._open.values():
                    if isinstance(request.command, AwaitRun):
                        self.host.watch(self, request.command.run_id, now=True)
            if verdict == LOOK or self._held:
                self._suspending_since = None
                held, self._held = self._held, []
                for event in held:
                    event()
                if verdict == AGAIN:
                    self.schedule_pump()
            else:
                self._clock.call_later(random.uniform(0.005, 0.05), self._send_suspend)
        elif verdict == LOST:
            self.lost()
        elif verdict == REFUSED:
            log.error("a suspend was refused: %s", detail, extra={"run": self._run_text})
            self.stop("lost")
        else:
            self._clock.call_soon(self._unload, "suspended")

    def _hold_or(self, event: Callable[..., None], *arguments: Any) -> None:
        """Do it now; but while the run may already be asleep, keep it until that is known."""
        if self.end is not None:
            return
        if self._suspending_since is not None:
            self._held.append(partial(event, *arguments))
        else:
            event(*arguments)

    # --- unloading

    def _cancel_branches(self) -> None:
        """Cancel what is left of the run's tasks; what they try now is refused."""
        for _ in range(3):
            left = [branch for branch in self._loop.branches if not branch.done()]
            if not left:
                return
            for branch in left:
                branch.cancel()
            self._loop.drive()
        log.warning(
            "the workflow's code caught its cancellation and goes on waiting; it was dropped",
            extra={"run": self._run_text, "workflow": self.workflow.name},
        )

    def _unload(self, how: str) -> None:
        if self.end is not None:
            return
        self.end = how
        self.host.unwatch(self)
        for request in self._requests.values():
            if request.task is not None or request.timer is not None:
                request.cancel_work()
        try:
            for request in self._requests.values():
                if not request.future.done():
                    request.future.set_exception(
                        Suspended("the run is unloaded; it goes on later from what is recorded")
                    )
                    request.future._log_traceback = False
            self._loop.drive()
            self._cancel_branches()
        except Spinning:
            log.warning("the workflow spins while it is unloaded", extra={"run": self._run_text})
        for branch in [*self._loop.branches, *([self._main] if self._main else [])]:
            branch._log_destroy_pending = False  # type: ignore[attr-defined]
            if branch.done() and not branch.cancelled():
                branch.exception()
        self.host.unloaded(self, how)

    def on_loop_error(self, context: dict[str, Any]) -> None:
        """asyncio reports an error that nobody in the run's code has looked at."""
        if self.end is None and not self._ending:
            log.error(
                "%s",
                context.get("message", "unhandled error in the workflow's loop"),
                exc_info=context.get("exception"),
                extra={"run": self._run_text, "workflow": self.workflow.name},
            )


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
