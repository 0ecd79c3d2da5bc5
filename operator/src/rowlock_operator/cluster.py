"""The one file that speaks to Kubernetes: reads what there is, carries out what was planned.

Objects travel as plain data. What we own we own with server-side apply under one field manager.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self, assert_never

import lightkube
from lightkube import ApiError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.types import CascadeType, PatchType

from rowlock_operator.actions import (
    Apply,
    ClusterAction,
    CreateJob,
    DeleteDeployment,
    DeleteJob,
    Scale,
    SetDeletionCost,
)
from rowlock_operator.observed import Migration, Pod, Workload
from rowlock_operator.spec import (
    API_VERSION,
    APP_LABEL,
    GROUP,
    HASH_LABEL,
    KIND,
    PLURAL,
    POOL_LABEL,
    TEMPLATE_ANNOTATION,
    VERSION_ANNOTATION,
    AppSpec,
)
from rowlock_operator.status import Change

log = logging.getLogger("rowlock.operator")

FIELD_MANAGER = "rowlock-operator"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
MOST_MESSAGE = 1000

App = create_namespaced_resource(GROUP, API_VERSION, KIND, PLURAL)
Deployment = create_namespaced_resource("apps", "v1", "Deployment", "deployments")
Job = create_namespaced_resource("batch", "v1", "Job", "jobs")
PodObject = create_namespaced_resource("", "v1", "Pod", "pods")
Secret = create_namespaced_resource("", "v1", "Secret", "secrets")
Event = create_namespaced_resource("", "v1", "Event", "events")
_BY_KIND = {"Deployment": Deployment, "Job": Job}


class SecretMissing(Exception):
    """The secret, or the key in it, is not there. ``reason`` is the condition's."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Cluster:
    """See the module's text."""

    def __init__(self) -> None:
        self._client = lightkube.AsyncClient(field_manager=FIELD_MANAGER)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    # --- reading

    async def apps(self, namespaces: Iterable[str]) -> list[dict[str, Any]]:
        """All WorkflowApps of these namespaces; ``*`` is all of them."""
        return [
            dict(one)
            for namespace in namespaces
            async for one in self._client.list(App, namespace=namespace)
        ]

    async def app(self, namespace: str, name: str) -> dict[str, Any] | None:
        return await self._get(App, namespace, name)

    async def database_url(self, spec: AppSpec) -> tuple[str, str]:
        """From the app's secret, with the secret's version. Raises SecretMissing."""
        secret = await self._get(Secret, spec.namespace, spec.secret)
        if secret is None:
            raise SecretMissing(
                "SecretMissing",
                f"there is no secret {spec.secret} in namespace {spec.namespace}; create it with "
                f"the database's URL under the key {spec.secret_key}",
            )
        try:
            text = (secret.get("data") or {})[spec.secret_key]
            url = base64.b64decode(text, validate=True).decode().strip()
        except (KeyError, binascii.Error, UnicodeDecodeError):
            url = ""
        if not url:
            raise SecretMissing(
                "SecretKeyMissing",
                f"secret {spec.secret} has no key {spec.secret_key} with the database's URL",
            )
        return url, str(_meta(secret).get("resourceVersion", ""))

    async def children(
        self, spec: AppSpec
    ) -> tuple[tuple[Workload, ...], tuple[Migration, ...], tuple[Pod, ...]]:
        """Everything that was made for an app."""
        deployments = [d async for d in self._list(Deployment, spec)]
        jobs = [j async for j in self._list(Job, spec)]
        pods = [p async for p in self._list(PodObject, spec)]
        mine = [j for j in jobs if _is_mine(j, spec)]
        return (
            tuple(_workload(d) for d in deployments if _is_mine(d, spec)),
            tuple(_migration(j, pods) for j in mine),
            tuple(_pod(p) for p in pods if POOL_LABEL in _labels(p)),
        )

    def _list(self, resource: Any, spec: AppSpec) -> Any:
        return self._client.list(resource, namespace=spec.namespace, labels={APP_LABEL: spec.name})

    async def _get(self, resource: Any, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return dict(await self._client.get(resource, name, namespace=namespace))
        except ApiError as error:
            if error.status.code == 404:
                return None
            raise

    # --- writing

    async def carry_out(self, spec: AppSpec, action: ClusterAction) -> None:
        """Do one thing that was planned. What is gone already is fine."""
        space = spec.namespace
        match action:
            case Apply(manifest):
                resource = _BY_KIND[manifest["kind"]]
                await self._client.apply(resource.from_dict(manifest), force=True)
            case CreateJob(manifest):
                with _unless(409):
                    await self._client.create(Job.from_dict(manifest))
            case DeleteJob(name):
                with _unless(404):
                    await self._client.delete(
                        Job, name, namespace=space, cascade=CascadeType.BACKGROUND
                    )
            case DeleteDeployment(name):
                with _unless(404):
                    await self._client.delete(
                        Deployment, name, namespace=space, cascade=CascadeType.BACKGROUND
                    )
            case Scale(name, replicas):
                with _unless(404):
                    await self._merge(Deployment, space, name, {"spec": {"replicas": replicas}})
            case SetDeletionCost(name, cost):
                annotations = {DELETION_COST: str(cost)}
                with _unless(404):
                    await self._merge(
                        PodObject, space, name, {"metadata": {"annotations": annotations}}
                    )
            case _:
                assert_never(action)

    async def write_status(self, spec: AppSpec, status: dict[str, Any]) -> None:
        """Write the whole status; an app that is gone is fine."""
        with _unless(404):
            await self._merge(App.Status, spec.namespace, spec.name, {"status": status})

    async def _merge(self, resource: Any, namespace: str, name: str, patch: dict[str, Any]) -> None:
        await self._client.patch(
            resource, name, patch, namespace=namespace, patch_type=PatchType.MERGE
        )

    async def tell(self, spec: AppSpec, change: Change) -> None:
        """Make an Event of a condition that turned. One that is lost is no harm."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{spec.name}-", "namespace": spec.namespace},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{API_VERSION}",
                "kind": KIND,
                "name": spec.name,
                "namespace": spec.namespace,
                "uid": spec.uid,
            },
            "type": "Warning" if change.is_warning else "Normal",
            "reason": change.reason,
            "message": change.message[:MOST_MESSAGE] or change.type,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
        }
        try:
            await self._client.create(Event.from_dict(event))
        except ApiError as error:
            log.warning("an event about %s could not be written: %s", spec.name, error)


class _unless(suppress):
    """Ignore an answer of the API server with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(ApiError)
        self._code = code

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return isinstance(error, ApiError) and error.status.code == self._code


# --- what objects say


def _meta(body: dict[str, Any]) -> dict[str, Any]:
    meta = body["metadata"]
    return meta if isinstance(meta, dict) else dict(meta.to_dict())


def _labels(body: dict[str, Any]) -> dict[str, str]:
    return _meta(body).get("labels") or {}


def _annotations(body: dict[str, Any]) -> dict[str, str]:
    return _meta(body).get("annotations") or {}


def _is_mine(body: dict[str, Any], spec: AppSpec) -> bool:
    """Made for this very app; not being deleted."""
    meta = _meta(body)
    owners = {owner["uid"] for owner in meta.get("ownerReferences") or ()}
    return spec.uid in owners and not meta.get("deletionTimestamp")


def _workload(body: dict[str, Any]) -> Workload:
    status = body.get("status") or {}
    progressing = _condition(status, "Progressing")
    return Workload(
        name=_meta(body)["name"],
        pool=_labels(body).get(POOL_LABEL, ""),
        version=_annotations(body).get(VERSION_ANNOTATION, ""),
        replicas=body["spec"].get("replicas", 1),
        total=status.get("replicas") or 0,
        ready=status.get("readyReplicas") or 0,
        updated=status.get("updatedReplicas") or 0,
        template_hash=_annotations(body).get(TEMPLATE_ANNOTATION, ""),
        stuck=progressing.get("reason") == "ProgressDeadlineExceeded",
        is_current=(status.get("observedGeneration") or 0) >= _meta(body).get("generation", 0),
    )


def _migration(body: dict[str, Any], pods: list[dict[str, Any]]) -> Migration:
    name = _meta(body)["name"]
    status = body.get("status") or {}
    failed, complete = _condition(status, "Failed"), _condition(status, "Complete")
    own = [p for p in pods if _labels(p).get("batch.kubernetes.io/job-name") == name]
    own.sort(key=lambda p: _meta(p).get("creationTimestamp") or "")
    troubles = [trouble for p in own if (trouble := _trouble(p))]
    trouble = troubles[-1] if troubles else failed.get("message", "")
    finished = failed.get("lastTransitionTime") or complete.get("lastTransitionTime")
    return Migration(
        name=name,
        succeeded=complete.get("status") == "True",
        failed=failed.get("status") == "True",
        finished_at=None if finished is None else datetime.fromisoformat(finished).timestamp(),
        level=next((level for p in own if (level := _level(p)) is not None), None),
        trouble=trouble,
    )


def _level(pod: dict[str, Any]) -> int | None:
    """What a migration's pod reported when it ended well."""
    for one in _container_states(pod):
        ended = one.get("terminated") or {}
        if ended.get("exitCode") == 0:
            with suppress(ValueError, KeyError, TypeError):
                return int(json.loads(ended.get("message") or "")["level"])
    return None


def _pod(body: dict[str, Any]) -> Pod:
    cost = _annotations(body).get(DELETION_COST, "0")
    return Pod(
        name=_meta(body)["name"],
        pool=_labels(body)[POOL_LABEL],
        version_hash=_labels(body).get(HASH_LABEL, ""),
        trouble=_trouble(body),
        deletion_cost=int(cost) if cost.lstrip("-").isdigit() else 0,
    )


WAITING_IS_FINE = ("ContainerCreating", "PodInitializing")


def _trouble(pod: dict[str, Any]) -> str:
    """Why a pod does not run; empty when it does, or is on its way."""
    status = pod.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        return f"can't be scheduled: {scheduled.get('message', '')}"[:MOST_MESSAGE]
    for one in status.get("containerStatuses") or ():
        waiting = (one.get("state") or {}).get("waiting") or {}
        ended = (one.get("state") or {}).get("terminated") or {}
        last = (one.get("lastState") or {}).get("terminated") or ended
        said = (last.get("message") or "").strip()
        if waiting and waiting.get("reason") not in WAITING_IS_FINE:
            text = said or waiting.get("message") or ""
            return f"{waiting.get('reason')}: {text}"[-MOST_MESSAGE:]
        # Up again after a failure, and not ready: that is the same trouble still.
        failed = ended or ({} if one.get("ready") else last)
        if failed and failed.get("exitCode") != 0:
            return f"exit code {failed.get('exitCode')}: {said}"[-MOST_MESSAGE:]
    return ""


def _container_states(pod: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for one in (pod.get("status") or {}).get("containerStatuses") or ():
        yield one.get("state") or {}


def _condition(status: dict[str, Any], type_: str) -> dict[str, Any]:
    conditions = status.get("conditions") or ()
    return next((dict(c) for c in conditions if c["type"] == type_), {})
