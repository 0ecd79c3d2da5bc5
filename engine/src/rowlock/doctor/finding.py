"""A finding: what was looked at, how it is, and what to do. And words that findings share. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """Goes on, but not as it should, or not for ever."""
    FAIL = "fail"
    """Something does not work now, or a promise does not hold."""
    UNKNOWN = "unknown"
    """It could not be seen: for want of a right, or because an answer took too long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    check: str
    state: State
    found: str
    remedy: str | None = None
    """What to do; None where there is nothing."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for programs; its keys depend on the check."""


def fine(check: str, found: str, **facts: Any) -> Finding:
    return Finding(check, State.OK, found, None, facts)


def warning(check: str, found: str, remedy: str, **facts: Any) -> Finding:
    return Finding(check, State.WARN, found, remedy, facts)


def failure(check: str, found: str, remedy: str, **facts: Any) -> Finding:
    return Finding(check, State.FAIL, found, remedy, facts)


def unseen(check: str, why: str, remedy: str | None = None, **facts: Any) -> Finding:
    return Finding(check, State.UNKNOWN, why, remedy, facts)


def age(seconds: float) -> str:
    """How long, in the unit that matters."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(number: int, what: str) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


MOST_NAMED = 5


def listed(things: Iterable[str]) -> str:
    """The first few of them, and how many more there are."""
    found: Sequence[str] = list(things)
    shown = "; ".join(found[:MOST_NAMED])
    left = len(found) - MOST_NAMED
    return f"{shown}; and {left:,} more" if left > 0 else shown
