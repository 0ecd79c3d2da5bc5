"""What the figures say, in plain words. Pure: results in, sentences out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rowlock_loadtest.contention.results import Part, Point
from rowlock_loadtest.contention.scalability import Law, fit

IDLE_ENOUGH = 0.10
"""A point that left less of the CPU idle tells of the CPU, not of locks."""
AS_GOOD = 0.95
MOSTLY_OURS = 0.80
MUCH = 0.30
"""A wait that fills so large a share of busy sessions' time is what they wait for."""

_DISK = "commits wait until the disk has the log: a faster disk, or larger batches"
CAUSES = {
    "IO: WalSync": f"{_DISK} (WalSync)",
    "IO: WALSync": f"{_DISK} (WALSync)",
    "IO: WalWrite": "commits wait until the log is written (WalWrite)",
    "LWLock: WALWrite": "commits wait for each other to write the log (WALWrite)",
    "LWLock: WALInsert": "sessions wait for room in the log's buffers (WALInsert)",
    "LWLock: LockManager": "sessions wait for the lock table (LockManager)",
    "LWLock: BufferContent": "sessions want the same pages (BufferContent)",
    "Lock: transactionid": "sessions wait for others' transactions to end (row locks)",
    "Lock: tuple": "sessions stand in line for the same rows",
    "IPC: SyncRep": "commits wait for the standby (SyncRep)",
}


def thousands(value: float) -> str:
    """A count for people."""
    return f"{value:,.0f}"


def claimers_of(number: int) -> str:
    return f"{number} claimer" if number == 1 else f"{number} claimers"


def loads_of(number: int) -> str:
    return f"{number} load" if number == 1 else f"{number} loads"


def times(value: float) -> str:
    return f"{value:.1f} times" if value < 10 else f"{value:,.0f} times"


def laws(part: Part) -> dict[int, tuple[Law | None, int]]:
    """By batch: the law that fits the points that left CPU idle, and how many those are."""
    found = {}
    for batch in sorted({p.parameters["batch"] for p in _sweep(part)}):
        good = [
            (float(p.parameters["claimers"]), p.per_second)
            for p in _sweep(part)
            if p.parameters["batch"] == batch
            and p.cpu_idle is not None
            and p.cpu_idle >= IDLE_ENOUGH
        ]
        found[batch] = (fit(good), len(good))
    return found


def cause(point: Point) -> str:
    """What a point is held up by."""
    if point.cpu_idle is not None and point.cpu_idle < IDLE_ENOUGH:
        used = f"the CPU of this machine is used up ({point.cpu_idle:.0%} idle)"
        if point.cpu_own is not None and point.cpu_own < MOSTLY_OURS:
            used += f", though {1 - point.cpu_own:.0%} of it by others than this load"
        return used
    waits = point.waits()
    total = sum(waits.values())
    for name, number in waits.items():
        if name != "CPU" and total and number / total >= MUCH:
            told = CAUSES.get(name, f"sessions wait for {name}")
            return f"{told}; {number / total:.0%} of busy sessions were found so"
    if total and waits.get("CPU", 0) / total >= MUCH:
        return "sessions compute, and the clients ask no faster"
    return "no one cause stands out"


def remarks(part: Part) -> list[str]:
    """The sentences of one scenario."""
    if not part.points:
        return []
    failed = [
        f"FAILED: {point.label}: {check.name}: {check.detail}"
        for point in part.points
        for check in point.checks
        if not check.ok
    ]
    if not part.finished:
        # Its sentences compare points, and some are missing.
        return [*failed, f"Cut short after {loads_of(len(part.points))}: no more is said of these."]
    return failed + SAYERS[part.name](part)


def verdict(parts: Sequence[Part]) -> list[str]:
    """The few sentences that stand first."""
    said = []
    points = [point for part in parts for point in part.points]
    checks = [check for point in points for check in point.checks]
    wrong = [check for check in checks if not check.ok]
    if wrong:
        said.append(
            f"FAILED: {len(wrong)} of {len(checks)} checks:"
            f" {', '.join(sorted({c.name for c in wrong}))}."
            " Do not trust this database with runs before that is understood."
        )
    elif checks:
        said.append(
            f"Nothing was lost, doubled or over a limit: all {len(checks)} checks of"
            f" {loads_of(len(points))} held."
        )
    for name in ("claimers", "limits", "pinned", "ways"):
        for part in parts:
            if part.name == name and part.finished:
                said += [one for one in part.remarks if not one.startswith("FAILED")][:1]
    late = [part for part in parts if part.skipped]
    if late:
        said.append(
            f"Not run in full: {', '.join(part.name for part in late)}; the reason stands there."
        )
    if short := [part.name for part in parts if not part.finished]:
        said.append(f"Cut short: {', '.join(short)}; what it had measured stands there.")
    return said


def _sweep(part: Part) -> list[Point]:
    return [p for p in part.points if "pace" not in p.parameters]


def _claimers(part: Part) -> list[str]:
    best = max(_sweep(part), key=lambda p: p.per_second)
    batch = best.parameters["batch"]
    same = sorted(
        (p for p in _sweep(part) if p.parameters["batch"] == batch),
        key=lambda p: p.parameters["claimers"],
    )
    enough = next(p for p in same if p.per_second >= AS_GOOD * best.per_second)
    most = same[-1]
    used_up = best.cpu_idle is not None and best.cpu_idle < IDLE_ENOUGH
    if enough is most and len(same) > 1 and not used_up:
        first = (
            f"This database is not saturated by {claimers_of(most.parameters['claimers'])} with"
            " batches of"
            f" {batch}: they finish {thousands(best.per_second)} runs/s, and more may do more."
        )
    else:
        first = (
            f"This database saturates at about {thousands(best.per_second)} runs/s (batches of"
            f" {batch},"
            f" from {enough.parameters['claimers']} claimers on), because {cause(best)}."
        )
    said = [first]
    said.append(
        f"With {most.parameters['claimers']} claimers it gives"
        f" {most.per_second / best.per_second:.2f} of"
        " its best."
    )
    for size, (law, number) in laws(part).items():
        if law is None:
            said.append(
                f"Batches of {size}: no Universal Scalability Law is fitted, since only {number}"
                " points"
                f" left {IDLE_ENOUGH:.0%} of the CPU idle; the rest show the CPU's limit, not the"
                " locks'."
            )
        else:
            peak = "never" if law.peak > 1e4 else f"at {law.peak:.0f} claimers"
            said.append(
                f"Batches of {size}: contention {law.contention:.4f}, coherency {law.coherency:.6f}"
                f" (R² {law.r_squared:.2f}, {number} points); it would turn down {peak}."
            )
    for p in part.points:
        if "pace" in p.parameters and "claim" in p.latencies:
            wait = p.latencies.get("queue wait")
            waited = f", from due to claimed {_ms(wait.quantile(0.99))}" if wait else ""
            said.append(
                f"At {thousands(p.parameters['pace'])} runs/s a claim takes"
                f" {_ms(p.latencies['claim'].quantile(0.5))} (p99"
                f" {_ms(p.latencies['claim'].quantile(0.99))}{waited} (p99))."
            )
    return said


def _queues(part: Part) -> list[str]:
    one = part.points[0]
    base = one.latencies["claim"].quantile(0.99)
    return [
        f"{p.label}: {thousands(p.per_second)} runs/s, a claim p99 {_ms(_p99(p))},"
        f" {times(_p99(p) / base if base else 0)} that of one queue."
        for p in part.points[1:]
    ]


def _limits(part: Part) -> list[str]:
    said = []
    limited = [p for p in part.points if p.limit is not None]
    if limited:
        kept = all(p.ok for p in limited)
        tight = [p for p in limited if p.limit is not None and p.limit <= 10]
        told = ", ".join(f"{p.most_running} of {p.limit}" for p in tight)
        said.append(
            f"Limits {'held at every instant' if kept else 'were EXCEEDED'}: the most that ran was"
            f" {told}."
        )
    said += [f"{p.label}: {thousands(p.per_second)} runs/s." for p in part.points]
    return said


def _pinned(part: Part) -> list[str]:
    [point] = part.points
    each = float(point.parameters["phase_seconds"])
    rates = []
    for n in range(3):
        bins = [rate for at, rate in point.timeline if n * each <= at < (n + 1) * each]
        rates.append(sum(bins) / len(bins) if bins else 0.0)
    names = ("clean", "held", "recovery")
    p99 = [
        point.latencies[f"claim, {n}"].quantile(0.99)
        for n in names
        if f"claim, {n}" in point.latencies
    ]
    if len(p99) < 3 or not rates[0]:
        return ["A phase saw no claim: too short to say anything."]
    dead = max((sample.dead_tuples for sample in point.samples), default=0)
    return [
        (
            f"Beside an open transaction that pins xmin, claims go at {rates[1] / rates[0]:.2f} of"
            " the clean"
            f" rate ({thousands(rates[1])} of {thousands(rates[0])} runs/s, {thousands(dead)} dead"
            " tuples at"
            f" most); after it, at {rates[2] / rates[0]:.2f}."
        ),
        f"A claim's p99: {_ms(p99[0])} clean, {_ms(p99[1])} held, {_ms(p99[2])} after.",
    ]


def _herd(part: Part) -> list[str]:
    said = []
    for p in part.points:
        asked = p.server.get("looks of a worker a second", 0.0)
        line = f"{p.label}: {asked:.2f} looks a second from each"
        if "queue wait" in p.latencies:
            wait = p.latencies["queue wait"]
            line += f"; a run waits {_ms(wait.quantile(0.5))}"
            line += f" (p99 {_ms(wait.quantile(0.99))}) to be claimed"
        said.append(f"{line}.")
    return said


def _backlog(part: Part) -> list[str]:
    base = part.points[0]
    return [
        f"{p.label}: a claim p50 {_ms(p.latencies['claim'].quantile(0.5))}, p99 {_ms(_p99(p))};"
        f" {thousands(p.per_second)} runs/s, {p.per_second / max(base.per_second, 1e-9):.2f} of"
        " the short"
        " queue's."
        for p in part.points
        if "claim" in p.latencies
    ]


def _racing(part: Part) -> list[str]:
    [point] = part.points
    wanted = {
        "started": "starts",
        "finished": "finished by a claimer",
        "runs taken over": "taken over",
        "finishes refused, taken over meanwhile": "finishes refused because of it",
        "ended as cancelled": "ended as cancelled",
        "deadlocks": "deadlocks",
    }
    told = [f"{thousands(point.counts.get(key, 0))} {name}" for key, name in wanted.items()]
    return [f"{', '.join(told)}."]


def _tenants(part: Part) -> list[str]:
    fair = part.points[0].server.get("fairness (Jain)", 0.0)
    said = [f"While all tenants wait, Jain's index of what they get is {fair:.2f} (1 is fair)."]
    waits = [p.latencies["quiet tenant's wait"] for p in part.points[1:] if "noise" in p.parameters]
    if len(waits) == 2:
        said.append(
            f"A quiet tenant waits {_ms(waits[0].quantile(0.5))} (p99"
            f" {_ms(waits[0].quantile(0.99))}) alone"
            f" and {_ms(waits[1].quantile(0.5))} (p99 {_ms(waits[1].quantile(0.99))}) beside a"
            " noisy one."
        )
    return said


def _ways(part: Part) -> list[str]:
    most = max(p.parameters["claimers"] for p in part.points)
    at = {p.parameters["way"]: p for p in part.points if p.parameters["claimers"] == most}
    ours = at["rowlock"]
    told = []
    for way, p in at.items():
        if way == "rowlock":
            continue
        back = p.counts.get("serialization failures", 0) + p.counts.get("deadlocks", 0)
        trouble = f" and {thousands(back)} rollbacks" if back else ""
        told.append(f"{way} {thousands(p.per_second)} runs/s{trouble}")
    return [
        (
            f"With {most} claimers, Rowlock finishes {thousands(ours.per_second)} runs/s;"
            f" {'; '.join(told)}."
        )
    ]


SAYERS: dict[str, Callable[[Part], list[str]]] = {
    "claimers": _claimers,
    "queues": _queues,
    "limits": _limits,
    "pinned": _pinned,
    "herd": _herd,
    "backlog": _backlog,
    "racing": _racing,
    "tenants": _tenants,
    "ways": _ways,
}


def _p99(point: Point) -> float:
    return point.latencies["claim"].quantile(0.99)


def _ms(seconds: float) -> str:
    ms = seconds * 1000
    return f"{ms:.1f} ms" if ms < 100 else f"{ms:,.0f} ms"
