"""The threads of one process in which plain functions work, and those that nobody waits for.

A thread can't be stopped. A sync step that outlives its timeout or its run is *abandoned*: its
result is void, and its thread is lost until the function returns by itself, perhaps never. So that
lost threads take no room from the others there are as many spare ones as may be lost; when they
are, this process is used up, and another takes its place (runtime/process.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

MOST_THREADS = 64


class StepThreads:
    """See the module's text. ``most_abandoned``: 0 is no limit."""

    def __init__(self, slots: int, *, most_abandoned: int, connections: int) -> None:
        self.executor = ThreadPoolExecutor(
            max_workers=min(MOST_THREADS, slots + 4) + most_abandoned,
            thread_name_prefix="rowlock-step",
        )
        self._most_abandoned = most_abandoned
        self._connections = connections
        # Changed from any thread: each change is one step of the interpreter.
        self._abandoned: dict[object, tuple[str, bool]] = {}

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Call it in a thread, as soon as one is free."""
        return self.executor.submit(function)

    def abandon(self, step: str, *, has_connection: bool = False) -> object:
        """Nobody waits for this step any more; it is at work until :meth:`ended`."""
        mark = object()
        self._abandoned[mark] = (step, has_connection)
        return mark

    def ended(self, mark: object) -> None:
        """An abandoned step has returned after all. Called from any thread."""
        self._abandoned.pop(mark, None)

    @property
    def abandoned(self) -> Counter[str]:
        """The steps that are at work although nobody waits for them, and how often each."""
        return Counter(step for step, _ in list(self._abandoned.values()))

    @property
    def are_used_up(self) -> bool:
        """Whether so many are abandoned that this process should make room for another."""
        if not self._most_abandoned:
            return False
        found = list(self._abandoned.values())
        # An abandoned transaction holds a connection, too, and there are only so many of those.
        holding = sum(has_connection for _, has_connection in found)
        return len(found) >= self._most_abandoned or holding >= self._connections

    def close(self) -> None:
        """Begin nothing more; what is at work goes on."""
        self.executor.shutdown(wait=False, cancel_futures=True)
