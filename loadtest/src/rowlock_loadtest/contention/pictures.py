"""Which charts tell what of a scenario. Pure: a Part in, named SVGs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rowlock_loadtest.contention.charts import Axis, Series, bars, lines, number, stacked
from rowlock_loadtest.contention.histogram import Histogram
from rowlock_loadtest.contention.results import Part, Point, Sample
from rowlock_loadtest.contention.verdict import IDLE_ENOUGH, laws

Pictures = dict[str, str]

SHARES = (0.5, 0.75, 0.9, 0.99, 0.999, 0.9999)
SHARE_NAMES = {
    0.5: "50",
    0.75: "75",
    0.9: "90",
    0.99: "99",
    0.999: "99.9",
    0.9999: "99.99",
}
MOST_WAITS = 6
RUNS = "runs finished per second"


def pictures(part: Part) -> Pictures:
    """By name, in the order in which they are shown."""
    if not part.points:
        return {}
    return DRAWERS[part.name](part)


def latencies(title: str, of: dict[str, Histogram]) -> str:
    """Latency by percentile: every step to the right is ten times rarer."""
    series = [
        Series(
            name,
            [
                (share, max(1e-3, 1000 * one.quantile(share)))
                for share in SHARES
                if one.total * (1 - share) >= 1 or share <= 0.9
            ],
        )
        for name, one in of.items()
        if one.total
    ]
    rarest = max((share for one in series for share, _ in one.points), default=1.0)
    x = Axis("percentile", "nines", [share for share in SHARES if share <= rarest], SHARE_NAMES)
    return lines(title, series, x, Axis("milliseconds", "log"))


def waits(title: str, samples: Sequence[Sample]) -> str:
    """Busy sessions by what they wait for, over time."""
    totals: dict[str, int] = {}
    for sample in samples:
        for name, count in sample.waits.items():
            totals[name] = totals.get(name, 0) + count
    chosen = sorted(totals, key=lambda name: (name != "CPU", -totals[name]))[:MOST_WAITS]
    width = max(1, len(samples) // 60)
    groups = [samples[n : n + width] for n in range(0, len(samples), width)]
    layers = {name: [_mean(group, (name,)) for group in groups] for name in chosen}
    if others := tuple(set(totals) - set(chosen)):
        layers["others"] = [_mean(group, others) for group in groups]
    moments = [group[0].at for group in groups]
    return stacked(title, moments, layers, Axis("seconds"), Axis("busy sessions"))


def _mean(group: Sequence[Sample], names: Sequence[str]) -> float:
    """How many sessions waited for any of these, on average."""
    return sum(sample.waits.get(name, 0) for sample in group for name in names) / len(group)


def dead(title: str, samples: Sequence[Sample], spans: Sequence[tuple[str, float]] = ()) -> str:
    points = [(sample.at, float(sample.dead_tuples)) for sample in samples]
    series = [Series("dead tuples of the table", points, marks=False)]
    return lines(title, series, Axis("seconds"), Axis("dead tuples"), spans=spans)


def _claimers(part: Part) -> Pictures:
    sweep = [p for p in part.points if "pace" not in p.parameters]
    found = {}
    for batch, (law, _) in laws(part).items():
        of = [p for p in sweep if p.parameters["batch"] == batch]
        points = [(float(p.parameters["claimers"]), p.per_second) for p in of]
        series = [Series("measured", points)]
        if law is not None:
            end = max(x for x, _ in points)
            curve = [(end ** (k / 60), law.at(end ** (k / 60))) for k in range(61)]
            name = f"Universal Scalability Law, of points with {IDLE_ENOUGH:.0%} of the CPU idle"
            series.append(Series(name, curve, marks=False, dashed=True))
        found[f"throughput-{batch}"] = lines(
            f"Throughput against claimers, batches of {batch}",
            series,
            Axis("claimers", "doubling"),
            Axis(RUNS),
        )
    best = max(sweep, key=lambda p: p.per_second)
    paced = [p for p in part.points if "pace" in p.parameters]
    if paced:
        last = paced[len(paced) // 2]
        chosen: dict[str, Histogram] = {
            n: last.latencies[n]
            for n in ("claim", "journal", "start", "queue wait")
            if n in last.latencies
        }
        found["latencies"] = latencies(
            f"Latencies at {last.label.removeprefix('at ')}, from intended times", chosen
        )
    found["waits"] = waits(f"What busy sessions wait for: {best.label}", best.samples)
    found["dead"] = dead(f"Dead tuples: {best.label}", best.samples)
    return found


def _queues(part: Part) -> Pictures:
    rates = {p.label: p.per_second for p in part.points}
    return {
        "throughput": bars("Throughput", rates, RUNS, told=number),
        "latencies": latencies(
            "Claims, by number of queues", {p.label: p.latencies["claim"] for p in part.points}
        ),
    }


def _limits(part: Part) -> Pictures:
    found = {
        "throughput": bars(
            "Throughput", {p.label: p.per_second for p in part.points}, RUNS, told=number
        )
    }
    for p in part.points:
        if p.limit is not None and p.limit <= 1000:
            points = [(s.at, float(s.running)) for s in p.samples if s.running is not None]
            found[f"running-{p.limit}-{len(found)}"] = lines(
                f"Running against the limit: {p.label}",
                [Series("running", points, marks=False)],
                Axis("seconds"),
                Axis("runs that hold a claim"),
                bound=(f"limit {p.limit}", float(p.limit)),
            )
    return found


def _pinned(part: Part) -> Pictures:
    [p] = part.points
    each = float(p.parameters["phase_seconds"])
    spans = [("clean", 0.0), ("held", each), ("recovery", 2 * each)]
    rate = [Series(RUNS, p.timeline, marks=False)]
    phases = {n: p.latencies[f"claim, {n}"] for n, _ in spans if f"claim, {n}" in p.latencies}
    age = [(s.at, float(s.xmin_age)) for s in p.samples]
    return {
        "throughput": lines(
            "Throughput beside a transaction that stays open",
            rate,
            Axis("seconds"),
            Axis(RUNS),
            spans=spans,
        ),
        "dead": dead("Dead tuples of rowlock.task", p.samples, spans),
        "xmin": lines(
            "Age of the oldest snapshot",
            [Series("age of xmin", age, marks=False)],
            Axis("seconds"),
            Axis("transactions"),
            spans=spans,
        ),
        "latencies": latencies("Claims in each phase", phases),
    }


def _each(title: str, name: str) -> Callable[[Part], Pictures]:
    """The latency of one kind, at each point."""

    def draw(part: Part) -> Pictures:
        of = {p.label: p.latencies[name] for p in part.points if name in p.latencies}
        return {"latencies": latencies(title, of)}

    return draw


def _racing(part: Part) -> Pictures:
    [p] = part.points
    names = ("claim", "journal", "start", "cancel", "tend")
    return {
        "latencies": latencies(
            "Each kind of call", {n: p.latencies[n] for n in names if n in p.latencies}
        ),
        "waits": waits("What busy sessions wait for", p.samples),
    }


def _ways(part: Part) -> Pictures:
    names = list(dict.fromkeys(p.parameters["way"] for p in part.points))
    found = {
        "throughput": lines(
            "The naive ways beside Rowlock's",
            [
                Series(
                    way,
                    [
                        (float(p.parameters["claimers"]), p.per_second)
                        for p in part.points
                        if p.parameters["way"] == way
                    ],
                )
                for way in names
            ],
            Axis("claimers", "doubling"),
            Axis(RUNS),
        )
    }
    most = max(p.parameters["claimers"] for p in part.points)
    last = [p for p in part.points if p.parameters["claimers"] == most]
    found["latencies"] = latencies(
        f"Claims, {most} claimers",
        {p.parameters["way"]: p.latencies["claim"] for p in last if "claim" in p.latencies},
    )
    worst = [p for p in last if p.parameters["way"] == "for update"]
    if worst:
        found["waits"] = waits("What they wait for without SKIP LOCKED", worst[0].samples)
    return found


def _tenants(part: Part) -> Pictures:
    name = "quiet tenant's wait"
    of = {p.label: p.latencies[name] for p in part.points if name in p.latencies}
    return {"latencies": latencies("A quiet tenant's wait, from due to claimed", of)}


DRAWERS: dict[str, Callable[[Part], Pictures]] = {
    "claimers": _claimers,
    "queues": _queues,
    "limits": _limits,
    "pinned": _pinned,
    "herd": _each("From due to claimed", "queue wait"),
    "backlog": _each("Claims", "claim"),
    "racing": _racing,
    "tenants": _tenants,
    "ways": _ways,
}


def costs(point: Point) -> str:
    """What a run cost at a point, on one line."""
    return " · ".join(f"{number(value)} {name}" for name, value in point.costs.items())
