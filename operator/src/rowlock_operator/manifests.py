"""The Kubernetes objects that are made for a WorkflowApp, as plain data."""

from __future__ import annotations

import json
from typing import Any

from rowlock_operator.spec import (
    APP_LABEL,
    HASH_LABEL,
    IMAGE_ANNOTATION,
    POOL_LABEL,
    SECRET_ANNOTATION,
    TEMPLATE_ANNOTATION,
    VERSION_ANNOTATION,
    AppSpec,
    Pool,
    hash_of,
)

Manifest = dict[str, Any]

HEALTH_PORT = 8080
DRAIN_MARGIN_S = 20
"""What a worker needs beyond its grace, to hand back and leave."""
PROGRESS_DEADLINE_S = 300
MIGRATION_TRIES = 2
REPORT_FILE = "/dev/termination-log"
"""What the Job writes there Kubernetes keeps as its pod's last message."""


def labels(spec: AppSpec, component: str) -> dict[str, str]:
    """What all objects of an app carry."""
    return {
        "app.kubernetes.io/name": "rowlock",
        "app.kubernetes.io/instance": spec.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "rowlock-operator",
        APP_LABEL: spec.name,
    }


def deployment(spec: AppSpec, pool: Pool, replicas: int) -> Manifest:
    """The workers of a pool, for the version the spec names."""
    selector = {
        APP_LABEL: spec.name,
        POOL_LABEL: pool.name,
        HASH_LABEL: hash_of(spec.version, 6),
    }
    template = _worker_pod(spec, pool, selector)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": spec.deployment(pool.name, spec.version),
            "namespace": spec.namespace,
            "labels": labels(spec, "worker") | selector,
            "annotations": {
                VERSION_ANNOTATION: spec.version,
                TEMPLATE_ANNOTATION: template_hash(spec, pool),
            },
            "ownerReferences": [spec.owner],
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_S,
            "selector": {"matchLabels": selector},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"},
            },
            "template": template,
        },
    }


def template_hash(spec: AppSpec, pool: Pool) -> str:
    """Changes when the workers of a version must be rolled: everything but their number."""
    selector = {POOL_LABEL: pool.name}
    text = json.dumps(_worker_pod(spec, pool, selector), sort_keys=True)
    return hash_of(text, 16)


def migration_job(spec: AppSpec) -> Manifest:
    """Brings the database to the schema that the image needs. Safe to run at any time."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": spec.migration_job,
            "namespace": spec.namespace,
            "labels": labels(spec, "migration"),
            "annotations": {IMAGE_ANNOTATION: spec.image},
            "ownerReferences": [spec.owner],
        },
        "spec": {
            "backoffLimit": MIGRATION_TRIES,
            "activeDeadlineSeconds": spec.migration_timeout_s,
            "template": {
                "metadata": {"labels": labels(spec, "migration")},
                "spec": _pod(
                    spec,
                    {
                        "name": "migrate",
                        "args": ["migrate", f"--report={REPORT_FILE}"],
                        "resources": {
                            "requests": {"cpu": "50m", "memory": "96Mi"},
                            "limits": {"memory": "256Mi"},
                        },
                    },
                    # It is placed and configured as workers are.
                    spec.pools[0].template,
                )
                | {"restartPolicy": "Never"},
            },
        },
    }


OURS = ("ROWLOCK_VERSION", "ROWLOCK_DATABASE_URL")
TMP = "tmp"
PLACING = (
    "nodeSelector",
    "tolerations",
    "affinity",
    "topologySpreadConstraints",
    "priorityClassName",
    "serviceAccountName",
)


def _worker_pod(spec: AppSpec, pool: Pool, selector: dict[str, str]) -> Manifest:
    arguments = ["worker", *([spec.target] if spec.target else [])]
    arguments += [f"--processes={pool.processes}", f"--slots={pool.slots}"]
    arguments += [f"--grace={pool.grace_s}", f"--health-port={HEALTH_PORT}"]
    if pool.queues is not None:
        arguments.append(f"--queues={','.join(pool.queues)}")
    container: Manifest = {
        "name": "worker",
        "args": arguments,
        "env": [{"name": "ROWLOCK_VERSION", "value": spec.version}],
        "ports": [{"name": "http", "containerPort": HEALTH_PORT}],
        # /livez alone decides about restarts: a worker that waits for its database is alive.
        "livenessProbe": _probe("/livez", period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=3, failures=2),
        "resources": pool.resources
        or {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
    }
    more = pool.template
    pod = _pod(spec, container, more)
    pod["terminationGracePeriodSeconds"] = pool.grace_s + DRAIN_MARGIN_S
    return {
        "metadata": {
            "labels": more.get("labels", {}) | labels(spec, "worker") | selector,
            "annotations": more.get("annotations", {}) | {SECRET_ANNOTATION: spec.secret_version},
        },
        "spec": pod,
    }


def _pod(spec: AppSpec, container: Manifest, more: Manifest) -> Manifest:
    """A pod that satisfies the restricted Pod Security Standard, around a container.

    ``more``: a pool's template. What it names like something of ours is left out: the API server
    refuses two of one name.
    """
    container = {
        "image": spec.image,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **container,
    }
    container["env"] = [
        *(one for one in more.get("env", ()) if one["name"] not in OURS),
        *container.get("env", ()),
        _database_url(spec),
    ]
    container["envFrom"] = more.get("envFrom", [])
    container["volumeMounts"] = [
        {"name": TMP, "mountPath": "/tmp"},  # noqa: S108 (an emptyDir)
        *(one for one in more.get("volumeMounts", ()) if one["mountPath"].rstrip("/") != "/tmp"),  # noqa: S108
    ]
    if spec.pull_policy is not None:
        container["imagePullPolicy"] = spec.pull_policy
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": TMP, "emptyDir": {"sizeLimit": "256Mi"}},
            *(one for one in more.get("volumes", ()) if one["name"] != TMP),
        ],
    }
    pod |= {name: more[name] for name in PLACING if name in more}
    if spec.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in spec.pull_secrets]
    return pod


def _database_url(spec: AppSpec) -> Manifest:
    return {
        "name": "ROWLOCK_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": spec.secret, "key": spec.secret_key}},
    }


def _probe(path: str, *, period_s: int, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": HEALTH_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
