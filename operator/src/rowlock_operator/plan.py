"""Decides what to do next, from everything that is there. Pure.

In this order: the database must be known; the schema must fit the image, by a Job; then the
workers of the spec's version; when they are ready it is promoted and takes what is new; versions
that nothing is pinned to any more are removed. Whatever can't be known is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rowlock.fleet import FleetState
from rowlock_operator import manifests
from rowlock_operator.actions import (
    Action,
    Apply,
    CreateJob,
    DeleteDeployment,
    DeleteJob,
    Promote,
    Scale,
    SetDeletionCost,
)
from rowlock_operator.observed import Database, Memory, Migration, Observed, Workload
from rowlock_operator.scaling import Load, scale
from rowlock_operator.spec import Pool, hash_of

MIGRATION_AGAIN_S = 60.0
"""A Job that failed is tried again after this."""
WINDOW_S = 60.0
RETIRE_AFTER_S = 30.0
"""So long nothing must be pinned to an old version before its workers go: a claim under way
when the new one was promoted shows itself within that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, what to remember, and how far things are."""

    actions: tuple[Action, ...] = ()
    memory: dict[str, Memory] = field(default_factory=dict)
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far things are, for the status."""

    migrated: bool | None
    """None: not known."""
    migration: Migration | None = None
    registered: bool = False
    """The spec's version has shown itself in the database."""
    promoted: bool = False
    pools_ready: bool = False
    stuck: tuple[str, ...] = ()
    """Why workers of the spec's version do not come up."""
    wanted: dict[str, int] = field(default_factory=dict)
    """By Deployment."""


def plan(seen: Observed, *, window_s: float = WINDOW_S) -> Plan:
    """What to do now."""
    migration = _migration(seen)
    migrated = _is_migrated(seen.database, migration)
    progress = _progress(seen, migration, migrated)
    if seen.spec.paused:
        return Plan(memory=seen.memory, progress=progress)
    actions: list[Action] = []
    actions += _migrate(seen, migration, migrated)
    sizes = _Sizes(seen, window_s)
    for pool in seen.spec.pools:
        actions += _serve(seen, pool, progress, sizes)
    actions += _retire(seen, progress, sizes)
    if progress.pools_ready and progress.registered and not progress.promoted:
        actions.append(Promote(seen.spec.app, seen.spec.version))
    there = {workload.name for workload in seen.workloads}
    kept = {name: old for name, old in seen.memory.items() if name in there}
    return Plan(tuple(actions), kept | sizes.memory, replace(progress, wanted=sizes.wanted))


class _Sizes:
    """How many workers each Deployment is to have, found one by one in a round."""

    def __init__(self, seen: Observed, window_s: float) -> None:
        self._seen = seen
        self._window_s = window_s
        self.memory: dict[str, Memory] = {}
        self.wanted: dict[str, int] = {}

    def find(
        self, name: str, version: str, pool: Pool, current: int, fleet: FleetState, floor: int
    ) -> int:
        """Of the Deployment ``name``, which serves a version of a pool; at least ``floor``."""
        self.wanted[name], self.memory[name] = scale(
            pool,
            load_of(fleet, self._seen.spec.app, version, pool),
            current,
            self.remembered(name),
            now=self._seen.now,
            window_s=self._window_s,
            floor=floor,
        )
        return self.wanted[name]

    def remembered(self, name: str) -> Memory:
        """From the rounds before."""
        return self._seen.memory.get(name, Memory())


# --- the schema


def _migration(seen: Observed) -> Migration | None:
    name = seen.spec.migration_job
    return next((job for job in seen.migrations if job.name == name), None)


def _is_migrated(database: Database, job: Migration | None) -> bool | None:
    """Whether the schema fits the image. The database decides; a Job only says what is needed."""
    if database.fleet is None and not database.needs_migration:
        return None
    if job is None or not job.succeeded or database.fleet is None:
        return False
    # Without a pod the Job can't say which level it reached; that it did is known.
    return job.level is None or database.fleet.schema_level >= job.level


def _migrate(seen: Observed, job: Migration | None, migrated: bool | None) -> list[Action]:
    if migrated is None:
        return []
    others = [other for other in seen.migrations if other.name != seen.spec.migration_job]
    outdated: list[Action] = [DeleteJob(other.name) for other in others]
    if job is None:
        # One at a time. Another image's that still runs is stopped first: it may never end, and
        # its migration is a transaction.
        is_busy = any(not (other.succeeded or other.failed) for other in others)
        return outdated if is_busy else [*outdated, CreateJob(manifests.migration_job(seen.spec))]
    came_to_nothing = job.failed or (job.succeeded and migrated is False)
    if came_to_nothing and seen.now - (job.finished_at or 0.0) >= MIGRATION_AGAIN_S:
        outdated.append(DeleteJob(job.name))
    return outdated


# --- workers of the spec's version


def _progress(seen: Observed, migration: Migration | None, migrated: bool | None) -> Progress:
    spec, fleet = seen.spec, seen.database.fleet
    versions = {v.name: v for v in fleet.versions if v.app == spec.app} if fleet else {}
    mine = versions.get(spec.version)
    by_pool = {w.pool: w for w in seen.workloads if w.version == spec.version}
    ready = bool(migrated) and all(
        _is_ready(by_pool.get(pool.name), pool, seen) for pool in spec.pools
    )
    version_hash = hash_of(spec.version, 6)
    troubles = {pod.trouble for pod in seen.pods if pod.version_hash == version_hash}
    is_stuck = any(workload.stuck for workload in by_pool.values())
    return Progress(
        migrated=migrated,
        migration=migration,
        registered=mine is not None,
        # Before anything was promoted the newest that registered is current: that does not count.
        promoted=mine is not None and mine.is_current and mine.promoted_at is not None,
        pools_ready=ready,
        stuck=tuple(sorted(troubles - {""})) or (("no pod became ready",) if is_stuck else ()),
    )


def _is_ready(workload: Workload | None, pool: Pool, seen: Observed) -> bool:
    if workload is None or not workload.is_current:
        return False
    if workload.template_hash != manifests.template_hash(seen.spec, pool):
        return False
    # While others are there still, those that are ready may be the old ones.
    return workload.total == workload.updated and (workload.replicas == 0 or workload.ready >= 1)


def _serve(
    seen: Observed,
    pool: Pool,
    progress: Progress,
    sizes: _Sizes,
) -> list[Action]:
    spec, fleet = seen.spec, seen.database.fleet
    name = spec.deployment(pool.name, spec.version)
    there = next((w for w in seen.workloads if w.name == name), None)
    if there is None and not progress.migrated:
        return []
    current = there.replicas if there else max(pool.min, 1)
    if fleet is None:
        return []
    # Nothing is asked of a version before it has shown itself: it needs a pod to do so.
    floor = 0 if progress.promoted else 1
    number = sizes.find(name, spec.version, pool, current, fleet, floor)
    is_other = there is None or there.template_hash != manifests.template_hash(spec, pool)
    if progress.migrated and is_other:
        return [Apply(manifests.deployment(spec, pool, number))]
    return [] if there is None else _resize(seen, there, number)


def _resize(seen: Observed, there: Workload, number: int) -> list[Action]:
    if number == there.replicas:
        return []
    costs: list[Action] = []
    if number < there.replicas and seen.database.fleet is not None:
        costs = list(_costs(seen, there, seen.database.fleet))
    return [*costs, Scale(there.name, number)]


def _costs(seen: Observed, there: Workload, fleet: FleetState) -> list[Action]:
    """Busy pods are to go last."""
    running: dict[str, int] = {}
    for worker in fleet.workers:
        running[worker.host] = running.get(worker.host, 0) + worker.running
    version_hash = hash_of(there.version, 6)
    return [
        SetDeletionCost(pod.name, running.get(pod.name, 0))
        for pod in seen.pods
        if pod.pool == there.pool
        and pod.version_hash == version_hash
        and pod.deletion_cost != running.get(pod.name, 0)
    ]


# --- versions and pools that are not in the spec any more


def _retire(
    seen: Observed,
    progress: Progress,
    sizes: _Sizes,
) -> list[Action]:
    spec, fleet = seen.spec, seen.database.fleet
    if fleet is None:
        return []
    unfinished = {v.name: v.unfinished for v in fleet.versions if v.app == spec.app}
    actions: list[Action] = []
    for workload in seen.workloads:
        pool = spec.pool(workload.pool)
        is_old = workload.version != spec.version
        if pool is not None and not is_old:
            continue
        # Whoever takes its place must serve first.
        replaced = progress.promoted and progress.pools_ready
        if replaced and not (is_old and unfinished.get(workload.version, 0)):
            before = sizes.remembered(workload.name)
            done_at = before.busy_at or seen.now
            if seen.now - done_at >= RETIRE_AFTER_S:
                actions.append(DeleteDeployment(workload.name))
            sizes.memory[workload.name] = replace(before, busy_at=done_at)
            continue
        # A pool that is gone from the spec serves on for its old version as it did.
        shape = pool or Pool(name=workload.pool, min=1, max=max(1, workload.replicas))
        number = sizes.find(
            workload.name, workload.version, shape, workload.replicas, fleet, floor=1
        )
        sizes.memory[workload.name] = replace(sizes.memory[workload.name], busy_at=seen.now)
        actions += _resize(seen, workload, number)
    return actions


# --- what there is to do


def load_of(fleet: FleetState, app: str, version: str, pool: Pool) -> Load:
    """What a version of a pool has to do; unpinned runs are the current version's."""
    mine = {version}
    if any(v.app == app and v.name == version and v.is_current for v in fleet.versions):
        mine.add("")
    running = due = 0
    oldest = 0.0
    soonest: float | None = None
    queues: set[str] = set()
    paused: set[str] = set()
    ready: set[str] = set()
    for one in fleet.queues:
        if one.app != app or one.version not in mine or not pool.serves(one.queue):
            continue
        if one.state == "paused":
            paused.add(one.queue)  # nobody may claim these
            continue
        queues.add(one.queue)
        if one.state == "running":
            running += one.tasks
        elif one.state == "ready":
            ready.add(one.queue)
            due += one.tasks
            oldest = max(oldest, one.oldest_due_seconds or 0.0)
        elif one.next_due_seconds is not None:
            known_s = one.next_due_seconds
            soonest = known_s if soonest is None else min(known_s, soonest)
    # What arrives in a paused queue joins those that nobody may claim.
    queues -= paused - ready
    rates = [r for r in fleet.rates if r.app == app and r.queue in queues]
    arrivals = sum(r.arrivals_per_second for r in rates)
    known = [
        (r.arrivals_per_second, r.mean_run_seconds) for r in rates if r.mean_run_seconds is not None
    ]
    weight = sum(rate for rate, _ in known)
    mean = None
    if known and "" in mine:
        mean = (
            sum(rate * seconds for rate, seconds in known) / weight
            if weight
            else max(seconds for _, seconds in known)
        )
    return Load(
        running=running,
        due=due,
        oldest_due_s=oldest,
        next_due_s=soonest,
        arrivals_per_s=arrivals if "" in mine else 0.0,
        mean_run_s=mean,
    )
