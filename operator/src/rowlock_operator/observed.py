"""What there is: in the cluster, in the database, and what the operator remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rowlock.fleet import FleetState
from rowlock_operator.spec import AppSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A Deployment of ours: one version of one pool."""

    name: str
    pool: str
    version: str
    replicas: int
    total: int = 0
    """Pods there are, of its old template too."""
    ready: int = 0
    updated: int = 0
    template_hash: str = ""
    stuck: bool = False
    """Its progress deadline has passed."""
    is_current: bool = True
    """The Deployment's controller has seen its newest spec."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """The Job that migrates for an image."""

    name: str
    succeeded: bool = False
    failed: bool = False
    finished_at: float | None = None
    level: int | None = None
    """What it says it brought the database to."""
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod of ours."""

    name: str
    pool: str
    version_hash: str
    trouble: str = ""
    """Why it does not run, in words of Kubernetes and of its own last message."""
    deletion_cost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """What is known of the database."""

    fleet: FleetState | None = None
    """None: it could not be read, or it has no schema yet."""
    reachable: bool = True
    needs_migration: bool = False
    reason: str = ""
    """Why it can't be read: SecretMissing, SecretKeyMissing, ConnectionFailed."""
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the operator remembers of a Deployment; lost when it is restarted, to no harm."""

    wants: tuple[tuple[float, int], ...] = ()
    """When how many were wanted, within the stabilisation window."""
    busy_at: float = 0.0
    """When it last had something to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that a plan is made from."""

    spec: AppSpec
    now: float
    """Seconds since 1970."""
    database: Database
    workloads: tuple[Workload, ...] = ()
    migrations: tuple[Migration, ...] = ()
    pods: tuple[Pod, ...] = ()
    status: dict[str, Any] = field(default_factory=dict)
    """As the object has it now: conditions keep their times."""
    memory: dict[str, Memory] = field(default_factory=dict)
    """By Deployment."""
    refusal: str = ""
    """What Kubernetes refused in the last round, and why."""
