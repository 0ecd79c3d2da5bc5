"""Something that a run's code waits for, at a place; and what comes of it."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from rowlock.model.commands import Command
from rowlock.model.history import describe
from rowlock.runtime.step_stop import StepStop


class Request:
    """A command at a place, and the future that the run's code awaits."""

    __slots__ = (
        "attempt",
        "command",
        "context",
        "due",
        "future",
        "parked",
        "place",
        "position",
        "stop",
        "task",
        "timer",
    )

    def __init__(
        self, place: str, command: Command, future: asyncio.Future[Any], context: Context
    ) -> None:
        self.place = place
        self.command = command
        self.future = future
        self.context = context
        self.parked = False
        """Nothing is under way for it here: it waits for a timer or another run."""
        self.due: float | None = None
        """When its timer falls due (loop time)."""
        self.attempt = 0
        self.position: int | None = None
        """Of a commit whose answer was lost: perhaps it is recorded there."""
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[Any] | None = None
        self.stop = StepStop()
        """Of the present attempt, if it is a step."""

    def cancel_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def cancel_work(self) -> None:
        """Stop whatever is under way for it."""
        self.cancel_timer()
        self.stop.set()
        if self.task is not None:
            self.task.cancel()

    def __str__(self) -> str:
        return f"{describe(self.command.kind, self.command.name)} at {self.place}"


class Result:
    """What a request came to: a value, or an error to raise."""

    __slots__ = ("error", "request", "value")

    def __init__(
        self, request: Request, value: Any = None, error: BaseException | None = None
    ) -> None:
        self.request = request
        self.value = value
        self.error = error

    def deliver(self) -> None:
        """Give it to the run's code; nobody may be there any more."""
        future = self.request.future
        if future.done():
            return  # its branch was cancelled before the outcome came
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(self.value)
