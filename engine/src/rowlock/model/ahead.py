"""What a run's code knows before the journal has written it. Pure.

Code may go on with an outcome as soon as that is in the journal's queue, because it has no effects:
what it asks for next is written behind it, or waits here until it is written. So its last outcome
and its end are one commit, and nothing is done on the strength of what a crash could take back.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

MOST = 64
"""Code that only waits for no time, again and again, would else fill the journal's queue."""

MOST_CHARACTERS = 2000


def is_surely_kept(text: str | None) -> bool:
    """Whether PostgreSQL takes this JSON text for certain.

    It refuses escapes that stand for no character, and what is too deep or too big. The end of
    what was refused must not be written, so nobody goes ahead with anything near that.
    """
    return text is None or (len(text) <= MOST_CHARACTERS and "\\u" not in text)


class Ahead(Generic[T]):
    """Positions that were delivered and are not written yet, and who waits for them."""

    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}
        self._waiting: deque[tuple[int, T]] = deque()

    def __bool__(self) -> bool:
        """Whether anything that was delivered is not written yet."""
        return bool(self._open)

    @property
    def is_full(self) -> bool:
        """Whether the next outcome is to be delivered only when it is written."""
        return len(self._open) >= MOST

    def delivered(self, position: int) -> None:
        """The code has it."""
        self._open[position] = None

    def written(self, position: int) -> None:
        """The journal has it. Positions are written in their order."""
        del self._open[position]

    def hold(self, last: int, effect: T) -> None:
        """Keep what is to be done when all up to position ``last`` is written."""
        self._waiting.append((last, effect))

    def released(self) -> list[T]:
        """What may be done now."""
        found = []
        first = next(iter(self._open), None)
        while self._waiting and (first is None or first > self._waiting[0][0]):
            found.append(self._waiting.popleft()[1])
        return found

    def forget(self) -> None:
        """The run is unloaded."""
        self._waiting.clear()
