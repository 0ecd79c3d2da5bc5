"""What kopf delivers: that something happened to an app, or to something made for it.

Handlers only say which app to look at, in the event loop (kopf runs plain functions in threads).
They keep nothing in the objects: no finalizer, no annotation, so that an app can be deleted while
no operator runs. The prefixes are set all the same, should a handler ever need them: changing
them later handles everything again.
"""

from __future__ import annotations

import time
from typing import Any

import kopf

from rowlock_operator.reconciler import Reconciler
from rowlock_operator.spec import API_VERSION, APP_LABEL, GROUP, PLURAL

CHILDREN = (("apps", "v1", "deployments"), ("batch", "v1", "jobs"), ("", "v1", "pods"))
PULSE_S = 180.0
"""Without a listing of all apps for so long the operator counts as dead, and is restarted."""


def registry(reconciler: Reconciler) -> kopf.OperatorRegistry:
    """The handlers of one operator."""
    handlers = kopf.OperatorRegistry()
    heard: dict[tuple[str | None, str | None], tuple[Any, ...]] = {}

    @kopf.on.startup(registry=handlers)
    async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        prefix = f"operator.{GROUP}"
        settings.persistence.finalizer = f"{prefix}/finalizer"
        settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=prefix)
        settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=prefix)
        settings.posting.enabled = False
        # Without these a broken connection to the API server may hang for ever.
        settings.watching.server_timeout = 270
        settings.watching.client_timeout = 300
        # All pods of a cluster are none of our business, and would fill our memory.
        for child in CHILDREN:
            settings.watching.label_selectors[child] = APP_LABEL

    @kopf.on.login(registry=handlers)
    async def login(**known: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_service_account(**known) or kopf.login_with_kubeconfig(**known)

    @kopf.on.event(GROUP, API_VERSION, PLURAL, registry=handlers)
    async def app_changed(
        namespace: str | None, name: str | None, meta: kopf.Meta, **more: Any
    ) -> None:
        # What we write into its status ourselves is no news; a new generation is.
        state = (meta.get("uid"), meta.get("generation"), meta.get("deletionTimestamp"))
        if heard.get((namespace, name)) != state:
            heard[namespace, name] = state
            reconciler.hear(namespace or "", name or "")
        if more["type"] == "DELETED":
            del heard[namespace, name]

    async def child_changed(namespace: str | None, labels: Any, **_: Any) -> None:
        reconciler.hear(namespace or "", labels[APP_LABEL])

    for group, version, plural in CHILDREN:
        kopf.on.event(group, version, plural, labels={APP_LABEL: kopf.PRESENT}, registry=handlers)(
            child_changed
        )

    @kopf.on.probe(id="pulse", errors=kopf.ErrorsMode.PERMANENT, registry=handlers)
    async def pulse(**_: Any) -> str:
        silence_s = time.monotonic() - reconciler.last_listing
        if silence_s > PULSE_S:
            raise RuntimeError(f"no listing of the apps for {silence_s:.0f} s")
        return "ok"

    return handlers
