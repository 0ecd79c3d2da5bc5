"""What callers can have done, each as a value: the database function and its parameters.

The async handles and their blocking twins, in a session of ours or on a connection of the caller's,
all carry out the same values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from rowlock.model.commands import seconds_of
from rowlock.model.envelope import Codecs
from rowlock.model.values import Shape
from rowlock.store.connection import Statement
from rowlock.store.statements import (
    CANCEL,
    FORK,
    RESUME,
    RETRY,
    REWIND,
    SEND,
    SET_EVENT,
)
from rowlock.workflow import WorkflowCall

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
    text = _outgoing(codecs, value, f"a message on topic {topic}")
    return Operation(SEND, {"run": run_id, "topic": topic, "value": text, "key": key})


def set_event(run_id: UUID, codecs: Codecs | None, name: str, value: Any) -> Operation[None]:
    text = _outgoing(codecs, value, f"event {name}")
    return Operation(SET_EVENT, {"run": run_id, "name": name, "value": text})


def cancel(
    run_id: UUID, *, grace: timedelta | float, force: bool, reason: str | None
) -> Operation[None]:
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
    return Operation(REWIND, {"run": run_id, "place": place, "input": _input(call, codecs)})


def fork(
    run_id: UUID,
    codecs: Codecs | None,
    place: str | None,
    call: WorkflowCall[Any] | None,
    outcomes: Mapping[str, Any] | None,
) -> Operation[UUID]:
    edited = None
    if outcomes is not None:
        texts = {
            at: msgspec.Raw(_outgoing(codecs, value, f"the outcome at {at}").encode())
            for at, value in outcomes.items()
        }
        edited = msgspec.json.encode(texts).decode()
    return Operation(
        FORK,
        {"run": run_id, "place": place, "input": _input(call, codecs), "outcomes": edited},
    )


def _input(call: WorkflowCall[Any] | None, codecs: Codecs | None) -> str | None:
    return None if call is None else call.input_with(codecs)
