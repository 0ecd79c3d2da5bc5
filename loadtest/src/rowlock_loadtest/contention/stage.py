"""One point of a scenario: fill, let the crew at it, watch, look whether all is as it must be.

Reads: meters.py, truth.py.  Writes: the place's app.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg

from rowlock_loadtest.contention import naive, truth
from rowlock_loadtest.contention.crew import Crew
from rowlock_loadtest.contention.meters import (
    Meters,
    Reading,
    Sampler,
    idle_between,
    own_share,
)
from rowlock_loadtest.contention.place import Place
from rowlock_loadtest.contention.results import Check, Part, Point
from rowlock_loadtest.contention.roles import Role
from rowlock_loadtest.contention.seat import BIN_S, Span, Tally

FILL_MORE = 1.8
"""So many times what the last point would use up: the next may be faster."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything. ``seconds``: of each point."""

    seconds: float = 3.0
    claimers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    batches: tuple[int, ...] = (1, 10, 100)
    queues: tuple[int, ...] = (1, 10, 1000, 5000)
    partitions: int = 100_000
    depth: int = 1_000_000
    bound: int = 100_000
    """Limit-bound runs at the head of a queue."""
    herd: int = 64
    fill: int = 20_000
    """Runs that the first point of a scenario finds."""


QUICK = Size(
    seconds=0.4,
    claimers=(1, 2, 4, 8),
    batches=(1, 10),
    queues=(1, 10, 200),
    partitions=500,
    depth=5_000,
    bound=1_000,
    herd=8,
    fill=1_500,
)


@dataclass(slots=True)
class Stage:
    """Where scenarios play: a place, a crew, and who is told how it goes."""

    place: Place
    crew: Crew
    size: Size
    tell: Callable[[str], None]
    connection: psycopg.Connection[Any]
    meters: Meters = field(init=False)
    limits: frozenset[str] = field(init=False)
    """The arguments of rowlock.set_limit; empty: there is none."""
    playing: Part | None = None
    """The scenario that is under way, with the points it has so far."""

    def __post_init__(self) -> None:
        self.meters = Meters(self.connection)
        self.limits = truth.limits_known(self.connection)

    @property
    def app(self) -> str:
        return self.place.app

    def part(self, name: str, title: str, what: str) -> Part:
        """Begin a scenario. Its points are told even if it is cut short."""
        self.playing = Part(name, title, what, finished=False)
        return self.playing

    def declare(self, queues: Sequence[str]) -> None:
        """Make queues known, as an app that declares them does."""
        self.connection.execute(
            "select rowlock.show_app(%s, %s::text[], %s::text[], %s::text[])",
            [self.app, list(queues), [truth.WORKFLOW], [queues[0]]],
        )

    def fresh(self, queues: Sequence[str]) -> None:
        """An app with these queues and no runs."""
        truth.clear(self.connection, self.app, alone=self.place.alone)
        self.declare(queues)

    def ready(self) -> None:
        """What autovacuum would do after so many new rows."""
        self.connection.execute("vacuum analyze rowlock.task")
        self.connection.execute("analyze rowlock.run")

    def play(
        self,
        label: str,
        roles: Sequence[Role],
        *,
        accepted: int,
        seconds: float | None = None,
        phases: tuple[tuple[str, float], ...] = (),
        watched_queues: tuple[str, ...] = (),
        watch_running: bool = False,
        halts: bool = False,
        during: Callable[[float], None] | None = None,
        after: Callable[[Tally], None] | None = None,
        **parameters: Any,
    ) -> tuple[Point, Tally]:
        """Let the roles act for a while. ``accepted``: runs that are there before.

        ``halts``: it stands still with runs left, as under a rate, so all of the time counts; else
        what ran dry is told until its last run. ``during`` is called with the moment when the load
        began; ``after`` when all have left, before the checks.
        """
        self.tell(label)
        span = Span(seconds or self.size.seconds, phases, watched_queues, warm_s(len(roles)))
        point, tally = self._measured(label, roles, span, "rowlock.task", watch_running, during)
        if halts:
            point.per_second *= min(1.0, tally.last_finish_s / span.seconds)
        if after is not None:
            after(tally)
        point.parameters |= parameters
        point.checks += truth.checked(
            self.connection,
            self.app,
            accepted=accepted + len(tally.runs),
            claims=tally.claims,
            finishes=tally.finishes,
        )
        point.checks.append(_no_conflicts(point))
        return point, tally

    def play_naive(self, label: str, way: str, claimers: int, batch: int, jobs: int) -> Point:
        """The same by one of the naive ways."""
        self.tell(label)
        naive.make(self.connection, jobs)
        roles: list[Role] = [naive.NaiveClaimer(way, batch)] * claimers
        span = Span(self.size.seconds, warm_s=warm_s(len(roles)))
        table = f"{naive.SCHEMA}.job"
        point, tally = self._measured(label, roles, span, table, False, None)
        point.checks += naive.checked(self.connection, jobs, tally.counts["finished"])
        return point

    def _measured(
        self,
        label: str,
        roles: Sequence[Role],
        span: Span,
        table: str,
        watch_running: bool,
        during: Callable[[float], None] | None,
    ) -> tuple[Point, Tally]:
        before = self.meters.read(table)
        running = self.crew.begin(self.place.url, roles, span)
        watched = self.app if watch_running else None
        sampler = Sampler(self.place.url, running.at, table, watched)
        try:
            if during is not None:
                during(running.at)
            tally = running.result()
        finally:
            samples = sampler.stop()
        after = self.meters.read(table)
        finished = tally.counts["finished"]
        seconds = min(span.seconds, tally.last_finish_s) or span.seconds
        in_time = sum(n for slot, n in tally.bins.items() if 0 <= slot * BIN_S < span.seconds)
        highest = [sample.running for sample in samples if sample.running is not None]
        return (
            Point(
                label=label,
                parameters={},
                seconds=span.seconds,
                counts=dict(sorted(tally.counts.items())),
                latencies=dict(tally.latencies),
                samples=[sample for sample in samples if sample.at >= 0],
                per_second=in_time / seconds,
                timeline=_timeline(tally.bins, span.seconds),
                costs=_costs(before, after, tally, finished),
                server=_server(before, after),
                cpu_own=own_share(before, after, tally.cpu_s),
                cpu_idle=idle_between(before, after),
                most_running=max(highest, default=None),
            ),
            tally,
        )

    def wanted(self, last: Point | None, connections: int) -> int:
        """How many runs the next point should find, so that it does not run dry."""
        if last is None:
            return self.size.fill
        seconds = self.size.seconds + warm_s(connections)
        return max(1000, round(last.per_second * seconds * FILL_MORE))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A stranger's transaction that has looked once and stays open: it pins xmin."""
        with psycopg.connect(self.place.url, application_name="rowlock loadtest stranger") as other:
            other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            other.execute("select count(*) from rowlock.queue")
            yield
            other.rollback()


def warm_s(connections: int) -> float:
    """All sessions plan their statements at once, on as few CPUs as there are."""
    return 0.2 + 0.05 * connections


def _no_conflicts(point: Point) -> Check:
    """Rowlock locks in one order and never retries a transaction."""
    deadlocks = max(point.counts.get("deadlocks", 0), int(point.server["deadlocks"]))
    failures = point.counts.get("serialization failures", 0)
    return Check(
        "no deadlock, no serialization failure",
        deadlocks + failures == 0,
        f"{deadlocks} deadlocks, {failures} serialization failures",
    )


def _timeline(bins: Counter[int], seconds: float) -> list[tuple[float, float]]:
    slots = max(1, round(seconds / BIN_S))
    group = max(1, slots // 60)
    return [
        (first * BIN_S, sum(bins[slot] for slot in range(first, first + group)) / (group * BIN_S))
        for first in range(0, slots - group + 1, group)
    ]


def _costs(before: Reading, after: Reading, tally: Tally, finished: int) -> dict[str, float]:
    if not finished:
        return {}
    costs = {
        "WAL bytes": (after.wal_bytes - before.wal_bytes) / finished,
        "commits": (after.commits - before.commits) / finished,
        "statements": tally.counts["statements"] / finished,
        "client CPU, µs": tally.cpu_s / finished * 1e6,
    }
    if before.server_cpu_s is not None and after.server_cpu_s is not None:
        costs["server CPU, µs"] = (after.server_cpu_s - before.server_cpu_s) / finished * 1e6
    return costs


def _server(before: Reading, after: Reading) -> dict[str, float]:
    updates = after.updates - before.updates
    return {
        "commits": after.commits - before.commits,
        "rollbacks": after.rollbacks - before.rollbacks,
        "deadlocks": after.deadlocks - before.deadlocks,
        "dead tuples at the end": after.dead_tuples,
        "HOT updates, share": (after.hot_updates - before.hot_updates) / updates if updates else 0,
    }


def pause_until(moment: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))
