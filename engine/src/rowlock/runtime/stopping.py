"""The end that comes from outside: a request to cancel the run, or its deadline.

It is recorded as a step at the place ``cancel``, so that a replay meets it at the same point. Then
the run's function gets CancelledError where it waits. It may clean up (its steps are recorded, the
run stays loaded) until the grace is over; then its code is dropped. Where something is to be undone
after that, the drop is recorded too: a replay must have registered the same undos by then.

Reads: the history's record of it, requests from the database.  Writes: through the Execution.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from rowlock.errors import Cancelled, DeadlineExceeded
from rowlock.model.commands import GraceOver, Stop
from rowlock.model.states import Outcome
from rowlock.runtime.request import Request
from rowlock.store.statements import Remembered

if TYPE_CHECKING:
    from rowlock.runtime.execution import Execution

PLACE = "cancel"
OVER = "undo.0"
DEADLINE_GRACE_S = 30.0
PATIENCE_S = 1.0
"""How long code that computes (a sync workflow's thread) may hold up the end of its grace."""


class CancelRequest(msgspec.Struct):
    """What the database says of a request (functions/cancel.sql)."""

    grace_s: float
    force: bool = False
    reason: str | None = None


decode_request = msgspec.json.Decoder(CancelRequest).decode
decode_requests = msgspec.json.Decoder(dict[str, CancelRequest]).decode


class Stopping:
    """See the module's text."""

    def __init__(
        self, execution: Execution, recorded: Remembered | None, over: Remembered | None
    ) -> None:
        self._run = execution
        self._clock = asyncio.get_running_loop()
        self._timers: list[tuple[asyncio.TimerHandle, Callable[[], None]]] = []
        self._request: Request | None = None
        self._over: Request | None = None
        self.is_over = False
        """The code is to be dropped now."""
        self.is_delivered = False
        """The run's function has got its CancelledError."""
        if recorded is not None:
            execution.outbox.cancelled = True
            details = msgspec.json.decode(recorded.output or "{}")
            stop = Stop(recorded.name or "request", 0.0, details.get("reason"))
            self._expect(stop, recorded.due_in or 0.0)
            if over is not None:
                self._expect_over()

    @property
    def is_pending(self) -> bool:
        """It is on its way: nothing new is to be begun."""
        return self._request is not None and not self.is_delivered

    def set_deadline(self, seconds: float) -> None:
        """The run's deadline is so far away."""
        stop = Stop("deadline", DEADLINE_GRACE_S)
        if seconds <= 0:
            self._ask(stop)
        else:
            self._at(seconds, partial(self._run.suspension.hold_or_do, self._ask, stop))

    def on_request(self, request: CancelRequest) -> None:
        """Somebody wants the run cancelled."""
        self._run.suspension.hold_or_do(self._on_request, request)

    def _on_request(self, request: CancelRequest) -> None:
        self._run.outbox.cancelled = True
        if request.force:
            self._run.give_up(self.error_of(Stop("request", 0.0, request.reason)), forced=True)
        else:
            self._ask(Stop("request", request.grace_s, request.reason))

    def _ask(self, stop: Stop) -> None:
        """Record it, unless the run is ending already."""
        if self._request is not None or self._run.is_ending or self._run.is_undoing:
            return
        request = self._expect(stop, stop.grace_s)
        output = {"grace_s": stop.grace_s, "reason": stop.reason}
        self._run.record(request, output=msgspec.json.encode(output).decode())

    def _expect(self, stop: Stop, grace_s: float) -> Request:
        future = self._run.loop.request_future()
        future.add_done_callback(partial(self._on_delivered, grace_s))
        self._request = request = Request(PLACE, stop, future, contextvars.copy_context())
        self._run.await_delivery(request)
        return request

    def _on_delivered(self, grace_s: float, future: asyncio.Future[Any]) -> None:
        """In the run's loop, in its turn among the other outcomes."""
        if future.cancelled() or future.exception() is not None:
            return  # the run is being unloaded
        self.is_delivered = True
        if self._run.is_undoing:
            return  # its code has failed by itself meanwhile
        if self._over is None:
            self._at(grace_s, self._on_grace_over)
        self._run.cancel_code()

    def _on_grace_over(self) -> None:
        if self._run.is_ending or self._run.is_undoing or self._over is not None:
            return
        if not self._run.has_undos:
            self._run.give_up(self.error)
            return
        self._run.record(self._expect_over())
        self._at(PATIENCE_S, partial(self._run.give_up, self.error))

    def _expect_over(self) -> Request:
        future = self._run.loop.request_future()
        future.add_done_callback(self._on_over_delivered)
        self._over = request = Request(OVER, GraceOver(), future, contextvars.copy_context())
        self._run.await_delivery(request)
        return request

    def _on_over_delivered(self, future: asyncio.Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            self.is_over = True

    @property
    def error(self) -> Cancelled | DeadlineExceeded:
        """As what the run ends when it was stopped."""
        assert self._request is not None
        stop = self._request.command
        assert isinstance(stop, Stop)
        return self.error_of(stop)

    def error_of(self, stop: Stop) -> Cancelled | DeadlineExceeded:
        if stop.name == "deadline":
            return DeadlineExceeded(self._run.workflow.name)
        return Cancelled(stop.reason)

    def close(self) -> None:
        """The run's code has ended."""
        for timer, _ in self._timers:
            timer.cancel()
        self._timers.clear()

    # --- its timers

    def _at(self, seconds: float, do: Callable[[], None]) -> None:
        self._timers.append((self._clock.call_later(max(0.0, seconds), do), do))

    def next_due(self) -> float | None:
        """When the deadline or the end of the grace comes (loop time)."""
        now = self._clock.time()
        return min((timer.when() for timer, _ in self._timers if timer.when() > now), default=None)

    def pass_time(self, seconds: float) -> None:
        """A test lets time pass: deadline and grace come so much earlier."""
        now = self._clock.time()
        timers, self._timers = self._timers, []
        for timer, do in timers:
            if timer.when() > now:  # else it has fired, or is about to
                timer.cancel()
                self._at(timer.when() - seconds - now, do)
            else:
                self._timers.append((timer, do))


def outcome_of(error: BaseException) -> Outcome:
    """How a run ends that ends with this error."""
    return Outcome.CANCELLED if isinstance(error, Cancelled) else Outcome.FAILED
