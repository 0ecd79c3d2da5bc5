"""What a run has begun and has no outcome for yet: each command is carried out by its kind.

A request is *parked* while nothing is under way for it here: it waits for a timer, another run, a
message. When all that is open is parked, and no timer is near, the run can sleep.

Reads: what the run waited for in an earlier life.  Writes: timers, through the run's Outbox; every
outcome through the Execution.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Container, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rowlock.errors import (
    EventNeverSet,
    InvalidValue,
    NotDelivered,
    ReceiveTimeout,
    RunFailed,
    UnknownRun,
    UnreadableValue,
)
from rowlock.model.commands import (
    AwaitEvent,
    AwaitGroup,
    AwaitRun,
    Emit,
    ExecuteStep,
    Note,
    Receive,
    Send,
    SetEvent,
    Sleep,
    StartChild,
    StartGroup,
)
from rowlock.model.failure import Failure
from rowlock.model.states import Outcome
from rowlock.runtime.journal import LOST, REFUSED
from rowlock.runtime.outbox import child_entry, raw
from rowlock.runtime.request import Request
from rowlock.store.entries import Watch
from rowlock.store.statements import Ended, Member, Remembered, Told

if TYPE_CHECKING:
    from rowlock.runtime.execution import Execution

IN_MEMORY_S = 1.0
"""Timers up to this long are waited for in memory; longer ones cost a row and no slot. What a
worker goes by is its own option, of which this is the default."""


class InFlight:
    """See the module's text."""

    def __init__(
        self,
        execution: Execution,
        waits: dict[str, Remembered],
        outcomes: dict[UUID, Ended],
    ) -> None:
        self._run = execution
        self._clock = asyncio.get_running_loop()
        self._loaded_at = self._clock.time()
        self._waits = waits
        self._outcomes = outcomes
        self._open: dict[str, Request] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def places(self) -> list[str]:
        """Of all that is open."""
        return list(self._open)

    def close(self, request: Request) -> None:
        """Its outcome is on its way to the journal, or nobody wants it any more."""
        self._open.pop(request.place, None)

    def reopen(self, request: Request) -> None:
        """Its outcome could not be recorded."""
        self._open[request.place] = request

    def forget(self) -> None:
        """The run is unloaded."""
        self._open.clear()

    def is_parked(self, soon: float) -> bool:
        """Whether nothing is under way here, and no timer falls due before ``soon``."""
        return all(
            request.parked and (request.due is None or request.due > soon)
            for request in self._open.values()
        )

    def waits_but_for(self, stuck: Container[Request]) -> bool:
        """Whether something is open, and all of it is parked or one of these requests."""
        return bool(self._open) and all(
            request.parked or request in stuck for request in self._open.values()
        )

    def pass_time(self, seconds: float) -> None:
        """A test lets time pass: timers fall due so much earlier."""
        self._loaded_at -= seconds
        for request in self._open.values():
            if request.timer is not None and request.due is not None:
                request.timer.cancel()
                self._set_timer(request, request.due - seconds - self._clock.time())

    def watches(self) -> list[Watch]:
        """What is waited for, timers aside."""
        found = []
        for request in self._open.values():
            place = request.place
            match request.command:
                case AwaitRun(run_id=run_id):
                    found.append(Watch(place, "run", str(run_id)))
                case Receive(name=topic):
                    found.append(Watch(place, "message", None, topic))
                case AwaitEvent(name=name, run_id=run_id):
                    found.append(Watch(place, "event", str(run_id), name))
                case AwaitGroup(group=group, shape=shape):
                    found.append(Watch(place, "group", None, group, len(shape)))
        return found

    # --- beginning

    def begin(self, request: Request) -> None:
        """Carry out what was asked for."""
        self._open[request.place] = request
        request.future.add_done_callback(partial(self._on_answered, request))
        run = self._run
        match request.command:
            case ExecuteStep():
                wait = self._waiting_for("retry", request)
                if wait is None:
                    run.host.execute_step(run, request)
                else:
                    request.attempt = wait.attempt
                    self._park_until(request, self._remaining(wait))
            case Sleep(seconds=seconds):
                self._begin_timer(request, "timer", seconds)
                request.parked = True
            case Note(kind="now"):
                run.record(request)  # the journal puts in the database's time
            case Note(kind=kind, shape=shape):
                value = uuid.uuid4() if kind == "uuid" else random.random()
                run.record(request, value, output=shape.store(value))
            case StartChild(key=None) as child:
                run.record(request, hanging={"child": child_entry(child), **run.trace()})
            case StartChild():
                run.host.start_keyed_child(run, request)
            case StartGroup(children=children):
                entries = [child_entry(child) for child in children]
                run.record(request, hanging={"children": entries, **run.trace()})
            case AwaitRun(run_id=run_id):
                request.parked = True
                ended = self._outcomes.get(run_id)
                if ended is not None:
                    self._record_ended(request, ended)
                else:
                    run.host.watch(run, now=False)
            case AwaitGroup():
                run.host.watch(run, now=True)
            case Receive(name=topic, timeout_s=timeout_s):
                if timeout_s is not None:
                    self._begin_timer(request, "message", timeout_s, name=topic)
                self._try_receive(request)
            case AwaitEvent(name=name, run_id=run_id, timeout_s=timeout_s):
                if timeout_s is not None:
                    self._begin_timer(request, "event", timeout_s, name=name, on_run=str(run_id))
                run.host.watch(run, now=True)
            case Send(run_id=run_id, value=value, key=key):
                message = {"run": str(run_id), "value": raw(value), "key": key}
                run.record(request, hanging={"send": message})
            case SetEvent(value=value) | Emit(value=value):
                run.record(request, hanging={"value": raw(value)})

    def _on_answered(self, request: Request, future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            self._open.pop(request.place, None)
            request.cancel_work()

    # --- timers

    def _waiting_for(self, kind: str, request: Request) -> Remembered | None:
        """A timer of this kind that was begun at the place in an earlier life."""
        wait = self._waits.get(request.place)
        return wait if wait is not None and wait.kind == kind and wait.due_in is not None else None

    def _remaining(self, wait: Remembered) -> float:
        return (wait.due_in or 0.0) - (self._clock.time() - self._loaded_at)

    def _begin_timer(
        self,
        request: Request,
        kind: str,
        seconds: float,
        *,
        name: str | None = None,
        on_run: str | None = None,
    ) -> None:
        """Or go on with one of an earlier life."""
        wait = self._waiting_for(kind, request)
        if wait is not None:
            seconds = self._remaining(wait)
        elif seconds > self._run.host.in_memory_s:
            self._journal_timer(request, kind, seconds, None, name=name, on_run=on_run)
        self._set_timer(request, seconds)

    def _journal_timer(
        self,
        request: Request,
        kind: str,
        seconds: float,
        error: str | None,
        *,
        name: str | None = None,
        on_run: str | None = None,
    ) -> None:
        def answered(verdict: str, detail: Any) -> None:
            if verdict == LOST:
                self._run.lost()
            elif verdict == REFUSED:
                request.cancel_timer()
                why = InvalidValue(request.command.shape.what, "", str(detail))
                self._run.record_failure(request, Failure.of(why))

        self._run.outbox.wait(request, kind, seconds, error, answered, name=name, on_run=on_run)

    def _set_timer(self, request: Request, seconds: float) -> None:
        seconds = max(0.0, seconds)
        request.due = self._clock.time() + seconds
        request.timer = self._clock.call_later(
            seconds, self._run.suspension.hold_or_do, self._on_due, request
        )

    def _park_until(self, request: Request, seconds: float) -> None:
        request.parked = True
        self._set_timer(request, seconds)

    def _on_due(self, request: Request) -> None:
        if request.future.done() or self._run.end is not None or request.place not in self._open:
            return
        request.parked = False
        match request.command:
            case Sleep():
                self._run.record(request)
            case Receive():
                self._try_receive(request)  # it may have come in the last moment
            case AwaitEvent():
                self._run.host.watch(self._run, now=True)
            case _:
                self._run.host.execute_step(self._run, request)

    def _is_late(self, request: Request) -> bool:
        return request.due is not None and request.due <= self._clock.time()

    def park_retry(self, request: Request, delay_s: float, failure: Failure) -> None:
        """Try a step again after a while; durably when that is long."""
        if request.future.done() or self._run.end is not None:
            return
        request.task = None
        if delay_s > self._run.host.in_memory_s:
            self._journal_timer(request, "retry", delay_s, failure.to_json())
        self._park_until(request, delay_s)
        self._run.schedule_pump()

    # --- messages

    def _try_receive(self, request: Request) -> None:
        """The journal finds the message and records it, or says that there is none."""
        request.parked = False
        self._run.record(request, keep_timer=True)

    def on_empty(self, request: Request) -> None:
        """There was no message for it."""
        if request.future.done():
            return
        self._open[request.place] = request
        if self._is_late(request):
            self._time_out(request, f"a message on topic {request.command.name}")
        else:
            request.parked = True
            self._run.host.watch(self._run, now=False)

    def on_undeliverable(self, request: Request) -> None:
        """The receiver has ended, or never was."""
        command = request.command
        assert isinstance(command, Send)
        self._run.record_failure(request, Failure.of(NotDelivered(command.run_id, command.name)))

    def on_mail(self, topics: set[str]) -> None:
        """Messages have come."""
        for request in list(self._open.values()):
            if isinstance(request.command, Receive) and request.command.name in topics:
                self._try_receive(request)

    def _time_out(self, request: Request, what: str) -> None:
        timeout_s = getattr(request.command, "timeout_s", None) or 0.0
        self._run.record_failure(request, Failure.of(ReceiveTimeout(what, timeout_s)))

    # --- events

    def on_events(self, events: dict[tuple[UUID, str], Told]) -> None:
        """The events of other runs as they are now."""
        for request in list(self._open.values()):
            command = request.command
            if not isinstance(command, AwaitEvent):
                continue
            told = events.get((command.run_id, command.name))
            if told is None:
                continue
            if told.value is not None:
                self._record_text(request, told.value)
            elif told.ended:
                never = EventNeverSet(command.run_id, command.name)
                self._run.record_failure(request, Failure.of(never))
            elif self._is_late(request):
                self._time_out(request, f"event {command.name} of run {command.run_id}")
            else:
                request.parked = True
        self._run.schedule_pump()

    def _record_text(self, request: Request, text: str) -> None:
        """Record what others made; it may not be as this code declares it."""
        try:
            value = request.command.shape.load(text)
        except UnreadableValue as locked:
            self._run.lock(request, locked)
        except InvalidValue as misfit:
            self._run.record_failure(request, Failure.of(misfit))
        else:
            self._run.record(request, value, output=text)

    # --- other runs

    def on_outcomes(self, outcomes: dict[UUID, Ended], missing: set[UUID]) -> None:
        """Runs that this one waits for have ended (or are not there)."""
        self._outcomes |= outcomes
        for request in list(self._open.values()):
            if not isinstance(request.command, AwaitRun):
                continue
            run_id = request.command.run_id
            if run_id in outcomes:
                self._record_ended(request, outcomes[run_id])
            elif run_id in missing:
                self._run.record_failure(request, Failure.of(UnknownRun(run_id)))
        self._run.schedule_pump()

    def _record_ended(self, request: Request, ended: Ended) -> None:
        if ended.status == Outcome.SUCCEEDED:
            self._record_text(request, "null" if ended.output is None else ended.output)
        else:
            self._run.record_failure(request, _failure_of(ended))

    def on_group(self, name: str, members: Iterable[Member] | None) -> None:
        """A group as it is now: all its children, if all have ended."""
        for request in list(self._open.values()):
            command = request.command
            if not isinstance(command, AwaitGroup) or command.group != name:
                continue
            if members is None:
                request.parked = True
            else:
                self._record_group(request, command, list(members))
        self._run.schedule_pump()

    def _record_group(self, request: Request, command: AwaitGroup, members: list[Member]) -> None:
        try:
            text = command.shape.store(
                (one.output, None)
                if one.status == Outcome.SUCCEEDED
                else (None, _failure_of(one).to_json())
                for one in members
            )
            value = command.shape.load(text)
        except UnreadableValue as locked:
            self._run.lock(request, locked)
        except InvalidValue as error:
            self._run.record_failure(request, Failure.of(error))
        else:
            self._run.record(request, value, output=text)


def _failure_of(ended: Ended | Member) -> Failure:
    """Of a child that did not succeed, as its parent gets it."""
    failure = Failure.from_json(ended.error) if ended.error else Failure("", "")
    if ended.status == Outcome.FAILED:
        return failure
    return Failure.of(
        RunFailed(ended.run_id, ended.workflow, ended.status, failure.type, failure.message)
    )
