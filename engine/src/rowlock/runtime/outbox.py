"""Writes one run's entries into the journal, under its epoch."""

from __future__ import annotations

from typing import Any

import msgspec

from rowlock.model.commands import StartChild
from rowlock.model.states import Outcome
from rowlock.runtime.journal import Done, Journal
from rowlock.runtime.request import Request
from rowlock.store.entries import Emit, Finish, Release, Step, Suspend, Wait, Watch
from rowlock.store.statements import Claimed


def raw(text: str | None) -> msgspec.Raw | None:
    """JSON text, to stand inside other JSON as it is."""
    return None if text is None else msgspec.Raw(text.encode())


Hanging = dict[str, Any]
"""What is written with a step, by the field of :class:`rowlock.store.entries.Step`."""


class Outbox:
    """The journal as one run sees it."""

    __slots__ = (
        "_closed",
        "_epoch",
        "_grouped",
        "_journal",
        "_limited",
        "_run",
        "cancelled",
        "waited",
    )

    def __init__(self, journal: Journal, claimed: Claimed) -> None:
        self._journal = journal
        self._run = str(claimed.run_id)
        self._epoch = claimed.epoch
        self._grouped = claimed.in_group
        self._limited = claimed.limited
        self._closed = False
        self.waited = False
        """Whether the run may have rows in ``wait``, which its finish must clear."""
        self.cancelled = False
        """Whether it has heard that it is to be cancelled."""

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
        hanging: Hanging | None,
        done: Done,
    ) -> None:
        """Record what came of a request, and what hangs on it."""
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
        )
        if hanging is not None:
            for name, value in hanging.items():
                setattr(entry, name, value)
        self._journal.add(entry, done, self._is_closed)

    def emit(self, stream: str, value: str, done: Done) -> None:
        """Append to a stream, from inside a step. Sent even if the run is unloaded meanwhile."""
        entry = Emit(self._run, self._epoch, stream, msgspec.Raw(value.encode()))
        self._journal.add(entry, done)

    def wait(
        self,
        request: Request,
        kind: str,
        seconds: float,
        error: str | None,
        done: Done,
        *,
        name: str | None = None,
        on_run: str | None = None,
    ) -> None:
        """Make a timer outlive this process."""
        self.waited = True
        entry = Wait(
            self._run,
            self._epoch,
            request.place,
            kind,
            seconds,
            request.attempt,
            name,
            on_run,
            raw(error),
        )
        self._journal.add(entry, done, self._is_closed)

    def finish(
        self,
        status: Outcome,
        output: str | None,
        error: str | None,
        done: Done,
        *,
        next_input: str | None = None,
    ) -> None:
        """Record how the run ended; with ``next_input`` it goes on as a new generation."""
        entry = Finish(
            self._run,
            self._epoch,
            status,
            raw(output),
            raw(error),
            raw(next_input),
            self.waited,
            self.cancelled,
            self._grouped,
            limited=self._limited,
        )
        self._journal.add(entry, done, self._is_closed)

    def suspend(
        self,
        watches: list[Watch],
        open_places: list[str],
        patience_ms: int,
        deadline_s: float | None,
        force: bool,
        done: Done,
    ) -> None:
        """Put the run to sleep until something of this happens."""
        self.waited = True
        entry = Suspend(
            self._run,
            self._epoch,
            watches,
            open_places,
            patience_ms,
            deadline_s,
            self.cancelled,
            force,
            self._limited,
        )
        self._journal.add(entry, done, self._is_closed)

    def release(self, reason: bytes | None, done: Done) -> None:
        """Give the run back; with a reason it is blocked."""
        held = None if reason is None else msgspec.Raw(reason)
        self._journal.add(Release(self._run, self._epoch, held), done, self._is_closed)


def child_entry(child: StartChild) -> dict[str, Any]:
    """What the journal needs to start a child."""
    entry: dict[str, Any] = {"workflow": child.name, "input": raw(child.input)}
    if child.queue is not None:
        entry["queue"] = child.queue
    if child.partition is not None:
        entry["partition"] = child.partition
    if child.priority is not None:
        entry["priority"] = child.priority
    if child.attributes is not None:
        entry["attributes"] = raw(child.attributes)
    if child.deadline_s is not None:
        entry["deadline_s"] = child.deadline_s
    if child.detached:
        entry["detached"] = True
    return entry
