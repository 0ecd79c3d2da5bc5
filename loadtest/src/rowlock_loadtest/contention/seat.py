"""One connection of the load, and what is noted down of it.

A Seat sends statements, times them and counts; when all is over its Tally goes to whoever asked for
it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from rowlock_loadtest.contention.histogram import Histogram
from rowlock_loadtest.contention.truth import Claim

APPLICATION = "rowlock loadtest client"
"""How our sessions are told from others in pg_stat_activity."""
BIN_S = 0.1
ROLLED_BACK = {"40P01": "deadlocks", "40001": "serialization failures", "55P03": "lock timeouts"}
STATEMENT_TIMEOUT = "60s"


@dataclass(slots=True)
class Tally:
    """What one connection, or all of them, did."""

    counts: Counter[str] = field(default_factory=Counter)
    latencies: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    bins: Counter[int] = field(default_factory=Counter)
    """Finished runs by tenths of a second since the load began."""
    queues: Counter[str] = field(default_factory=Counter)
    """Claimed runs by queue, within the time of the load."""
    waits: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    """Waits from due to claimed, by queue (of queues that are asked for)."""
    claims: list[Claim] = field(default_factory=list)
    finishes: list[Claim] = field(default_factory=list)
    runs: set[str] = field(default_factory=set)
    """What `start` gave."""
    errors: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    """What connections said last that the server or the network has ended."""
    cpu_s: float = 0.0
    last_finish_s: float = 0.0

    def add(self, other: Tally) -> None:
        self.counts.update(other.counts)
        self.bins.update(other.bins)
        self.queues.update(other.queues)
        for name, histogram in other.latencies.items():
            self.latencies[name].add(histogram)
        for name, histogram in other.waits.items():
            self.waits[name].add(histogram)
        self.claims += other.claims
        self.finishes += other.finishes
        self.runs |= other.runs
        self.errors += other.errors
        self.losses += other.losses
        self.cpu_s += other.cpu_s
        self.last_finish_s = max(self.last_finish_s, other.last_finish_s)


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a load lasts, and the names of its phases with their beginnings."""

    seconds: float
    phases: tuple[tuple[str, float], ...] = ()
    watched_queues: tuple[str, ...] = ()
    """Whose waits are told apart."""
    warm_s: float = 0.0
    """Before the load counts: a new session plans each statement once, for 10 ms and more."""


class Seat:
    """One connection; see the module's text.

    ``begin`` is set when all are ready: from then on what it does counts.
    """

    def __init__(self, url: str, span: Span) -> None:
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            url, autocommit=True, application_name=APPLICATION, prepare_threshold=1
        )
        self.connection.execute(f"set statement_timeout = '{STATEMENT_TIMEOUT}'".encode())
        self.span = span
        self.tally = Tally()
        self.begin = 0.0
        row = self.connection.execute(
            "select extract(epoch from clock_timestamp())::float8"
        ).fetchone()
        assert row is not None
        self._wall = float(row[0]) - time.monotonic()

    def close(self) -> None:
        with suppress(psycopg.Error):
            self.connection.close()

    def wall(self, at: float) -> float:
        """The database's time (seconds since 1970) at a moment of our clock."""
        return at + self._wall

    def goes_on(self) -> bool:
        return time.monotonic() < self.begin + self.span.seconds

    def moments(self, every_s: float | None) -> Iterator[float]:
        """When to act, until time is up: as planned beforehand, or as soon as possible."""
        if every_s is None:
            while self.goes_on():
                yield time.monotonic()
            return
        offset = (id(self) // 64 % 1009) / 1009 * every_s  # so that not all act at once
        planned = self.begin - self.span.warm_s + offset
        while planned < self.begin + self.span.seconds:
            ahead = planned - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            elif not self.goes_on():
                # Never done: as late as it is now, at least.
                self.count("not done in time, too late")
                return
            yield planned
            planned += every_s

    def rest(self, seconds: float, *, to_the_end: bool = False) -> None:
        """Sleep, but not past the end of the load unless told so."""
        left = self.begin + self.span.seconds - time.monotonic()
        time.sleep(max(0.0, seconds if to_the_end else min(seconds, left)))

    def hear(self, seconds: float) -> None:
        """Wait until somebody notifies this connection, at most so long."""
        left = self.begin + self.span.seconds - time.monotonic()
        for _ in self.connection.notifies(timeout=max(0.0, min(seconds, left)), stop_after=1):
            pass

    def ask(self, query: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        self.tally.counts["statements"] += 1
        cursor = self.connection.execute(query.encode(), parameters)
        return cursor.fetchall() if cursor.description is not None else []

    def timed(
        self, name: str, at: float | None, query: str, parameters: Sequence[Any]
    ) -> list[tuple[Any, ...]] | None:
        """Ask, and note how long it took from ``at`` (now, if None). None: it was rolled back."""
        began = time.monotonic() if at is None else at
        try:
            rows = self.ask(query, parameters)
        except psycopg.errors.DatabaseError as error:
            if error.sqlstate not in ROLLED_BACK:
                raise
            self.count(ROLLED_BACK[error.sqlstate])
            return None
        if began < self.begin:
            return rows
        ended = time.monotonic()
        self.tally.latencies[name].record(ended - began)
        if self.span.phases:
            phase = ""
            for one, from_s in self.span.phases:
                if began - self.begin >= from_s:
                    phase = one
            self.tally.latencies[f"{name}, {phase}"].record(ended - began)
        return rows

    def count(self, name: str, number: int = 1) -> None:
        self.tally.counts[name] += number

    def claimed(self, run: str, epoch: int, queue: str, waited: float) -> None:
        """A run is ours. ``waited``: from when it was due, by the database's clock."""
        tally = self.tally
        tally.counts["claimed"] += 1
        tally.claims.append((run, epoch))
        if time.monotonic() < self.begin:
            return
        tally.latencies["queue wait"].record(waited)
        if queue in self.span.watched_queues:
            tally.waits[queue].record(waited)
        if self.goes_on():
            tally.queues[queue] += 1

    def started(self, run: str) -> None:
        self.tally.counts["started"] += 1
        self.tally.runs.add(run)

    def finished(self, run: str, epoch: int) -> None:
        self.tally.finishes.append((run, epoch))
        self.done(1)

    def done(self, number: int) -> None:
        at = time.monotonic() - self.begin
        self.tally.counts["finished"] += number
        self.tally.bins[math.floor(at / BIN_S)] += number
        self.tally.last_finish_s = max(self.tally.last_finish_s, at)
