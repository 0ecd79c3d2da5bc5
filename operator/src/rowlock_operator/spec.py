"""What a WorkflowApp asks for, as values; and the names of what is made for it.

Defaults that a schema can give stand in the CRD; those that depend on other fields stand here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from rowlock.settings import YES

GROUP, API_VERSION, PLURAL, KIND = "rowlock.dev", "v1alpha1", "workflowapps", "WorkflowApp"

APP_LABEL = f"{GROUP}/app"
POOL_LABEL = f"{GROUP}/pool"
HASH_LABEL = f"{GROUP}/version-hash"
VERSION_ANNOTATION = f"{GROUP}/version"
TEMPLATE_ANNOTATION = f"{GROUP}/template-hash"
IMAGE_ANNOTATION = f"{GROUP}/image"
SECRET_ANNOTATION = f"{GROUP}/secret-version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Workers that serve the same queues. ``slots`` are those of one process."""

    name: str = "default"
    queues: tuple[str, ...] | None = None
    processes: int = 1
    slots: int = 100
    min: int = 1
    max: int = 10
    target_wait_s: float = 10.0
    grace_s: int = 30
    idle_after_s: float = 300.0
    resources: dict[str, Any] = field(default_factory=dict)
    template: dict[str, Any] = field(default_factory=dict)

    @property
    def slots_each(self) -> int:
        """Slots of one pod."""
        return self.slots * self.processes

    def serves(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    @classmethod
    def of(cls, spec: dict[str, Any]) -> Pool:
        queues = spec.get("queues")
        return cls(
            name=spec.get("name", "default"),
            queues=None if queues is None else tuple(queues),
            processes=spec.get("processes", 1),
            slots=spec.get("slots", 100),
            min=spec.get("min", 1),
            max=spec.get("max", 10),
            target_wait_s=float(spec.get("targetWaitSeconds", 10)),
            grace_s=int(spec.get("drainGraceSeconds", 30)),
            idle_after_s=float(spec.get("idleAfterSeconds", 300)),
            resources=spec.get("resources", {}),
            template=spec.get("template", {}),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """One WorkflowApp."""

    namespace: str
    name: str
    uid: str = ""
    generation: int = 1
    image: str
    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()
    app: str
    """The name of the App in the code, and so in the database."""
    target: str | None = None
    version: str
    secret: str
    secret_key: str = "url"  # noqa: S105 (where it stands)
    secret_version: str = ""
    """Of the secret as it was read: when it changes, workers must be started anew."""
    migration_timeout_s: int = 600
    pools: tuple[Pool, ...] = (Pool(),)
    paused: bool = False

    @classmethod
    def of(cls, body: dict[str, Any]) -> AppSpec:
        """From the object as the API server holds it."""
        meta, spec = body["metadata"], body["spec"]
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta.get("uid", ""),
            generation=meta.get("generation", 1),
            image=spec["image"],
            pull_policy=spec.get("imagePullPolicy"),
            pull_secrets=tuple(one["name"] for one in spec.get("imagePullSecrets", ())),
            app=spec.get("app") or meta["name"],
            target=spec.get("target"),
            version=spec.get("version") or spec["image"],
            secret=spec["database"]["secretName"],
            secret_key=spec["database"].get("key", "url"),
            migration_timeout_s=spec.get("migration", {}).get("timeoutSeconds", 600),
            pools=tuple(Pool.of(one) for one in spec.get("pools") or [{}]),
            paused=spec.get("paused", False),
        )

    def pool(self, name: str) -> Pool | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def deployment(self, pool: str, version: str) -> str:
        """The name of the Deployment of a pool's version.

        Pods add 17 characters to it, and a pod's host name ends after 63.
        """
        # The whole is hashed: shop-eu's pool default is not shop's pool eu-default.
        return f"{self.name}-{pool}-{hash_of(f'{self.name}/{pool}/{version}', 6)}"

    @property
    def pgbouncer(self) -> bool:
        """Whether the first pool says that the URL leads to PgBouncer."""
        env = {one["name"]: one.get("value", "") for one in self.pools[0].template.get("env", ())}
        return str(env.get("ROWLOCK_PGBOUNCER", "")).lower() in YES

    @property
    def migration_job(self) -> str:
        return f"{self.name}-migrate-{hash_of(self.image, 8)}"

    @property
    def owner(self) -> dict[str, Any]:
        """The owner reference of everything that is made for it: it goes when this goes."""
        return {
            "apiVersion": f"{GROUP}/{API_VERSION}",
            "kind": KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }


def hash_of(text: str, length: int) -> str:
    """A short name for a long text."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
