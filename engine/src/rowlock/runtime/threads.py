"""Sync workflows: the run's function in a thread, its calls in the run's loop.

The two take turns. While the thread computes, the run counts as busy, so nobody takes its silence
for waiting; while the run waits for a call's outcome, the thread waits with it. When the run is
unloaded, the call the thread is in raises Suspended there.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from rowlock.errors import Suspended
from rowlock.model.commands import Command, ExecuteStep
from rowlock.model.envelope import Codecs
from rowlock.runtime import inside
from rowlock.runtime.branches import Run

MOST_REFUSALS = 100
"""A thread that is refused so often after its run was unloaded is not answered any more."""


class _Call:
    """What the thread asks for, and the answer; or, without a command, how the function ended."""

    __slots__ = ("answered", "command", "error", "value")

    def __init__(
        self, command: Command | None, value: Any = None, error: BaseException | None = None
    ) -> None:
        self.command = command
        self.value = value
        self.error = error
        self.answered = threading.Event()


class WorkflowThread:
    """One sync workflow at work; :meth:`main` is what the run's loop sees of it."""

    def __init__(
        self, execution: Run, clock: asyncio.AbstractEventLoop, function: Callable[[], Any]
    ) -> None:
        self._execution = execution
        self._clock = clock
        self._function = function
        self._next: asyncio.Future[_Call] | None = None
        self._refusals = 0

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, or is being thrown away."""
        return self._execution.is_over

    @property
    def codecs(self) -> Codecs | None:
        """What encodes the run's values."""
        return self._execution.codecs

    # --- in the thread

    def perform(self, command: Command) -> Any:
        """Ask the run for something and wait for its outcome."""
        call = _Call(command)
        self._clock.call_soon_threadsafe(self._on_call, call)
        call.answered.wait()
        if call.error is not None:
            raise call.error
        return call.value

    def compensate(self, undo: ExecuteStep) -> None:
        """Register what undoes something; the run looks at it when its function has ended."""
        self._execution.compensate(undo)

    def _work(self) -> None:
        inside.enter_thread(self)
        try:
            end = _Call(None, self._function())
        except BaseException as error:
            end = _Call(None, error=error)
        self._clock.call_soon_threadsafe(self._on_call, end)

    # --- in the worker's loop

    def _on_call(self, call: _Call) -> None:
        if self._next is None or self._next.done():
            self._refusals += 1
            if self._refusals > MOST_REFUSALS:
                return  # it catches whatever is raised and tries again: let its thread rest
            call.error = Suspended("the run is no longer loaded here")
            call.answered.set()
            return
        self._execution.busy -= 1
        self._next.set_result(call)
        self._execution.schedule_pump()

    async def main(self) -> Any:
        """Runs in the run's loop, in the place of an async workflow's function."""
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._work,), name="rowlock-workflow", daemon=True
        ).start()
        while True:
            self._execution.busy += 1
            self._next = self._execution.loop.create_future()
            call = await self._next
            if call.command is None:
                if call.error is not None:
                    raise call.error
                return call.value
            try:
                call.value = await self._execution.request(call.command)
            except BaseException as error:
                call.error = error
                if isinstance(error, Suspended):
                    raise
            finally:
                call.answered.set()
