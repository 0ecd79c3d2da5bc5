"""Live outcomes in the order of their positions. Pure.

A position is handed out when an outcome goes to be recorded. What comes of it is known later, and
not always in order: a transaction step commits on a connection of its own. Outcomes are delivered
in order of position, so one whose fate is open holds back those behind it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Deliveries(Generic[T]):
    """Hands out positions after ``last``, and outcomes in their order."""

    __slots__ = ("_open", "last")

    def __init__(self, last: int) -> None:
        self.last = last
        self._open: dict[int, T | None] = {}

    def __bool__(self) -> bool:
        """Whether a position is out whose outcome was not delivered yet."""
        return bool(self._open)

    def next_position(self) -> int:
        self.last += 1
        self._open[self.last] = None
        return self.last

    def arrived(self, position: int, outcome: T) -> None:
        """It is recorded and may be delivered."""
        self._open[position] = outcome

    def came_to_nothing(self, position: int) -> None:
        """Nothing was recorded there: a gap."""
        self._open.pop(position, None)

    def take(self) -> T | None:
        """The next outcome, if nothing before it is open."""
        for position, outcome in self._open.items():
            if outcome is not None:
                del self._open[position]
            return outcome
        return None
