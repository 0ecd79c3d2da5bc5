"""Writes one run's entries into the journal, under its epoch."""

from __future__ import annotations

from typing import Any

import msgspec

from rowlock.model.commands import StartChild
from rowlock.model.states import Outcome
from rowlock.runtime.journal import Done, Journal
from rowlock.runtime.request import Request
from rowlock.store.entries import Finish, Release, Step, Suspend, Wait
from rowlock.store.statements import Claimed


def raw(text: str | None) -> msgspec.Raw | None:
    """JSON text, to stand inside other JSON as it is."""
    return None if text is None else msgspec.Raw(text.encode())


class Outbox:
    """The journal as one run sees it."""

    __slots__ = ("_closed", "_epoch", "_journal", "_run", "waited")

    def __init__(self, journal: Journal, claimed: Claimed) -> None:
        self._journal = journal
        self._run = str(claimed.run_id)
        self._epoch = claimed.epoch
        self._closed = False
        self.waited = False
        """Whether the run may have rows in ``wait``, which its finish must clear."""

    def close(self) -> None:
        """The run is unloaded: what was not sent yet is forgotten."""
        self._closed = True

    def _is_closed(self) -> bool:
        return self._closed

    def step(
        self,
        request: Request,
        position: int,
        output: str | None,
        error: str | None,
        seconds: float,
        child: dict[str, Any] | None,
        done: Done,
    ) -> None:
        """Record what came of a request."""
        command = request.command
        entry = Step(
            self._run,
            self._epoch,
            request.place,
            position,
            command.name,
            seconds,
            raw(output),
            raw(error),
            command.kind,
            request.attempt or 1,
            child,
        )
        self._journal.add(entry, done, self._is_closed)

    def wait(
        self, request: Request, kind: str, seconds: float, error: str | None, done: Done
    ) -> None:
        """Make a timer outlive this process."""
        self.waited = True
        entry = Wait(
            self._run, self._epoch, request.place, kind, seconds, request.attempt, raw(error)
        )
        self._journal.add(entry, done, self._is_closed)

    def finish(self, status: Outcome, output: str | None, error: str | None, done: Done) -> None:
        """Record how the run ended."""
        entry = Finish(self._run, self._epoch, status, raw(output), raw(error), self.waited)
        self._journal.add(entry, done, self._is_closed)

    def suspend(
        self,
        watches: list[dict[str, str]],
        open_places: list[str],
        patience_ms: int,
        force: bool,
        done: Done,
    ) -> None:
        """Put the run to sleep until something of this happens."""
        self.waited = True
        entry = Suspend(self._run, self._epoch, watches, open_places, patience_ms, force)
        self._journal.add(entry, done, self._is_closed)

    def release(self, reason: bytes | None, done: Done) -> None:
        """Give the run back; with a reason it is blocked."""
        held = None if reason is None else msgspec.Raw(reason)
        self._journal.add(Release(self._run, self._epoch, held), done, self._is_closed)


def child_entry(child: StartChild, trace_context: str | None) -> dict[str, Any]:
    """What the journal needs to start a child."""
    entry: dict[str, Any] = {"workflow": child.name, "input": raw(child.input)}
    if child.queue is not None:
        entry["queue"] = child.queue
    if child.priority is not None:
        entry["priority"] = child.priority
    if child.attributes is not None:
        entry["attributes"] = raw(child.attributes)
    if trace_context is not None:
        entry["trace_context"] = raw(trace_context)
    return entry
