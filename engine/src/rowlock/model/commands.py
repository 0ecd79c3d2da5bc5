"""What a run's code can ask for. A command is a value; the runtime carries it out.

Each has a ``kind`` and a ``name``: what is recorded at its place, and what a replay must find
there again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from rowlock.model.retry import Retry
from rowlock.model.values import Shape

TIME = Shape(datetime, "the time")
IDENTITY = Shape(UUID, "a UUID")
NUMBER = Shape(float, "a random number")
NOTHING = Shape(type(None), "a sleep")
RUN_ID = Shape(UUID, "a run's id")


# Not frozen, though nobody changes them: a frozen dataclass takes three times as long to make, and
# one of these is made for every step.
@dataclass(slots=True, eq=False)
class ExecuteStep:
    """Call a function and record what it gives."""

    kind: ClassVar[str] = "step"
    name: str
    shape: Shape
    function: Callable[..., Any]
    is_async: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    retry: Retry
    timeout_s: float | None = None


@dataclass(slots=True, eq=False)
class ExecuteTransaction(ExecuteStep):
    """A step whose writes commit together with its checkpoint."""

    kind: ClassVar[str] = "transaction"
    isolation: str = "read committed"


@dataclass(frozen=True, slots=True)
class Sleep:
    """Go on after a while. ``kind`` is what the timer is for: ``sleep`` or ``timeout``."""

    seconds: float
    kind: str = "sleep"
    name: str = ""
    shape: ClassVar[Shape] = NOTHING


@dataclass(frozen=True, slots=True)
class Note:
    """Record something the code must see again on replay: ``now``, ``uuid`` or ``random``."""

    kind: str
    shape: Shape
    name: str = ""


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start a run of another workflow; gives its id."""

    name: str
    input: str = field(repr=False)
    queue: str | None = None
    key: str | None = None
    priority: int | None = None
    attributes: str | None = None
    kind: ClassVar[str] = "child"
    shape: ClassVar[Shape] = RUN_ID


@dataclass(frozen=True, slots=True)
class AwaitRun:
    """Wait for the outcome of another run."""

    name: str
    run_id: UUID
    shape: Shape
    kind: ClassVar[str] = "result"


Command = ExecuteStep | Sleep | Note | StartChild | AwaitRun


def seconds_of(duration: timedelta | float) -> float:
    """A duration in seconds, whichever way it was given."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
