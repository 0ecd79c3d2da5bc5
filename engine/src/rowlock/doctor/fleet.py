"""Runs and workers: what nobody serves, who is dead, what needs a person. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from rowlock.doctor.finding import Finding, age, counted, failure, fine, listed, warning
from rowlock.store.examination import Blocked, Demand, OldCancel, WorkerLease
from rowlock.store.reports import PauseRow
from rowlock.store.statements import Planned

WALK_S = 2 * 3600.0
"""Workers walk over what is old at least once an hour."""


def serves(worker: WorkerLease, demand: Demand) -> bool:
    """Whether a worker would claim such runs, as functions/claim.sql decides it."""
    if worker.lease_seconds <= 0 or worker.draining or worker.app != demand.app:
        return False
    if worker.queues is not None and demand.queue not in worker.queues:
        return False
    if worker.version in ("", demand.version):
        return True
    return demand.version == "" and worker.version == demand.current


def unserved(demands: Sequence[Demand], workers: Sequence[WorkerLease], lease_s: float) -> Finding:
    """Whether runs are due that no live worker would ever claim."""
    left = [one for one in demands if not any(serves(worker, one) for worker in workers)]
    facts = {
        "unserved": [
            {
                "app": one.app,
                "queue": one.queue,
                "version": one.version or None,
                "runs": one.runs,
                "oldest_seconds": one.oldest_seconds,
            }
            for one in left
        ]
    }
    if not left:
        total = sum(one.runs for one in demands)
        said = f"{counted(total, 'run')} are due, all of them for live workers" if total else ""
        return fine("unserved", said or "no run is due", **facts)
    named = [
        f"{counted(one.runs, 'run')} in queue {one.queue} of app {one.app}{_for(one)}, the first "
        f"for {age(max(0.0, one.oldest_seconds))}"
        for one in left
    ]
    # Right after a start, or while workers are replaced, there may be none for a moment.
    say = failure if any(one.oldest_seconds > lease_s for one in left) else warning
    return say(
        "unserved",
        f"due, and no live worker serves them: {listed(named)}",
        "Start workers of that app, queue and version: `rowlock worker MODULE:APP --queues …`. "
        "Runs that are pinned to a version whose code is gone: `rowlock cancel`, or `rowlock fork "
        "--version`.",
        **facts,
    )


def _for(demand: Demand) -> str:
    if demand.version:
        return f", pinned to version {demand.version}"
    return f", for version {demand.current}" if demand.current else ""


def workers(found: Sequence[WorkerLease], lease_s: float) -> Finding:
    """Whether dead workers were noticed: any live one takes their runs over."""
    dead = [one for one in found if one.lease_seconds <= 0]
    alive = len(found) - len(dead)
    facts = {
        "alive": alive,
        "dead": [
            {
                "id": one.id,
                "app": one.app,
                "host": one.host,
                "pid": one.pid,
                "seconds": -one.lease_seconds,
                "running": one.running,
            }
            for one in dead
        ],
    }
    if not dead:
        return fine("workers", f"{alive:,} alive", **facts)
    named = [
        f"{one.id} ({one.host}, pid {one.pid}) of app {one.app} for {age(-one.lease_seconds)} with "
        f"{counted(one.running, 'run')}"
        for one in dead
    ]
    late = any(-one.lease_seconds > lease_s and one.running for one in dead)
    if late and not alive:
        return failure(
            "workers",
            f"leases are over, and nobody is alive to take their runs over: {listed(named)}",
            "Start a worker: any one takes over what is left, whatever its app.",
            **facts,
        )
    if late:
        return failure(
            "workers",
            f"leases are over, and nobody has taken their runs over: {listed(named)}",
            "See `locks`, and the logs of the live workers: they do this every few seconds.",
            **facts,
        )
    return warning(
        "workers",
        f"{alive:,} alive; leases that are over: {listed(named)}",
        "Nothing: live workers take their runs over within moments. If it repeats, see why they "
        "died: their logs, the memory they have.",
        **facts,
    )


def pauses(found: Sequence[PauseRow], now: datetime) -> Finding:
    """What somebody holds back."""
    facts = {
        "pauses": [
            {
                "app": one.app,
                "queue": one.queue,
                "workflow": one.workflow,
                "paused_at": one.paused_at,
                "paused_by": one.paused_by,
                "reason": one.reason,
            }
            for one in found
        ]
    }
    if not found:
        return fine("pauses", "nothing is paused", **facts)
    named = [
        f"{_paused(one)} of app {one.app} for {age((now - one.paused_at).total_seconds())} by "
        f"{one.paused_by}" + (f" ({one.reason})" if one.reason else "")
        for one in found
    ]
    return warning("pauses", listed(named), "When it is over: `rowlock unpause`.", **facts)


def _paused(pause: PauseRow) -> str:
    if pause.queue is not None:
        return f"queue {pause.queue}"
    return "all" if pause.workflow is None else f"workflow {pause.workflow}"


_MENDING = {
    "nondeterminism": "Bring back code that fits what they recorded, then `rowlock resume "
    "--workflow …`.",
    "unknown_workflow": "Start a worker that has the workflow: they go on by themselves.",
    "codec": "Give the workers the codec or key, then `rowlock resume --workflow …`.",
}


def blocked(found: Sequence[Blocked], most: int) -> Finding:
    """What needs a person, or other code."""
    facts = {
        "blocked": [
            {"app": one.app, "workflow": one.workflow, "kind": one.kind, "runs": one.runs}
            for one in found
        ]
    }
    if not found:
        return fine("blocked", "no run is blocked", **facts)
    total = sum(one.runs for one in found)
    more = "more than " if total >= most else ""
    named = [f"{one.runs:,} of {one.workflow} (app {one.app}): {one.kind}" for one in found]
    kinds = dict.fromkeys(one.kind for one in found)
    mending = [_MENDING[kind] for kind in kinds if kind in _MENDING]
    return warning(
        "blocked",
        f"{more}{counted(total, 'run')}: {listed(named)}",
        " ".join(["`rowlock list --status blocked` and `rowlock explain` say why.", *mending]),
        **facts,
    )


def cancels(found: Sequence[OldCancel]) -> Finding:
    """Whether runs don't end although they were asked to."""
    facts = {
        "runs": [{"run": one.run_id, "status": one.state, "seconds": one.seconds} for one in found]
    }
    if not found:
        return fine("cancels", "no run ignores that it was cancelled", **facts)
    named = [f"{one.run_id} ({one.state}) for {age(one.seconds)}" for one in found]
    return warning(
        "cancels",
        f"asked to end, and still there after their grace: {listed(named)}",
        "`rowlock explain RUN_ID` says what holds one; `rowlock cancel RUN_ID --force` ends it.",
        **facts,
    )


def retention(planned: Sequence[Planned], now: datetime) -> Finding:
    """Whether what should have left is still there."""
    facts = {
        "overdue": [
            {
                "app": one.app,
                "workflow": one.workflow,
                "outcome": one.outcome,
                "runs": one.runs,
                "archive": one.archive,
                "oldest": one.oldest,
            }
            for one in planned
        ]
    }
    late = [
        one
        for one in planned
        if one.runs and one.oldest and now - one.oldest - one.keep > timedelta(seconds=WALK_S)
    ]
    archived = [one for one in late if one.archive]
    if late:
        named = [
            f"{'at least ' if one.at_least else ''}{counted(one.runs, 'run')} of {one.workflow} "
            f"(app {one.app}) that have {one.outcome}" + (", to be archived" if one.archive else "")
            for one in late
        ]
        return warning(
            "retention",
            f"should have left by their policy, and have not: {listed(named)}",
            "`rowlock retain --archive FILE` archives and removes them, from cron for example."
            if archived
            else "Workers remove them in passing: see whether one is alive, or `rowlock retain`.",
            **facts,
        )
    return fine("retention", "nothing is older than its policy says", **facts)
