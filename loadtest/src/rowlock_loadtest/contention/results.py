"""What was measured, as values; everything that is said or drawn is made from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rowlock_loadtest.contention.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must hold whatever the load; if it does not, the whole run has failed."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the database while a point ran."""

    at: float
    """Seconds since the load began."""
    waits: dict[str, int]
    """Busy sessions of ours by what they wait for; "CPU": for nothing."""
    locks: int
    locks_waited_for: int
    dead_tuples: int
    xmin_age: int
    """Transactions that have begun since the oldest snapshot that somebody still uses."""
    running: int | None
    """How many tasks hold a claim, where a limit is watched."""


@dataclass(slots=True)
class Point:
    """One load for one span of time, and all that was seen of it."""

    label: str
    parameters: dict[str, Any]
    seconds: float
    counts: dict[str, int]
    latencies: dict[str, Histogram]
    samples: list[Sample]
    per_second: float
    """Runs finished a second."""
    timeline: list[tuple[float, float]] = field(default_factory=list)
    """(seconds, runs finished a second) over the point's time."""
    costs: dict[str, float] = field(default_factory=dict)
    """What a finished run cost: WAL bytes, commits, statements, CPU."""
    server: dict[str, float] = field(default_factory=dict)
    cpu_idle: float | None = None
    """Share of this machine's CPU that nobody used; None where it can't be told."""
    cpu_own: float | None = None
    """Of the CPU that was used, the share that the load and its server used."""
    limit: int | None = None
    most_running: int | None = None
    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def waits(self) -> dict[str, int]:
        """Samples of busy sessions by what they waited for, most first."""
        found: dict[str, int] = {}
        for sample in self.samples:
            for name, number in sample.waits.items():
                found[name] = found.get(name, 0) + number
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "label": self.label,
            "parameters": self.parameters,
            "seconds": self.seconds,
            "runs_per_second": self.per_second,
            "counts": self.counts,
            "latencies": {name: one.summary() for name, one in self.latencies.items()},
            "costs_per_run": self.costs,
            "server": self.server,
            "cpu_idle": self.cpu_idle,
            "cpu_own": self.cpu_own,
            "limit": self.limit,
            "most_running": self.most_running,
            "waits": self.waits(),
            "timeline": self.timeline,
            "samples": [
                {
                    "at": sample.at,
                    "waits": sample.waits,
                    "locks": sample.locks,
                    "locks_waited_for": sample.locks_waited_for,
                    "dead_tuples": sample.dead_tuples,
                    "xmin_age": sample.xmin_age,
                    "running": sample.running,
                }
                for sample in self.samples
            ],
            "checks": [
                {"name": one.name, "ok": one.ok, "detail": one.detail} for one in self.checks
            ],
        }


@dataclass(slots=True)
class Part:
    """One scenario: its points, or why there are none."""

    name: str
    title: str
    what: str
    points: list[Point] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """What of it could not be run here, and why."""
    remarks: list[str] = field(default_factory=list)
    """What the figures say, in plain words (verdict.py)."""
    finished: bool = True
    """False: it was cut short, and has the points that it had come to."""

    @property
    def ok(self) -> bool:
        return all(point.ok for point in self.points)

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "what": self.what,
            "finished": self.finished,
            "skipped": self.skipped,
            "remarks": self.remarks,
            "points": [point.facts() for point in self.points],
        }


@dataclass(slots=True)
class Suite:
    """A whole run of the suite."""

    began_at: str
    environment: dict[str, str]
    settings: dict[str, str]
    options: dict[str, Any]
    parts: list[Part] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    finished: bool = False
    stopped: str = "This run was interrupted."
    """Why, if it is not finished. No address stands in it."""

    @property
    def ok(self) -> bool:
        return all(part.ok for part in self.parts)

    def facts(self) -> dict[str, Any]:
        return {
            "began_at": self.began_at,
            "finished": self.finished,
            "stopped": None if self.finished else self.stopped,
            "ok": self.ok,
            "verdict": self.verdict,
            "environment": self.environment,
            "settings": self.settings,
            "options": self.options,
            "scenarios": [part.facts() for part in self.parts],
        }
