"""The threads of one process in which plain functions work, and those that nobody waits for.

A thread can't be stopped. A sync step that outlives its timeout or its run is *abandoned*: its
result is void, and its thread is lost until the function returns by itself, perhaps never. So that
lost threads take no room from the others there are as many spare ones as may be lost; when they
have been for a while, this process is used up, and another takes its place (runtime/process.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

MOST_THREADS = 64
LOST_S = 2.0
"""Who is abandoned for longer counts as lost: most end soon, above all those whose statement is
cancelled."""


@dataclass(frozen=True, slots=True, eq=False)
class Abandoned:
    """A step that nobody waits for."""

    step: str
    has_connection: bool
    since: float = field(default_factory=time.monotonic)


class StepThreads:
    """See the module's text. ``most_abandoned``: 0 is no limit; ``lost_s``: see LOST_S."""

    def __init__(
        self, slots: int, *, most_abandoned: int, connections: int, lost_s: float = LOST_S
    ) -> None:
        self.executor = ThreadPoolExecutor(
            max_workers=min(MOST_THREADS, slots + 4) + most_abandoned,
            thread_name_prefix="rowlock-step",
        )
        self._most_abandoned = most_abandoned
        self._connections = connections
        self._lost_s = lost_s
        # Changed from any thread: each change is one step of the interpreter.
        self._abandoned: set[Abandoned] = set()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """Call it in a thread, as soon as one is free."""
        return self.executor.submit(function)

    def abandon(self, step: str, *, has_connection: bool = False) -> Abandoned:
        """Nobody waits for this step any more; it is at work until :meth:`ended`."""
        mark = Abandoned(step, has_connection)
        self._abandoned.add(mark)
        return mark

    def ended(self, mark: Abandoned) -> None:
        """An abandoned step has returned after all. Called from any thread."""
        self._abandoned.discard(mark)

    @property
    def abandoned(self) -> Counter[str]:
        """The steps that are at work although nobody waits for them, and how often each."""
        return Counter(one.step for one in list(self._abandoned))

    @property
    def are_used_up(self) -> bool:
        """Whether so many are lost that this process should make room for another."""
        if not self._most_abandoned:
            return False
        before = time.monotonic() - self._lost_s
        lost = [one for one in list(self._abandoned) if one.since <= before]
        # A lost transaction holds a connection, too, and there are only so many of those.
        holding = sum(one.has_connection for one in lost)
        return len(lost) >= self._most_abandoned or holding >= self._connections

    def close(self) -> None:
        """Begin nothing more; what is at work goes on."""
        self.executor.shutdown(wait=False, cancel_futures=True)
