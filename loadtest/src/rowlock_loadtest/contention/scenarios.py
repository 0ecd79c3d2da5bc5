"""The scenarios: each plays its points on a stage and gives them back as a Part.

All drive Rowlock's SQL functions from connections without workflow code. Every point ends with the
invariants of truth.py.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from rowlock_loadtest.contention import naive, truth
from rowlock_loadtest.contention.results import Check, Part, Point
from rowlock_loadtest.contention.roles import (
    Canceller,
    Claimer,
    Idler,
    Role,
    Starter,
    Tender,
)
from rowlock_loadtest.contention.scalability import fairness
from rowlock_loadtest.contention.seat import Span, Tally
from rowlock_loadtest.contention.stage import Stage, pause_until
from rowlock_loadtest.contention.verdict import claimers_of, thousands

QUEUE = "work"
DRAIN_S = 60.0
"""How long what is left when a load is over may take to end; usually a moment."""
RATE_SECONDS = 4.0
"""At least so long is a rate measured: warming up may use up what the first second allows."""
NO_LIMITS = "this database's Rowlock has no limits (there is no function rowlock.set_limit)"


def claimers(stage: Stage) -> Part:
    part = stage.part(
        "claimers",
        "More and more claimers on one queue",
        "Each claims a batch, ends it in one journal call, and claims again, as fast as it can:"
        " that is"
        " throughput. Then the same at a set pace, which is where latencies are taken.",
    )
    for batch in stage.size.batches:
        last = None
        for number in stage.size.claimers:
            last = _at_one_queue(
                stage, f"{claimers_of(number)}, batches of {batch}", number, batch, last
            )
            part.points.append(last)
    alone = max(
        p.per_second for p in part.points if p.parameters["batch"] == min(stage.size.batches)
    )
    for share in (0.25, 0.5, 0.75):
        part.points.append(_paced(stage, round(share * alone)))
    return part


def _at_one_queue(
    stage: Stage, label: str, number: int, batch: int, last: Point | None, **parameters: Any
) -> Point:
    """So many claimers as fast as they can; again with more runs if they ran dry."""
    while True:
        stage.fresh([QUEUE])
        filled = stage.wanted(last, number)
        truth.fill(stage.connection, stage.app, [QUEUE], filled)
        stage.ready()
        last, _ = stage.play(
            label,
            [Claimer(stage.app, batch)] * number,
            accepted=filled,
            claimers=number,
            batch=batch,
            **parameters,
        )
        if last.counts.get("finished", 0) < filled:
            return last


def _paced(stage: Stage, rate: int) -> Point:
    """Starts and claims at times that are set beforehand, one of each for every run."""
    number, starters = 8, 4
    stage.fresh([QUEUE])
    roles: list[Role] = [
        *[Claimer(stage.app, 10, every_s=number / rate)] * number,
        *[Starter(stage.app, (QUEUE,), starters / rate)] * starters,
    ]
    point, _ = stage.play(
        f"at a set pace: {thousands(rate)} runs/s", roles, accepted=0, pace=rate, claimers=number
    )
    return point


def queues(stage: Stage) -> Part:
    part = stage.part(
        "queues",
        "The same work over many queues",
        "8 claimers, batches of 10, that serve all queues of the app: so many ready queues, with"
        " as many"
        " runs in each (uniform), or most of them in a few (Zipf, exponent 1). Then one queue with"
        " so many partitions, of each of which one run may run at a time.",
    )
    last = None
    for number in stage.size.queues:
        for shape in ("uniform", "zipf") if number > 1 else ("uniform",):
            names = [f"queue-{n:04}" for n in range(number)]
            stage.fresh(names)
            filled = stage.wanted(last, 8)
            dealt = names
            if shape == "zipf":
                dealt = random.choices(
                    names, weights=[1 / (n + 1) for n in range(number)], k=min(filled, 20_000)
                )
            truth.fill(stage.connection, stage.app, dealt, filled)
            stage.ready()
            last, _ = stage.play(
                f"{number:,} queues, {shape}" if number > 1 else "one queue",
                [Claimer(stage.app, 10)] * 8,
                accepted=filled,
                queues=number,
                shape=shape,
            )
            part.points.append(last)
    partitions = stage.size.partitions
    label = f"one queue, {partitions:,} partitions"
    given = {"partitions": True, "partition_concurrency": 1}
    if not given.keys() <= stage.limits:
        part.skipped.append(f"{label}: {NO_LIMITS}")
        return part
    name = f"{QUEUE}, {partitions:,} partitions"
    stage.fresh([name])
    truth.set_limit(stage.connection, stage.app, name, given)
    filled = max(partitions, stage.wanted(last, 8))
    truth.fill(stage.connection, stage.app, [name], filled)
    truth.deal_to_partitions(stage.connection, stage.app, name, partitions)
    stage.ready()
    last, _ = stage.play(
        label,
        [Claimer(stage.app, 10)] * 8,
        accepted=filled,
        queues=1,
        partitions=partitions,
    )
    part.points.append(last)
    return part


def limits(stage: Stage) -> Part:
    part = stage.part(
        "limits",
        "Limits: loose, binding, one, partitions, several at once, a rate",
        "16 claimers that hold each run for 5 ms. The highest number that ran at one instant is"
        " computed from the claim and finish of every run, besides being sampled.",
    )
    if not stage.limits:
        part.skipped.append(f"all of it: {NO_LIMITS}")
        return part
    each = "2 of each of 20 partitions"
    plans: dict[str, dict[str, Any]] = {
        "loose: 1,000,000": {"concurrency": 1_000_000},
        "binding: 10": {"concurrency": 10},
        "one at a time": {"concurrency": 1},
        each: {"partitions": True, "partition_concurrency": 2},
        f"{each}, 10 in all": {"partitions": True, "partition_concurrency": 2, "concurrency": 10},
        "100 a second": {"rate": "100/s"},
    }
    for label, given in plans.items():
        if missing := given.keys() - stage.limits:
            part.skipped.append(f"{label}: rowlock.set_limit takes no {', '.join(missing)}")
        else:
            part.points.append(limited(stage, label, given, given.get("concurrency")))
    return part


def limited(stage: Stage, label: str, given: dict[str, Any], limit: int | None) -> Point:
    """A load on a queue with these limits, of which no more than ``limit`` may ever run at once."""
    name = f"{QUEUE}, {label}"
    stage.fresh([name])
    if given:
        truth.set_limit(stage.connection, stage.app, name, given)
    filled, seconds = stage.size.fill, stage.size.seconds
    if "rate" in given:
        seconds = max(RATE_SECONDS, seconds)
        filled = max(filled, round(2 * _a_second(given["rate"]) * seconds))
    truth.fill(stage.connection, stage.app, [name], filled)
    if "partitions" in given:
        truth.deal_to_partitions(stage.connection, stage.app, name, 20)
    stage.ready()
    batch = 1 if limit == 1 else 5
    point, _ = stage.play(
        label,
        [Claimer(stage.app, batch, hold_s=0.005)] * 16,
        accepted=filled,
        seconds=seconds,
        watch_running=True,
        halts="rate" in given,
        **given,
    )
    point.limit = limit
    seen = truth.most_at_once(stage.connection, stage.app, name)
    point.most_running = max(point.most_running or 0, seen)
    if limit is not None:
        point.checks.append(_within("the limit", "ran at one instant", point.most_running, limit))
    if "partition_concurrency" in given:
        most = truth.most_at_once(stage.connection, stage.app, name, partition=True)
        told = "of one partition ran at one instant"
        point.checks.append(
            _within("the limit of a partition", told, most, given["partition_concurrency"])
        )
    if "rate" in given:
        most = truth.most_in_a_second(stage.connection, stage.app, name)
        allowed = _a_second(given["rate"])
        point.checks.append(_within("the rate", "were claimed within one second", most, allowed))
    return point


def _a_second(rate: str) -> int:
    """The number of a rate such as 100/s."""
    return int(rate.removesuffix("/s"))


def _within(what: str, told: str, most: int, allowed: int) -> Check:
    return Check(
        f"{what} is never exceeded", most <= allowed, f"at most {most:,} {told}, of {allowed:,}"
    )


def pinned(stage: Stage) -> Part:
    part = stage.part(
        "pinned",
        "A transaction that stays open",
        "8 claimers, batches of 10. After a while a stranger's transaction pins xmin: what is"
        " done since"
        " can't be cleaned up. Then it ends. A vacuum of the task table runs all the time, as an"
        " eager"
        " autovacuum would.",
    )
    each = stage.size.seconds * 2
    stage.fresh([QUEUE])
    truth.fill(stage.connection, stage.app, [QUEUE], stage.size.fill)
    stage.ready()
    roles: list[Role] = [Claimer(stage.app, 10)] * 8
    first, _ = stage.play("to see how fast it is", roles, accepted=stage.size.fill)
    filled = max(2000, round(first.per_second * each * 3 * 1.5))
    stage.fresh([QUEUE])
    truth.fill(stage.connection, stage.app, [QUEUE], filled)
    stage.ready()

    def during(begin: float) -> None:
        _vacuum(stage, begin + each)
        with stage.snapshot():
            _vacuum(stage, begin + 2 * each)
        _vacuum(stage, begin + 3 * each)

    point, _ = stage.play(
        "clean, held, recovery",
        roles,
        accepted=filled,
        seconds=3 * each,
        phases=(("clean", 0.0), ("held", each), ("recovery", 2 * each)),
        during=during,
        phase_seconds=each,
    )
    part.points.append(point)
    return part


def _vacuum(stage: Stage, until: float) -> None:
    step = max(0.2, stage.size.seconds / 4)
    begin = until - 2 * stage.size.seconds
    moment = begin
    while moment < until:
        stage.connection.execute("vacuum (truncate off) rowlock.task")
        moment += step
        pause_until(min(moment, until))


def herd(stage: Stage) -> Part:
    part = stage.part(
        "herd",
        "A herd of idle workers",
        "Idle workers on an empty queue, each looking once a second and listening. First nothing"
        " happens;"
        " then a run is started ten times a second: who is told takes it, the others should"
        " sleep on.",
    )
    number = stage.size.herd
    seconds = max(1.5, 2 * stage.size.seconds)
    for label, every_s in (("nothing to do", None), ("a run every 100 ms", 0.1)):
        stage.fresh([QUEUE])
        roles: list[Role] = [Idler(stage.app, 1.0)] * number
        if every_s is not None:
            roles.append(Starter(stage.app, (QUEUE,), every_s))
        point, _ = stage.play(
            f"{number} idle workers, {label}",
            roles,
            accepted=0,
            seconds=seconds,
            after=lambda tally: _drained(stage, tally),
            workers=number,
        )
        looks = point.latencies["claim"].total
        point.server["looks of a worker a second"] = looks / number / seconds
        part.points.append(point)
    return part


def _drained(stage: Stage, tally: Tally) -> None:
    """Let a few claimers end what is left, and whoever tends see to what waits for that."""
    roles: list[Role] = [Claimer(stage.app, 50)] * 4
    until = time.monotonic() + DRAIN_S
    while time.monotonic() < until and _left(stage):
        stage.connection.execute("select rowlock.tend(1000, 1000)")
        more = stage.crew.begin(stage.place.url, roles, Span(0.25)).result()
        tally.claims += more.claims
        tally.finishes += more.finishes


def _left(stage: Stage) -> dict[str, int]:
    """How many unfinished runs there are, by state."""
    states = ("ready", "scheduled", "running", "waiting", "blocked")
    row = stage.connection.execute(
        "select sum(ready), sum(scheduled), sum(running), sum(waiting), sum(blocked)"
        " from rowlock.queues where app = %s",
        [stage.app],
    ).fetchone()
    assert row is not None
    return {state: int(n) for state, n in zip(states, row, strict=True) if n}


def backlog(stage: Stage) -> Part:
    part = stage.part(
        "backlog",
        "A deep backlog",
        "4 claimers, batches of 10, at the head of a short queue; of a deep one; beside as many"
        " runs that"
        " are scheduled for later; and behind runs that a limit holds back.",
    )
    short = stage.size.fill
    depth = stage.size.depth
    plans = [
        (f"{thousands(short)} ready", short, 0, 0),
        (f"{thousands(depth)} ready", depth, 0, 0),
        (f"{thousands(depth)} scheduled beside", short, depth, 0),
        (f"{thousands(stage.size.bound)} behind a limit, at the head", short, 0, stage.size.bound),
    ]
    for label, ready, scheduled, bound in plans:
        if bound and not {"partitions", "partition_concurrency"} <= stage.limits:
            part.skipped.append(f"{label}: {NO_LIMITS}")
            continue
        stage.tell(f"filling: {label}")
        # Of its own: a limit stays with its queue.
        queue = f"{QUEUE}, bound" if bound else QUEUE
        stage.fresh([queue])
        if bound:
            given = {"partitions": True, "partition_concurrency": 1}
            truth.set_limit(stage.connection, stage.app, queue, given)
            truth.fill(stage.connection, stage.app, [queue], bound, priority=1)
            truth.deal_to_partitions(stage.connection, stage.app, queue, 1)
        truth.fill(stage.connection, stage.app, [queue], ready)
        truth.fill(stage.connection, stage.app, [queue], scheduled, delay_s=86400)
        if bound:
            truth.deal_behind(stage.connection, stage.app, queue, 1000)
        stage.ready()
        point, _ = stage.play(
            label,
            [Claimer(stage.app, 10)] * 4,
            accepted=ready + scheduled + bound,
            ready=ready,
            scheduled=scheduled,
            bound=bound,
        )
        part.points.append(point)
    return part


def racing(stage: Stage) -> Part:
    part = stage.part(
        "racing",
        "Everything at once on the same runs",
        "Claimers that end runs, claimers that vanish for longer than their lease and then end"
        " what may"
        " be another's by now, cancels (every other by force), starts with keys that rivals use"
        " too, and"
        " takeover. In the end everything must have ended, once.",
    )
    app = stage.app
    stage.fresh([QUEUE])
    lease = 0.3
    roles: list[Role] = [
        *[Claimer(app, 5, hold_s=0.002)] * 4,
        *[Claimer(app, 5, hold_s=0.02, lease_s=lease, abandons=0.3)] * 4,
        *[Starter(app, (QUEUE,), 0.004, keys=500)] * 2,
        *[Starter(app, (QUEUE,), 0.004)] * 4,
        *[Canceller(app, QUEUE, 0.01)] * 3,
        *[Tender(0.05)] * 2,
    ]
    point, tally = stage.play(
        "claim, finish, cancel, reap, start",
        roles,
        accepted=0,
        seconds=max(1.5, 2 * stage.size.seconds),
        after=lambda tally: _drained(stage, tally),
        lease_seconds=lease,
    )
    ended, cancelled = _ended(stage)
    point.counts["ended as cancelled"] = cancelled
    point.checks.append(
        Check(
            "everything has ended",
            ended == len(tally.runs),
            f"{ended:,} of {len(tally.runs):,} have an outcome; left: {_left(stage) or 'none'}",
        )
    )
    part.points.append(point)
    return part


def _ended(stage: Stage) -> tuple[int, int]:
    row = stage.connection.execute(
        "select count(*) filter (where status in ('succeeded', 'failed', 'cancelled', 'dead')),"
        " count(*) filter (where status = 'cancelled') from rowlock.runs where app = %s",
        [stage.app],
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def tenants(stage: Stage) -> Part:
    part = stage.part(
        "tenants",
        "A noisy tenant",
        "8 tenants, each with a queue of its own, served by the same 8 claimers; one has started 20"
        " times as much as all the others. Fair is that each gets the same while all wait (Jain's"
        " index 1), and that a quiet tenant, whose runs come 50 a second, waits no longer beside"
        " the noisy one.",
    )
    names = tuple(f"tenant-{n}" for n in range(8))
    filled = stage.size.fill
    stage.fresh(names)
    truth.fill(stage.connection, stage.app, names, filled)
    truth.fill(stage.connection, stage.app, names[:1], filled * 4)
    stage.ready()
    # For a short while: as long as all of them have something to wait for.
    point, tally = stage.play(
        "all wait",
        [Claimer(stage.app, 10)] * 8,
        accepted=filled * 5,
        seconds=stage.size.seconds / 4,
    )
    point.server["fairness (Jain)"] = fairness([tally.queues[name] for name in names])
    part.points.append(point)
    for noise in (0, filled * 10):
        stage.fresh(names)
        truth.fill(stage.connection, stage.app, names[:1], noise)
        stage.ready()
        quiet = names[1]
        point, tally = stage.play(
            "a quiet tenant beside the noisy one" if noise else "a quiet tenant alone",
            [
                *[Claimer(stage.app, 10)] * 8,
                *[Starter(stage.app, (quiet,), 0.08)] * 4,
            ],
            accepted=noise,
            watched_queues=(quiet,),
            noise=noise,
        )
        point.latencies["quiet tenant's wait"] = tally.waits[quiet]
        part.points.append(point)
    return part


def ways(stage: Stage) -> Part:
    part = stage.part(
        "ways",
        "The naive ways, beside Rowlock's",
        "Batches of 10 from one queue. "
        + " ".join(f"{name}: {told}" for name, told in naive.TOLD.items()),
    )
    numbers = [n for n in (1, 4, 16, 64) if n <= max(stage.size.claimers)]
    last: Point | None = None
    for number in numbers:
        label = f"rowlock, {claimers_of(number)}"
        last = _at_one_queue(stage, label, number, 10, last, way="rowlock")
        part.points.append(last)
        for way in naive.WAYS:
            label = f"{way}, {claimers_of(number)}"
            jobs = 4 * stage.wanted(last, number)
            point = stage.play_naive(label, way, number, 10, jobs)
            point.parameters |= {"way": way, "claimers": number}
            part.points.append(point)
    naive.drop(stage.connection)
    return part


SCENARIOS: dict[str, Callable[[Stage], Part]] = {
    "claimers": claimers,
    "queues": queues,
    "limits": limits,
    "pinned": pinned,
    "herd": herd,
    "backlog": backlog,
    "racing": racing,
    "tenants": tenants,
    "ways": ways,
}
