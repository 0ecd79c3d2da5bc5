"""What can be done for an app, as values: the plan makes them, the cluster and the database act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Apply:
    """Create this object, or bring it to this state."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateJob:
    """Create a Job; one that is there already is left alone: its template can't be changed."""

    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteJob:
    name: str


@dataclass(frozen=True, slots=True)
class Scale:
    deployment: str
    replicas: int


@dataclass(frozen=True, slots=True)
class SetDeletionCost:
    """Which pod goes first when there are too many: the one with the lowest cost."""

    pod: str
    cost: int


@dataclass(frozen=True, slots=True)
class DeleteDeployment:
    name: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Let a version take all runs that are not pinned yet."""

    app: str
    version: str


ClusterAction = Apply | CreateJob | DeleteJob | Scale | SetDeletionCost | DeleteDeployment
Action = ClusterAction | Promote
