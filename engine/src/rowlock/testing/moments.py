"""Moments in a worker's life at which a test may do something, and how people call them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from rowlock.runtime.request import Request
from rowlock.store.entries import Emit, Entry, Finish, Release, Step, Suspend, Wait
from rowlock.store.statements import Claimed


class When(StrEnum):
    """Which moment it is."""

    CLAIMED = "after the claim of"
    CALLING = "before the call of"
    CALLED = "after the call of"
    WRITING = "before the commit of"
    WRITTEN = "after the commit of"


@dataclass(frozen=True, slots=True)
class Mark:
    """What is about to happen, or has just happened, to one run."""

    run_id: UUID
    kind: str
    name: str
    place: str

    def __str__(self) -> str:
        what = f"{self.kind} {self.name}".strip()
        return f"{what} at {self.place}" if self.place else what


def mark_of_request(run: Claimed, request: Request) -> Mark:
    """A step that is called, or something that commits by itself."""
    return Mark(run.run_id, request.command.kind, request.command.name or "", request.place)


def mark_of_claim(run: Claimed) -> Mark:
    return Mark(run.run_id, "a run of", run.workflow, "")


def marks_of(entries: Sequence[Entry]) -> list[Mark]:
    """Entries of the journal that commit together."""
    return [_mark_of(entry) for entry in entries]


def _mark_of(entry: Entry) -> Mark:
    run_id = UUID(entry.run)
    match entry:
        case Step(kind=kind, name=name, place=place):
            return Mark(run_id, kind, name, place)
        case Wait(kind=kind, place=place):
            return Mark(run_id, f"the beginning of a {kind}", "", place)
        case Finish(status=status):
            return Mark(run_id, "outcome", status, "")
        case Suspend():
            return Mark(run_id, "sleep", "", "")
        case Release():
            return Mark(run_id, "hand-back", "", "")
        case Emit(stream=stream):
            return Mark(run_id, "entry of stream", stream, "")
