"""Spans of what a worker does: one for each execution of a step, one for each run, at its end.

Nothing about a trace is stored but what the run was started with. All else follows from the run,
so whichever worker goes on with it goes on with its trace: the trace id is the caller's, else the
run's own id; the id of the run's span is a digest of the run's. That span is emitted once, by the
worker whose finish was committed; those of its steps and children, long before, already name it
as their parent. A replay executes nothing, so it emits nothing.

The run's span is the active one in the workflow's code, the step's in the step's: what the user's
own instrumentation says is nested there, and lines of log carry its ids.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context, attach
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rowlock.model.failure import Failure
from rowlock.model.states import Outcome
from rowlock.store.statements import Claimed
from rowlock.telemetry import logs, propagation
from rowlock.telemetry.export import Pipeline
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.traces")

_W3C = TraceContextTextMapPropagator()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The lower 56 bits of a run id are random. The flag came with version 1.4x of the API.
_RANDOM = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)

P = ParamSpec("P")
R = TypeVar("R")


class RunTrace:
    """Where a run stands in its trace: the same on every worker that has it."""

    __slots__ = ("above", "context", "inside", "is_sampled", "taken_over")

    def __init__(self, above: Context, context: SpanContext, taken_over: bool) -> None:
        self.above = above
        """OpenTelemetry's context that holds the caller's span; empty when the run is the root."""
        self.context = context
        """The run's own span, which is emitted at its end."""
        self.inside = trace.set_span_in_context(trace.NonRecordingSpan(context), Context())
        self.is_sampled = context.trace_flags.sampled
        self.taken_over = taken_over
        """It was taken over, and no step has been executed since."""


class _Attempt:
    """The execution of a step that this context is in, or was in last."""

    __slots__ = ("place", "span")

    def __init__(self, place: str, span: trace.Span) -> None:
        self.place = place
        self.span = span


_run: ContextVar[RunTrace | None] = ContextVar("rowlock_run_trace", default=None)
_attempt: ContextVar[_Attempt | None] = ContextVar("rowlock_attempt", default=None)


def _careful(
    method: Callable[Concatenate[Spans, P], R | None],
) -> Callable[Concatenate[Spans, P], R | None]:
    """What goes wrong in an observer (a user's sampler, an error that can't be shown) is logged."""

    @functools.wraps(method)
    def guarded(self: Spans, /, *args: P.args, **kwargs: P.kwargs) -> R | None:
        try:
            return method(self, *args, **kwargs)
        except Exception:
            if not self.has_failed:
                self.has_failed = True
                log.exception("a span could not be made; more of this is not logged")
            return None

    return guarded


class Spans(Observer):
    """See the module's text."""

    def __init__(self, app: str, pipeline: Pipeline) -> None:
        self._app = app
        self._pipeline = pipeline
        self._tracer = pipeline.tracer
        self.has_failed = False

    # --- a run

    @_careful
    def run_loaded(self, run: Claimed) -> None:
        found = self._trace_of(run)
        _run.set(found)
        attach(found.inside)

    @_careful
    def run_ended(self, run: Claimed, status: str, seconds: float, failure: Failure | None) -> None:
        found = self._trace_of(run)
        if not found.is_sampled:
            return
        start_ns = _nanoseconds(run.started_at)
        with self._pipeline.ids.next_are(found.context.trace_id, found.context.span_id):
            span = self._tracer.start_span(
                f"run {run.workflow}",
                context=found.above,
                kind=SpanKind.CONSUMER,
                attributes=self._about(run) | {"rowlock.outcome": status},
                start_time=start_ns,
            )
        end_ns = start_ns + int(seconds * 1e9)
        if failure is not None:
            span.add_event("exception", _exception(failure), end_ns)
        if status in (Outcome.FAILED, Outcome.DEAD):
            span.set_status(Status(StatusCode.ERROR, _summary(failure)))
        span.end(end_ns)

    @_careful
    def context_for_child(self, run: Claimed) -> str | None:
        return propagation.to_json(self._trace_of(run).context)

    def _trace_of(self, run: Claimed) -> RunTrace:
        above = _W3C.extract(propagation.incoming(run.trace_context), Context())
        caller = trace.get_current_span(above).get_span_context()
        trace_id = caller.trace_id if caller.is_valid else run.run_id.int
        decision = self._pipeline.sampler.should_sample(
            above, trace_id, f"run {run.workflow}", SpanKind.CONSUMER, self._about(run)
        )
        flags = caller.trace_flags & _RANDOM if caller.is_valid else _RANDOM
        if decision.decision is Decision.RECORD_AND_SAMPLE:
            flags |= TraceFlags.SAMPLED
        context = SpanContext(
            trace_id,
            span_id_of(run.run_id, run.generation),
            is_remote=True,
            trace_flags=TraceFlags(flags),
            trace_state=decision.trace_state,
        )
        return RunTrace(above, context, run.takeovers > 0)

    def _about(self, run: Claimed) -> dict[str, Any]:
        return {
            "rowlock.run_id": str(run.run_id),
            "rowlock.app": self._app,
            "rowlock.workflow": run.workflow,
            "rowlock.queue": run.queue,
            "rowlock.version": run.version,
            "rowlock.generation": run.generation,
            "rowlock.epoch": run.epoch,
        }

    # --- a step

    @_careful
    def step_began(self, run: Claimed, place: str, kind: str, name: str, attempt: int) -> None:
        found = _run.get()
        if found is None or not found.is_sampled:
            return
        about: dict[str, str | int] = {
            "rowlock.run_id": str(run.run_id),
            "rowlock.workflow": run.workflow,
            "rowlock.step": name,
            "rowlock.place": place,
            "rowlock.attempt": attempt,
            "rowlock.epoch": run.epoch,
        }
        links = []
        before = _attempt.get()
        if before is not None and before.place == place:
            links.append(Link(before.span.get_span_context(), {"rowlock.link": "retry"}))
        if found.taken_over:
            # The execution that was cut off never told anybody its id, and nothing of it is
            # stored: the link leads to the run, and says what happened to it.
            found.taken_over = False
            about["rowlock.takeovers"] = run.takeovers
            links.append(Link(found.context, {"rowlock.link": "takeover"}))
        span = self._tracer.start_span(
            f"{kind} {name}", context=found.inside, attributes=about, links=links
        )
        _attempt.set(_Attempt(place, span))
        # The context is the step's own, and ends with it: what it logs between two attempts still
        # belongs to the one that failed, so nothing is detached.
        attach(trace.set_span_in_context(span))

    @_careful
    def step_ended(
        self, run: Claimed, name: str, seconds: float, error: BaseException | None
    ) -> None:
        attempt = _attempt.get()
        if attempt is None:
            return
        span = attempt.span
        try:
            if isinstance(error, CancelledError):
                span.set_attribute("rowlock.cancelled", True)
            elif error is not None:
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
                span.record_exception(error)
        finally:
            span.end()

    # --- the end

    def close(self) -> None:
        self._pipeline.close()


def span_id_of(run_id: UUID, generation: int) -> int:
    """The id of a run's span: the first 8 bytes of sha256(run id, generation), never 0."""
    digest = hashlib.sha256(run_id.bytes + generation.to_bytes(4, "big")).digest()
    return int.from_bytes(digest[:8], "big") or 1


def _nanoseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _summary(failure: Failure | None) -> str | None:
    return None if failure is None else f"{failure.type}: {failure.message}"


def _exception(failure: Failure) -> dict[str, str]:
    """By OpenTelemetry's conventions for exceptions on spans."""
    about = {"exception.type": failure.type, "exception.message": failure.message}
    if failure.traceback:
        about["exception.stacktrace"] = failure.traceback
    return about


def _active_ids() -> tuple[str, str] | None:
    """Trace id and span id of what is active here, in hexadecimal."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def make(app: str, version: str, exporters: Sequence[str]) -> Spans:
    """Switch traces on for this process."""
    pipeline = Pipeline(app, version, exporters)
    logs.name_traces_by(_active_ids)
    return Spans(app, pipeline)
