"""How much to claim at once, and when to come again where other claims are in the way.

A queue lets in only so many large claims at the same time, a limited one a single claim
(functions/claim.sql). Who is refused holds nothing while it waits: no connection is busy, no
snapshot keeps dead rows. It comes again after a pause at random, the longer the more often it was
refused, in measure with how long claims take here. And as a turn may be held for long by a claim
whose client is frozen, it asks in the end for so few that it needs none.

Source: truncated binary exponential backoff (IEEE 802.3), but going back by one step, and only
where it was not refused at all: who waits as long as the last time is refused least while as many
others are at it.
"""

from __future__ import annotations

import random
import time

LARGE = 32
"""A claim of so many runs wants a turn; the same in functions/claim.sql."""
SHORTEST_S = 0.002
"""The slot of the backoff where claims are faster."""
MOST_DOUBLINGS = 6
LONGEST_S = 5.0
"""Who has been refused for so long asks for little, but for one claim in eight."""


class Patience:
    """Of one claimer, that makes one claim after the other."""

    def __init__(self, longest_s: float = LONGEST_S) -> None:
        self._longest_s = longest_s
        self._slot_s = SHORTEST_S
        self._doublings = 0
        self._was_refused = False
        self._refused_at: float | None = None
        """Since when, if the last large claim was refused."""

    def want(self, free: int) -> int:
        """How many runs to ask for, when there is room for so many."""
        if self._refused_at is None or time.monotonic() - self._refused_at < self._longest_s:
            return free
        return free if random.random() < 1 / 8 else min(free, LARGE - 1)

    def refused(self) -> float:
        """Gives the pause, in seconds, after a claim that others were in the way of."""
        pause_s = self._slot_s * 2.0**self._doublings * random.random()
        self._doublings = min(self._doublings + 1, MOST_DOUBLINGS)
        self._was_refused = True
        if self._refused_at is None:
            self._refused_at = time.monotonic()
        return pause_s

    def let_in(self, wanted: int, took_s: float) -> None:
        """A claim for so many was not refused; it took so long."""
        self._slot_s = max(took_s, SHORTEST_S)
        if not self._was_refused:
            self._doublings = max(self._doublings - 1, 0)
        self._was_refused = False
        if wanted >= LARGE:
            self._refused_at = None
