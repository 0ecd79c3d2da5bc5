"""A world of values for the operator's plans: carries out actions as a patient cluster would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rowlock.fleet import FleetState, QueueState, RateState, VersionState, WorkerState
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
from rowlock_operator.observed import Database, Memory, Migration, Observed, Pod, Workload
from rowlock_operator.plan import RETIRE_AFTER_S, Plan, plan
from rowlock_operator.spec import (
    HASH_LABEL,
    POOL_LABEL,
    TEMPLATE_ANNOTATION,
    VERSION_ANNOTATION,
    AppSpec,
    Pool,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def app_spec(version: str = "shop:1", *pools: Pool, **changes: object) -> AppSpec:
    spec = AppSpec(
        namespace="default",
        name="shop",
        uid="u-1",
        image=version,
        app="shop",
        version=version,
        secret="pg",
        pools=pools or (Pool(),),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@dataclass
class World:
    """What there is; :meth:`step` lets the operator look once, and does what it plans."""

    spec: AppSpec
    now: float = 1_000_000.0
    reachable: bool = True
    level: int = 0
    needs: int = 2
    """The schema level that an image's migration brings about."""
    migration_fails: bool = False
    starts: bool = True
    """Whether pods come up."""
    stuck_pools: set[str] = field(default_factory=set)
    """Pools whose pods do not, for versions that are not there yet."""
    workloads: dict[str, Workload] = field(default_factory=dict)
    jobs: dict[str, Migration] = field(default_factory=dict)
    versions: dict[str, float] = field(default_factory=dict)
    """By name, when it was registered or promoted last."""
    promoted: str | None = None
    ever_promoted: set[str] = field(default_factory=set)
    queues: list[QueueState] = field(default_factory=list)
    rates: list[RateState] = field(default_factory=list)
    workers: list[WorkerState] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    memory: dict[str, Memory] = field(default_factory=dict)
    window_s: float = 60.0
    log: list[Action] = field(default_factory=list)

    @property
    def current(self) -> str | None:
        if self.promoted:
            return self.promoted
        return max(self.versions, key=lambda name: self.versions[name], default=None)

    def unfinished(self, version: str) -> int:
        return sum(one.tasks for one in self.queues if one.version == version)

    def fleet(self) -> FleetState:
        return FleetState(
            at=EPOCH,
            schema_level=self.level,
            queues=tuple(self.queues),
            workers=tuple(self.workers),
            versions=tuple(
                VersionState(
                    "shop",
                    name,
                    EPOCH,
                    EPOCH if name in self.ever_promoted else None,
                    name == self.current,
                    self.unfinished(name),
                )
                for name in self.versions
            ),
            rates=tuple(self.rates),
        )

    def observed(self) -> Observed:
        if not self.reachable:
            database = Database(reachable=False, reason="ConnectionFailed", trouble="no route")
        elif self.level == 0:
            database = Database(needs_migration=True)
        else:
            database = Database(fleet=self.fleet())
        return Observed(
            spec=self.spec,
            now=self.now,
            database=database,
            workloads=tuple(self.workloads.values()),
            migrations=tuple(self.jobs.values()),
            pods=tuple(self.pods),
            memory=self.memory,
        )

    def plan(self) -> Plan:
        return plan(self.observed(), window_s=self.window_s)

    def step(self, seconds: float = 5.0) -> tuple[Action, ...]:
        """One round; then time passes, and what was begun comes about."""
        planned = self.plan()
        self.memory = planned.memory
        for action in planned.actions:
            self._do(action)
        self.log += planned.actions
        self._let_happen()
        self.now += seconds
        return planned.actions

    def settle(self, rounds: int = 40) -> None:
        """Rounds until nothing is done for longer than anything waits. Fails if that never is."""
        quiet = 0
        for _ in range(rounds):
            quiet = 0 if self.step() else quiet + 1
            if quiet * 5 > RETIRE_AFTER_S:
                return
        raise AssertionError(f"still at it after {rounds} rounds: {self.log[-6:]}")

    def replicas(self, version: str, pool: str = "default") -> int | None:
        found = self.workloads.get(self.spec.deployment(pool, version))
        return found.replicas if found else None

    def _do(self, action: Action) -> None:
        match action:
            case Apply(manifest):
                meta = manifest["metadata"]
                replicas = manifest["spec"]["replicas"]
                self.workloads[meta["name"]] = Workload(
                    name=meta["name"],
                    pool=meta["labels"][POOL_LABEL],
                    version=meta["annotations"][VERSION_ANNOTATION],
                    replicas=replicas,
                    template_hash=meta["annotations"][TEMPLATE_ANNOTATION],
                )
                assert len(meta["labels"][HASH_LABEL]) == 6
            case CreateJob(manifest):
                name = manifest["metadata"]["name"]
                assert name not in self.jobs
                self.jobs[name] = Migration(name=name)
            case DeleteJob(name):
                del self.jobs[name]
            case Scale(name, replicas):
                self.workloads[name] = replace(self.workloads[name], replicas=replicas)
            case DeleteDeployment(name):
                del self.workloads[name]
            case SetDeletionCost(name, cost):
                self.pods = [
                    replace(pod, deletion_cost=cost) if pod.name == name else pod
                    for pod in self.pods
                ]
            case Promote(_, version):
                assert version in self.versions
                self.promoted = version
                self.ever_promoted.add(version)

    def _let_happen(self) -> None:
        for name, job in self.jobs.items():
            if job.succeeded or job.failed:
                continue
            if self.migration_fails:
                self.jobs[name] = replace(job, failed=True, finished_at=self.now, trouble="boom")
            else:
                self.level = max(self.level, self.needs)
                self.jobs[name] = replace(
                    job, succeeded=True, finished_at=self.now, level=self.needs
                )
        for name, workload in self.workloads.items():
            came_up = self.starts or workload.version in self.versions
            if workload.pool in self.stuck_pools and not workload.ready:
                came_up = False
            ready = workload.replicas if came_up else 0
            self.workloads[name] = replace(
                workload, ready=ready, updated=workload.replicas, total=workload.replicas
            )
            if ready and workload.version not in self.versions:
                self.versions[workload.version] = self.now


def tasks(state: str, count: int, version: str = "", queue: str = "default") -> QueueState:
    """So many unfinished runs of one kind."""
    oldest = 1.0 if state == "ready" else None
    return QueueState("shop", queue, version, state, count, oldest, None)
