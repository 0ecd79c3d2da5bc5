"""What a worker carries: the workflows of one app as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rowlock.model.envelope import Codecs
from rowlock.model.failure import ErrorRegistry
from rowlock.model.inputs import Inputs
from rowlock.model.schedules import Declaration
from rowlock.model.values import Shape


@dataclass(frozen=True, slots=True)
class WorkflowCode:
    """One registered function, and how its arguments and its result are stored."""

    name: str
    queue: str
    function: Callable[..., Any]
    is_async: bool
    inputs: Inputs
    result: Shape


@dataclass(frozen=True, slots=True)
class Code:
    """One app: its workflows by name, its queues, the errors it can raise again, its codecs."""

    app: str
    workflows: Mapping[str, WorkflowCode]
    queues: tuple[str, ...]
    errors: ErrorRegistry
    codecs: Codecs | None = None
    lines: Mapping[str, str] = field(default_factory=dict)
    """Where its steps and workflows are defined, as ``file:line`` by name."""
    declared: str = "{}"
    """The limits of its queues, as a JSON object by name."""
    schedules: tuple[Declaration, ...] = ()
