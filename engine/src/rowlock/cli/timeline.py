"""Bars on a common axis of time, in characters. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

_EIGHTHS = "▏▎▍▌▋▊▉█"
WAIT = "░"
BUSY = "▒"
TICK = _EIGHTHS[0]


@dataclass(frozen=True, slots=True)
class Axis:
    """From when to when, and over how many characters."""

    begin: datetime
    end: datetime
    width: int

    @property
    def length(self) -> timedelta:
        return self.end - self.begin

    def work(self, begin: datetime, end: datetime) -> str:
        """A solid bar, exact to an eighth of a character at its end; never nothing."""
        first, eighths = self._cells(begin, end)
        whole, rest = divmod(max(1, eighths), 8)
        return (" " * first + "█" * whole + (_EIGHTHS[rest - 1] if rest else ""))[: self.width]

    def shade(self, begin: datetime, end: datetime, character: str) -> str:
        """A bar of whole characters, at least one."""
        first, eighths = self._cells(begin, end)
        return (" " * first + character * max(1, round(eighths / 8)))[: self.width]

    def _cells(self, begin: datetime, end: datetime) -> tuple[int, int]:
        """In which character it begins, and how many eighths of one it is from there."""
        first = min(self.width - 1, int(self._at(begin)))
        return first, round((self._at(end) - first) * 8)

    def _at(self, moment: datetime) -> float:
        whole = self.length.total_seconds()
        if whole <= 0:
            return 0.0
        share = (moment - self.begin).total_seconds() / whole
        return min(1.0, max(0.0, share)) * self.width
