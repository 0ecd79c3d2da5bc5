"""Points and parts made up by hand; roles that misbehave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rowlock_loadtest.contention.histogram import Histogram
from rowlock_loadtest.contention.results import Check, Part, Point, Sample
from rowlock_loadtest.contention.seat import Seat

HELD = Check("nothing is lost", True, "10 accepted, 10 there")
BROKEN = Check("nothing is lost", False, "10 accepted, 9 there")


def histogram(*ms: float) -> Histogram:
    made = Histogram()
    for value in ms:
        made.record(value / 1000)
    return made


def sample(at: float, running: int | None = None, **waits: int) -> Sample:
    named = {name.replace("__", ": "): number for name, number in waits.items()}
    return Sample(at, named, 10, 1, 100, 5, running)


def point(
    label: str,
    per_second: float = 1000.0,
    *,
    idle: float | None = 0.5,
    samples: list[Sample] | None = None,
    checks: list[Check] | None = None,
    **parameters: Any,
) -> Point:
    return Point(
        label=label,
        parameters=parameters,
        seconds=1.0,
        counts={"finished": round(per_second)},
        latencies={"claim": histogram(1, 2, 3, 50)},
        samples=samples if samples is not None else [sample(0.1, CPU=2), sample(0.2, CPU=1)],
        per_second=per_second,
        timeline=[(0.0, per_second), (0.5, per_second)],
        server={"deadlocks": 0},
        cpu_idle=idle,
        checks=[HELD] if checks is None else checks,
    )


def sweep(rates: dict[int, float], **more: Any) -> Part:
    part = Part("claimers", "More and more", "What it does")
    part.points = [
        point(f"{n} claimers", rate, claimers=n, batch=10, **more) for n, rate in rates.items()
    ]
    return part


@dataclass(frozen=True, slots=True)
class Stalls:
    """Asks every 10 ms; the first answer takes 0.3 s."""

    def run(self, seat: Seat) -> None:
        for n, at in enumerate(seat.moments(0.01)):
            seat.timed("claim", at, "select pg_sleep(%s)", [0.3 if n == 0 else 0])


@dataclass(frozen=True, slots=True)
class Breaks:
    def run(self, seat: Seat) -> None:
        seat.ask("select 1 / %s", [0])
