"""Faults that a test asks for: the one named step at which something happens, once.

A fault that never came about is an error of the test: it proved nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from rowlock.errors import RowlockError
from rowlock.testing.moments import Mark, When
from rowlock.workflow import AsyncStep, AsyncTransaction, SyncStep, SyncTransaction

Step = (
    str
    | AsyncStep[Any, Any]
    | SyncStep[Any, Any]
    | AsyncTransaction[Any, Any]
    | SyncTransaction[Any, Any]
)
"""A step or transaction, or its name."""

STEPS = ("step", "transaction")


class Kind(StrEnum):
    CRASH_AFTER = "crash_after"
    CRASH_BEFORE_RECORD = "crash_before_record"
    TAKEOVER = "takeover"
    HANG = "hang"


# A step is journalled with others: what was sent for it may have been sent for more. A crash before
# anything of it leaves the worker is the same to the database. A transaction commits by itself.
_MOMENTS = {
    Kind.CRASH_AFTER: {"step": When.WRITTEN, "transaction": When.WRITTEN},
    Kind.CRASH_BEFORE_RECORD: {"step": When.CALLED, "transaction": When.WRITING},
    Kind.TAKEOVER: {"step": When.CALLING, "transaction": When.CALLING},
    Kind.HANG: {"step": When.CALLING, "transaction": When.CALLING},
}


class Fault:
    """One fault that is to happen, at the ``nth`` time that the moment comes."""

    def __init__(self, kind: Kind, step: Step, nth: int) -> None:
        self.kind = kind
        self.name = step if isinstance(step, str) else step.name
        self.nth = nth
        self.seen = 0
        self.happened = False

    def is_at(self, when: When, marks: Sequence[Mark]) -> bool:
        """Whether this is its moment. Counts."""
        if self.happened:
            return False
        for mark in marks:
            if mark.name == self.name and _MOMENTS[self.kind].get(mark.kind) is when:
                self.seen += 1
                if self.seen == self.nth:
                    self.happened = True
                    return True
        return False

    def __str__(self) -> str:
        nth = f", nth={self.nth}" if self.nth > 1 else ""
        return f'{self.kind}("{self.name}"{nth})'


class FaultNeverHappened(RowlockError, AssertionError):
    """The test is over, and what it asked for did not come about."""

    def __init__(self, faults: Sequence[Fault], steps: Sequence[str]) -> None:
        self.steps = tuple(steps)
        what = ", ".join(str(fault) for fault in faults)
        ran = ", ".join(steps) if steps else "none"
        super().__init__(
            f"{what} never happened, so the test shows nothing. Steps that were called: {ran}. "
            "Ask for the fault before the run starts, by the name of a step that it calls."
        )
