"""What a run has recorded, and whether its code still fits it.

Outcomes are delivered one at a time in the order in which they were recorded, live and on
replay; so the same branch wins a race again. A call that finds another kind or name at its
place, or a recorded outcome that nobody has called for, means that the code has changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rowlock.errors import UnreadableValue


@dataclass(frozen=True, slots=True)
class Record:
    """One recorded outcome; ``output`` and ``error`` are JSON text."""

    place: str
    kind: str
    name: str
    position: int
    output: str | None
    error: str | None

    def __str__(self) -> str:
        return describe(self.kind, self.name)


class Misfit(Exception):
    """The code does not fit the history."""

    def __init__(self, place: str, expected: str, found: str, expected_name: str = "") -> None:
        self.place = place
        self.expected = expected
        self.found = found
        self.expected_name = expected_name
        self.line: str | None = None
        """Where the code makes the call, if that is known."""
        super().__init__(f"at {place}: expected {expected}, found {found}")


class Locked(Misfit):
    """A recorded value can't be read here for want of a codec; the code is not at fault."""

    def __init__(self, place: str, error: UnreadableValue) -> None:
        self.error = error
        super().__init__(place, "a codec that reads it", str(error))


class History:
    """The records of one generation, by place and in order; and how far they are delivered."""

    __slots__ = ("_by_place", "_cursor", "_order")

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._order = sorted(records, key=lambda record: record.position)
        self._by_place = {record.place: record for record in self._order}
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def replaying(self) -> bool:
        """Whether recorded outcomes are still to be delivered."""
        return self._cursor < len(self._order)

    @property
    def last_position(self) -> int:
        """The highest position there is; 0 when nothing was recorded."""
        return self._order[-1].position if self._order else 0

    def called(self, place: str, kind: str, name: str) -> bool:
        """Check a call against what is recorded at its place; whether anything is.

        Raises Misfit when something else is recorded there.
        """
        record = self._by_place.get(place)
        if record is None:
            return False
        if record.kind != kind or record.name != name:
            raise Misfit(place, str(record), describe(kind, name), record.name)
        return True

    def peek(self) -> Record:
        """The outcome that :meth:`next` gives. Only while ``replaying``."""
        return self._order[self._cursor]

    def next(self) -> Record:
        """The next outcome to deliver. Only while ``replaying``."""
        record = self._order[self._cursor]
        self._cursor += 1
        return record

    def undelivered(self) -> list[Record]:
        """What has not been delivered yet."""
        return self._order[self._cursor :]


def describe(kind: str, name: str) -> str:
    """A command as people read it: ``step charge``, ``sleep``."""
    return f"{kind} {name}" if name else kind
