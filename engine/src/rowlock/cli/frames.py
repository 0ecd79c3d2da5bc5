"""What `rowlock top` shows: one look at the fleet, and what two looks tell together.

A look reads every unfinished run once (functions/fleet.sql); all else is read by key and bounded.

Reads: fleet.py, store's reports.py.  Writes: nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from rowlock.cli.portrait import Doing
from rowlock.fleet import TIMEOUT_S, FleetReader, FleetState
from rowlock.model.states import TaskState
from rowlock.settings import Settings
from rowlock.store.connection import Session
from rowlock.store.reports import (
    ARRIVALS,
    PACE,
    PAUSES,
    TOP_WAITS,
    TOP_WORKERS,
    Pace,
    PauseRow,
    TopWait,
    TopWorker,
)

MOST_ARRIVALS = 100_000
MOST_WAITS = 10

Key = tuple[str, str]
"""An app and a queue of it."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue: how many unfinished runs it has in each state, and how fast they come and go."""

    app: str
    queue: str
    ready: int
    running: int
    scheduled: int
    waiting: int
    blocked: int
    oldest_seconds: float
    """For how long the first of those that might run has been due."""
    arrivals_per_second: float
    ended_per_second: float | None
    """None: that takes two looks."""

    @property
    def unfinished(self) -> int:
        return self.ready + self.running + self.scheduled + self.waiting + self.blocked


@dataclass(frozen=True, slots=True)
class Frame:
    """One look."""

    fleet: FleetState
    queues: Sequence[Queue]
    workers: Sequence[TopWorker]
    waits: Sequence[TopWait]
    pauses: Sequence[PauseRow]
    pace: Pace
    rates: Mapping[str, float]
    """Runs started, steps recorded and histories ended a second, of the whole database. Empty for
    the first look."""
    took_s: float


class Looker:
    """Looks again and again over two connections: ``async with Looker(settings, app) as it:``."""

    def __init__(self, settings: Settings, app: str | None) -> None:
        self._app = app
        self._fleet = FleetReader(settings)
        self._session = Session(settings, "fleet", timeout_s=TIMEOUT_S)
        self._last: Frame | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._fleet.close()
        await self._session.close()

    async def look(self) -> Frame:
        """The next frame. Raises as FleetReader.read does."""
        began = time.monotonic()
        app = {"app": self._app}
        fleet = await self._fleet.read(self._app)
        [pace] = await self._session.rows(PACE, {})
        workers = await self._session.rows(TOP_WORKERS, app)
        waits = await self._session.rows(TOP_WAITS, {**app, "limit": MOST_WAITS})
        pauses = await self._session.rows(PAUSES, app)
        arrived = await self._arrived_until(fleet)
        queues = queues_of(fleet, self._last, arrived)
        rates = {} if self._last is None else rates_of(self._last.pace, pace)
        took_s = time.monotonic() - began
        self._last = Frame(fleet, queues, workers, waits, pauses, pace, rates, took_s)
        return self._last

    async def _arrived_until(self, fleet: FleetState) -> dict[Key, int]:
        """The runs that were created since the last look."""
        if self._last is None:
            return {}
        since, until = self._last.fleet.at, fleet.at
        given = {"app": self._app, "since": since, "until": until, "limit": MOST_ARRIVALS}
        found = await self._session.rows(ARRIVALS, given)
        return {(one.app, one.queue): one.runs for one in found}


def queues_of(fleet: FleetState, last: Frame | None, arrived: Mapping[Key, int]) -> list[Queue]:
    """All queues there are, in the order of their names.

    What came and is not there any more has ended; runs that were moved to another queue, or begun
    again, are counted wrong for one look.
    """
    counts: dict[Key, dict[str, int]] = {(rate.app, rate.queue): {} for rate in fleet.rates}
    oldest: dict[Key, float] = {}
    for one in fleet.queues:
        key = (one.app, one.queue)
        states = counts.setdefault(key, {})
        states[one.state] = states.get(one.state, 0) + one.tasks
        # What is due and was not promoted waits too: there is no worker to promote it.
        overdue = -one.next_due_seconds if one.next_due_seconds is not None else 0.0
        oldest[key] = max(oldest.get(key, 0.0), one.oldest_due_seconds or 0.0, overdue)
    averages = {(rate.app, rate.queue): rate.arrivals_per_second for rate in fleet.rates}
    before = {} if last is None else {(q.app, q.queue): q.unfinished for q in last.queues}
    seconds = 0.0 if last is None else (fleet.at - last.fleet.at).total_seconds()
    found = []
    for key, states in sorted(counts.items()):
        came, ended = averages.get(key, 0.0), None
        if seconds > 0:
            came = arrived.get(key, 0) / seconds
            gone = before.get(key, 0) + arrived.get(key, 0) - sum(states.values())
            ended = max(0, gone) / seconds
        found.append(
            Queue(
                *key,
                ready=states.get(TaskState.READY, 0),
                running=states.get(TaskState.RUNNING, 0),
                scheduled=states.get(TaskState.SCHEDULED, 0),
                waiting=states.get(TaskState.WAITING, 0),
                blocked=states.get(TaskState.BLOCKED, 0),
                oldest_seconds=oldest.get(key, 0.0),
                arrivals_per_second=came,
                ended_per_second=ended,
            )
        )
    return found


def rates_of(before: Pace, now: Pace) -> dict[str, float]:
    """By the second, from PostgreSQL's own counters."""
    seconds = (now.at - before.at).total_seconds()
    if seconds <= 0:
        return {}
    return {
        name: max(0, getattr(now, name) - getattr(before, name)) / seconds
        for name in ("runs", "steps", "outcomes")
    }


def doing_of(worker: TopWorker) -> list[Doing]:
    """What a worker has been at for long, the longest first."""
    found = msgspec.json.decode(worker.doing or "[]", type=list[Doing])
    return sorted(found, key=lambda one: one.since)


def facts_of(frame: Frame) -> dict[str, Any]:
    """A frame for scripts. The keys are promised."""
    return {
        "at": frame.fleet.at,
        "took_seconds": frame.took_s,
        "schema_level": frame.fleet.schema_level,
        "queues": [_plain(one) for one in frame.queues],
        "workers": [
            {**_plain(one), "doing": [_plain(step) for step in doing_of(one)]}
            for one in frame.workers
        ],
        "waits": [_plain(one) for one in frame.waits],
        "pauses": [_plain(one) for one in frame.pauses],
    }


def _plain(one: Any) -> dict[str, Any]:
    names = getattr(one, "__struct_fields__", None) or one.__dataclass_fields__
    return {name: getattr(one, name) for name in names}
