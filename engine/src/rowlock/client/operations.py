"""What callers can have done, each as a value: the database function and its parameters.

The async handles and their blocking twins, in a session of ours or on a connection of the caller's,
all carry out the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack
from uuid import UUID

import msgspec

from rowlock.client.arguments import check
from rowlock.errors import ConfigurationError, MisplacedCall
from rowlock.model.commands import seconds_of
from rowlock.model.envelope import Codecs
from rowlock.model.limits import limits_of
from rowlock.model.rates import Rate
from rowlock.model.values import Shape
from rowlock.scheduling import (
    FIELDS,
    ScheduleField,
    ScheduleOptions,
    When,
    change,
    creation,
    declaration,
)
from rowlock.starting import aware, refuse_unknown
from rowlock.store.connection import Statement
from rowlock.store.controls import (
    DELETE,
    DRAIN_WORKER,
    MOVE,
    PAUSE,
    REPRIORITISE,
    RESCHEDULE,
    RESET_LIMITS,
    RETIRE,
    SET_LIMIT,
    UNPAUSE,
    UNSET_LIMIT,
)
from rowlock.store.schedules import (
    BACKFILL,
    CREATE_SCHEDULE,
    DELETE_SCHEDULE,
    PAUSE_SCHEDULE,
    RESUME_SCHEDULE,
    TRIGGER_SCHEDULE,
    UNSET_SCHEDULE,
    UPDATE_SCHEDULE,
)
from rowlock.store.statements import (
    CANCEL,
    EMIT,
    FORK,
    PROMOTE,
    RESUME,
    RETRY,
    REWIND,
    SEND,
    SET_EVENT,
    WORKFLOW_OF,
)
from rowlock.workflow import Workflow, WorkflowCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """A statement that gives one row, with its parameters."""

    statement: Statement[T]
    parameters: Mapping[str, Any]


def _outgoing(codecs: Codecs | None, value: Any, what: str) -> str:
    return Shape(Any, what, codecs=codecs, outgoing=True).store(value)


def send(
    run_id: UUID, codecs: Codecs | None, topic: str, value: Any, key: str | None
) -> Operation[int]:
    check(topic=topic, key=key)
    text = _outgoing(codecs, value, f"a message on topic {topic}")
    return Operation(SEND, {"run": run_id, "topic": topic, "value": text, "key": key})


def set_event(run_id: UUID, codecs: Codecs | None, name: str, value: Any) -> Operation[None]:
    check(name=name)
    text = _outgoing(codecs, value, f"event {name}")
    return Operation(SET_EVENT, {"run": run_id, "name": name, "value": text})


def emit(run_id: UUID, codecs: Codecs | None, stream: str, value: Any) -> Operation[int]:
    check(stream=stream)
    text = _outgoing(codecs, value, f"an entry of stream {stream}")
    return Operation(EMIT, {"run": run_id, "stream": stream, "value": text})


def cancel(
    run_id: UUID, *, grace: timedelta | float, force: bool, reason: str | None
) -> Operation[None]:
    check(grace=grace, force=force, reason=reason)
    return Operation(
        CANCEL, {"run": run_id, "grace": seconds_of(grace), "force": force, "reason": reason}
    )


def resume(run_id: UUID) -> Operation[None]:
    return Operation(RESUME, {"run": run_id})


def retry(run_id: UUID) -> Operation[None]:
    return Operation(RETRY, {"run": run_id})


def rewind(
    run_id: UUID, codecs: Codecs | None, place: str, call: WorkflowCall[Any] | None
) -> Operation[None]:
    check(place=place)
    return Operation(REWIND, {"run": run_id, "place": place, "input": _input(call, codecs)})


def fork(
    run_id: UUID,
    codecs: Codecs | None,
    place: str | None,
    call: WorkflowCall[Any] | None,
    outcomes: Mapping[str, Any] | None,
    *,
    version: str | None,
    children: bool,
) -> Operation[UUID]:
    check(place=place, outcomes=outcomes, version=version, children=children)
    edited = None
    if outcomes is not None:
        for at in outcomes:
            check(place=at)
        texts = {
            at: msgspec.Raw(_outgoing(codecs, value, f"the outcome at {at}").encode())
            for at, value in outcomes.items()
        }
        edited = msgspec.json.encode(texts).decode()
    return Operation(
        FORK,
        {
            "run": run_id,
            "place": place,
            "input": _input(call, codecs),
            "outcomes": edited,
            "version": version,
            "children": children,
        },
    )


def reprioritise(run_id: UUID, priority: int) -> Operation[bool]:
    check(priority=priority)
    return Operation(REPRIORITISE, {"run": run_id, "priority": priority})


def reschedule(run_id: UUID, at: datetime) -> Operation[bool]:
    check(at=at)
    return Operation(RESCHEDULE, {"run": run_id, "at": aware(at, "at")})


def move(run_id: UUID, queue: str) -> Operation[bool]:
    check(queue=queue)
    return Operation(MOVE, {"run": run_id, "queue": queue})


def delete(run_id: UUID) -> Operation[None]:
    return Operation(DELETE, {"run": run_id})


def pause(
    app: str | None, queue: str | None, workflow: str | None, reason: str | None
) -> Operation[bool]:
    check(app=app, queue=queue, workflow=workflow, reason=reason)
    return Operation(PAUSE, {"app": app, "queue": queue, "workflow": workflow, "reason": reason})


def unpause(app: str | None, queue: str | None, workflow: str | None) -> Operation[bool]:
    check(app=app, queue=queue, workflow=workflow)
    return Operation(UNPAUSE, {"app": app, "queue": queue, "workflow": workflow})


class Limits(TypedDict, total=False):
    """What limits a queue; what is not given stays as it is.

    ``concurrency``: how many of its runs may hold a claim at a time, over all workers;
    ``worker_concurrency``: in one worker process. ``rate``: how many may begin in any period, as a
    :class:`rowlock.Rate` or its text. ``partitions``: whether its runs wait in partitions, which
    take turns; ``partition_concurrency`` and ``partition_rate``: for each of them. ``ageing``: by
    how much longer a run must have waited to go before one whose priority is better by one.
    ``weight``: how often a worker looks there first, in proportion to its other queues.
    """

    concurrency: int
    worker_concurrency: int
    rate: Rate | str
    partitions: bool
    partition_concurrency: int
    partition_rate: Rate | str
    ageing: timedelta
    weight: float


LimitName = Literal[
    "concurrency",
    "worker_concurrency",
    "rate",
    "partitions",
    "partition_concurrency",
    "partition_rate",
    "ageing",
    "weight",
]


def set_limit(app: str | None, queue: str, **limits: Unpack[Limits]) -> Operation[bool]:
    refuse_unknown("set_limit", limits, Limits)
    check(app=app, queue=queue)
    given = dict.fromkeys(Limits.__annotations__) | limits_of(queue, **limits)
    return Operation(SET_LIMIT, {"app": app, "queue": queue} | given)


def unset_limit(app: str | None, queue: str, name: LimitName) -> Operation[bool]:
    check(app=app, queue=queue, name=name)
    return Operation(UNSET_LIMIT, {"app": app, "queue": queue, "name": name})


def reset_limits(app: str | None, queue: str) -> Operation[bool]:
    check(app=app, queue=queue)
    return Operation(RESET_LIMITS, {"app": app, "queue": queue})


def promote(app: str | None, version: str) -> Operation[None]:
    check(app=app, version=version)
    return Operation(PROMOTE, {"app": app, "version": version})


def retire(app: str | None, version: str) -> Operation[bool]:
    check(app=app, version=version)
    return Operation(RETIRE, {"app": app, "version": version})


def drain_worker(worker_id: int) -> Operation[bool]:
    check(worker=worker_id)
    return Operation(DRAIN_WORKER, {"worker": worker_id})


def create_schedule(
    app: str,
    name: str,
    codecs: Codecs | None,
    *,
    when: When,
    workflow: Workflow[..., Any] | str,
    args: Mapping[str, Any] | None,
    tick: str | None,
    options: ScheduleOptions,
) -> Operation[None]:
    refuse_unknown("create_schedule", options, ScheduleOptions)
    check(name=name, when=when, workflow=name_of(workflow), args=args, tick=tick, **options)
    schedule = declaration(name, when, workflow, args, tick, codecs, options)
    return Operation(CREATE_SCHEDULE, creation(schedule, app))


def update_schedule(
    app: str,
    name: str,
    codecs: Codecs | None,
    *,
    when: When | None,
    workflow: Workflow[..., Any] | str | None,
    args: Mapping[str, Any] | None,
    tick: str | None,
    options: ScheduleOptions,
) -> Operation[bool]:
    refuse_unknown("update_schedule", options, ScheduleOptions)
    named = name_of(workflow)
    check(name=name, when=when, workflow=named, args=args, tick=tick, **options)
    parameters = change(name, when, named, args, tick, codecs, options, app)
    return Operation(UPDATE_SCHEDULE, parameters)


def unset_schedule(app: str, name: str, field: ScheduleField) -> Operation[bool]:
    check(name=name)
    if field not in FIELDS:
        raise ConfigurationError(
            f"a schedule has no field {field!r} that can be taken away; there are "
            f"{', '.join(FIELDS)}. Nothing was changed."
        )
    return Operation(UNSET_SCHEDULE, {"app": app, "name": name, "field": FIELDS[field]})


def pause_schedule(app: str, name: str, reason: str | None) -> Operation[bool]:
    check(name=name, reason=reason)
    return Operation(PAUSE_SCHEDULE, {"app": app, "name": name, "reason": reason})


def resume_schedule(app: str, name: str) -> Operation[bool]:
    check(name=name)
    return Operation(RESUME_SCHEDULE, {"app": app, "name": name})


def delete_schedule(app: str, name: str) -> Operation[None]:
    check(name=name)
    return Operation(DELETE_SCHEDULE, {"app": app, "name": name})


def trigger_schedule(app: str, name: str) -> Operation[UUID]:
    check(name=name)
    return Operation(TRIGGER_SCHEDULE, {"app": app, "name": name})


def backfill(app: str, name: str, since: datetime, until: datetime) -> Operation[int]:
    check(name=name, since=since, until=until)
    return Operation(
        BACKFILL,
        {
            "app": app,
            "name": name,
            "since": aware(since, "since"),
            "until": aware(until, "until"),
        },
    )


def workflow_of(run_id: UUID) -> Operation[str | None]:
    """None: there is no such run, as far as the caller may see."""
    return Operation(WORKFLOW_OF, {"run": run_id})


def fit(run_id: UUID, call: WorkflowCall[Any], workflow: str | None) -> None:
    """Raises MisplacedCall when this is a call of another workflow than the run's."""
    if workflow not in (None, call.workflow):
        raise MisplacedCall(
            f"run {run_id} is one of workflow {workflow}, but call is one of {call.workflow}: it "
            "has other arguments. Nothing was changed."
        )


def name_of(workflow: Workflow[..., Any] | str | None) -> str | None:
    return workflow.name if isinstance(workflow, Workflow) else workflow


def _input(call: WorkflowCall[Any] | None, codecs: Codecs | None) -> str | None:
    if call is not None and not isinstance(call, WorkflowCall):
        raise MisplacedCall(
            f"call takes a call of the run's workflow, such as fulfil(order), not {call!r}"
        )
    return None if call is None else call.input_with(codecs)
