"""Where the calling code is: in a run, in a step, or in neither.

In an async run the running loop says so. A sync run's thread and everything inside a step are
known by a context variable, which the threads and tasks they start inherit.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

from rowlock.model.commands import Command, ExecuteStep
from rowlock.model.envelope import Codecs
from rowlock.runtime.branches import Run, RunLoop


class Thread(Protocol):
    """A sync workflow at work: it can ask its run for something and wait."""

    @property
    def is_over(self) -> bool: ...
    @property
    def codecs(self) -> Codecs | None: ...
    def perform(self, command: Command) -> Any: ...
    def compensate(self, undo: ExecuteStep) -> None: ...


_step: ContextVar[str | None] = ContextVar("rowlock_step", default=None)
_thread: ContextVar[Thread | None] = ContextVar("rowlock_thread", default=None)


def enter_step(name: str) -> None:
    """What runs in this context from here on is the inside of a step."""
    _step.set(name)
    _thread.set(None)


def enter_thread(thread: Thread) -> None:
    """What runs in this context from here on is a sync workflow."""
    _thread.set(thread)


def execution() -> Run | None:
    """The run whose async code is running here."""
    loop = RunLoop.current()
    return loop.execution if loop is not None else None


def thread() -> Thread | None:
    """The sync workflow that is running here."""
    return _thread.get()


def codecs() -> Codecs | None:
    """What encodes the values of the run that is running here."""
    run = execution() or thread()
    return None if run is None else run.codecs


def step() -> str | None:
    """The name of the step whose inside this is."""
    return None if RunLoop.current() is not None else _step.get()
