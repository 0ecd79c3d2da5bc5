"""What a run's code can ask for. A command is a value; the runtime carries it out.

Each has a ``kind`` and a ``name``: what is recorded at its place, and what a replay must find
there again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

from rowlock.errors import InvalidValue
from rowlock.model.groups import GroupShape
from rowlock.model.retry import Retry
from rowlock.model.values import Shape

TIME = Shape(datetime, "the time")
IDENTITY = Shape(UUID, "a UUID")
NUMBER = Shape(float, "a random number")
NOTHING = Shape(type(None), "a sleep")
ANYTHING = Shape(Any, "a request to cancel")
RUN_ID = Shape(UUID, "a run's id")
GROUP_NAME = Shape(str, "a group's name")


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
    deadline_s: float | None = None
    detached: bool = False
    partition: str | None = None
    kind: ClassVar[str] = "child"
    shape: ClassVar[Shape] = RUN_ID


@dataclass(frozen=True, slots=True)
class AwaitRun:
    """Wait for the outcome of another run."""

    name: str
    run_id: UUID
    shape: Shape
    kind: ClassVar[str] = "result"


@dataclass(frozen=True, slots=True)
class StartGroup:
    """Start a child run for each of many calls; gives the group's name."""

    children: tuple[StartChild, ...]
    name: str = ""
    kind: ClassVar[str] = "children"
    shape: ClassVar[Shape] = GROUP_NAME


@dataclass(frozen=True, slots=True)
class AwaitGroup:
    """Wait until all children of a group have ended."""

    group: str
    shape: GroupShape
    name: str = ""
    kind: ClassVar[str] = "results"


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for a message to this run. ``name`` is its topic."""

    name: str
    shape: Shape
    timeout_s: float | None = None
    kind: ClassVar[str] = "receive"


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to another run. ``name`` is its topic, ``value`` JSON text."""

    name: str
    run_id: UUID
    value: str
    key: str | None = None
    kind: ClassVar[str] = "send"
    shape: ClassVar[Shape] = NOTHING


@dataclass(frozen=True, slots=True)
class SetEvent:
    """Show a value (JSON text) to others under a name."""

    name: str
    value: str
    kind: ClassVar[str] = "set_event"
    shape: ClassVar[Shape] = NOTHING


@dataclass(frozen=True, slots=True)
class AwaitEvent:
    """Wait for an event of another run."""

    name: str
    run_id: UUID
    shape: Shape
    timeout_s: float | None = None
    kind: ClassVar[str] = "get_event"


@dataclass(frozen=True, slots=True)
class Emit:
    """Append a value (JSON text) to a stream of this run. ``name`` is the stream's."""

    name: str
    value: str
    kind: ClassVar[str] = "emit"
    shape: ClassVar[Shape] = NOTHING


@dataclass(frozen=True, slots=True)
class Stop:
    """Not asked for by code: the run is cancelled here, or its deadline has passed.

    ``name`` says which: ``request`` or ``deadline``.
    """

    name: str
    grace_s: float
    reason: str | None = None
    kind: ClassVar[str] = "cancel"
    shape: ClassVar[Shape] = ANYTHING


@dataclass(frozen=True, slots=True)
class GraceOver:
    """Not asked for by code either: the cancelled run's code is dropped here, and undone."""

    name: str = ""
    kind: ClassVar[str] = "grace_over"
    shape: ClassVar[Shape] = NOTHING


Command = (
    ExecuteStep
    | Sleep
    | Note
    | StartChild
    | AwaitRun
    | StartGroup
    | AwaitGroup
    | Receive
    | Send
    | SetEvent
    | AwaitEvent
    | Emit
    | Stop
    | GraceOver
)


def seconds_of(duration: timedelta | float) -> float:
    """A duration in seconds, whichever way it was given. Raises InvalidValue."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if not isinstance(duration, int | float) or math.isnan(duration):
        # NaN compares with nothing: who waited for it would wait for ever.
        raise InvalidValue("a duration", "", f"it is {duration!r}.", "Give seconds or a timedelta.")
    return float(duration)
