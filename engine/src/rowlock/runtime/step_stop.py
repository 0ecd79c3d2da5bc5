"""Whether anybody still waits for a step: what ``app.cancelled()`` asks.

One for each attempt, set in the worker's loop and read in whatever thread the step works in. Its
timeout is a time, not a timer: a step sees it even while the worker's loop stands still.
"""

from __future__ import annotations

import math
import time


class StepStop:
    """See the module's text. Any thread may ask; no lock is needed, as nothing is ever unset."""

    __slots__ = ("_is_late", "_is_set", "_until")

    def __init__(self) -> None:
        self._is_set = False
        self._is_late = False
        self._until = math.inf

    def set(self) -> None:
        """Nobody waits any more."""
        self._is_set = True

    def limit(self, seconds: float | None) -> None:
        """Nobody waits for longer than this from now on."""
        if seconds is not None:
            self._until = time.monotonic() + seconds

    def is_set(self) -> bool:
        """Whether nobody waits any more."""
        if not self._is_set and time.monotonic() >= self._until:
            self._is_late = self._is_set = True
        return self._is_set

    @property
    def is_late(self) -> bool:
        """Whether the step was told that its time is up: what it gives since may be half of it."""
        return self._is_late
