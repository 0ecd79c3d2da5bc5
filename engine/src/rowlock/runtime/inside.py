"""Where the calling code is: in a run, in a step, or in neither.

In an async run the running loop says so. A sync run's thread and everything inside a step are
known by a context variable, which the threads and tasks they start inherit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, TypeVar

from rowlock.model.commands import Command, ExecuteStep
from rowlock.model.envelope import Codecs
from rowlock.runtime.branches import Run, RunLoop
from rowlock.runtime.step_stop import StepStop

R = TypeVar("R")


class Thread(Protocol):
    """A sync workflow at work: it can ask its run for something and wait."""

    @property
    def is_over(self) -> bool: ...
    @property
    def codecs(self) -> Codecs | None: ...
    def perform(self, command: Command) -> Any: ...
    def compensate(self, undo: ExecuteStep) -> None: ...


class Stage(Protocol):
    """The run that a step belongs to, as the inside of the step sees it."""

    def emit(self, stream: str, value: str) -> Future[None]: ...


class _Step(NamedTuple):
    name: str
    stop: StepStop
    run: Stage | None


_step: ContextVar[_Step | None] = ContextVar("rowlock_step", default=None)
_thread: ContextVar[Thread | None] = ContextVar("rowlock_thread", default=None)


def enter_step(name: str, stop: StepStop, run: Stage) -> None:
    """What runs in this context from here on is the inside of a step."""
    _step.set(_Step(name, stop, run))
    _thread.set(None)


@contextmanager
def step_alone(name: str) -> Iterator[None]:
    """The inside of a step that is called outside a run: its caller waits for it to its end.

    Called inside another step it is a part of that one, and shares its fate.
    """
    if _step.get() is not None:
        yield
        return
    token = _step.set(_Step(name, StepStop(), None))
    try:
        yield
    finally:
        with suppress(ValueError):  # a coroutine that was dropped is closed in another context
            _step.reset(token)


async def awaited_alone(name: str, work: Awaitable[R]) -> R:
    """The same for an async step."""
    with step_alone(name):
        return await work


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
    here = _here()
    return None if here is None else here.name


def stop() -> StepStop | None:
    """Whether anybody still waits for the step whose inside this is."""
    here = _here()
    return None if here is None else here.stop


def stage() -> Stage | None:
    """The run of the step whose inside this is; None outside a step, or if it is called alone."""
    here = _here()
    return None if here is None else here.run


def _here() -> _Step | None:
    return None if RunLoop.current() is not None else _step.get()
