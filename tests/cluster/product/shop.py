"""One shop on the cluster: a namespace, a database, a WorkflowApp, and a person's questions."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg

from cluster.product.images import Images
from testbed.kubectl import Kubectl

T = TypeVar("T")

READY_S = 300.0
"""These machines are slow, and shared."""


def until(what: Callable[[], T], *, deadline_s: float = READY_S, why: Callable[[], Any] = str) -> T:
    """The first true value; when none comes, ``why`` says how things stand."""
    end = time.monotonic() + deadline_s
    while not (value := what()):
        assert time.monotonic() < end, f"it never came about: {why()}"
        time.sleep(0.5)
    return value


@dataclass
class Shop:
    """See the module's text."""

    kubectl: Kubectl
    images: Images
    url: str = field(repr=False)
    """From this machine."""
    name: str = "shop"

    # --- what a person does

    def apply(self, image: str, **pool: Any) -> None:
        """Ask for this image, with one pool."""
        self.kubectl.apply(self.manifest(image, **pool))

    def manifest(self, image: str, **pool: Any) -> dict[str, Any]:
        template = {"env": [{"name": "ROWLOCK_LEASE_SECONDS", "value": "5"}]}
        some = {"name": "default", "slots": 20, "template": template, "drainGraceSeconds": 10}
        return {
            "apiVersion": "rowlock.dev/v1alpha1",
            "kind": "WorkflowApp",
            "metadata": {"name": self.name},
            "spec": {
                "app": "shop",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "database": {"secretName": "shop-database"},
                "pools": [some | pool],
            },
        }

    def wait_ready(self, image: str | None = None) -> None:
        """``kubectl wait``, for this image."""
        if image is not None:
            until(lambda: self.status().get("version") == image, why=self.story)
        until(lambda: self.condition("Ready")["status"] == "True", why=self.story)

    def start(self, count: int, *, seconds: float = 0.1, first: int = 0) -> list[str]:
        """Start so many orders by SQL; gives the runs' ids."""
        return [
            str(row[0])
            for row in self.sql(
                "select rowlock.start('fulfil', jsonb_build_object('order', n,"
                " 'seconds', %s::float8), app => 'shop')"
                " from generate_series(%s::int, %s::int) as n",
                seconds,
                first,
                first + count - 1,
            )
        ]

    def start_sleepy(self, seconds: float) -> str:
        [row] = self.sql(
            "select rowlock.start('sleepy', jsonb_build_object('seconds', %s::float8),"
            " app => 'shop')",
            seconds,
        )
        return str(row[0])

    def wait_finished(self, count: int) -> None:
        """Wait until so many runs have an outcome."""
        until(
            lambda: self.sql("select count(*) from rowlock.outcome")[0][0] >= count,
            why=self.story,
        )

    # --- what a person sees

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self.kubectl.json("get", "workflowapp", self.name)
        return found

    def status(self) -> dict[str, Any]:
        return self.get().get("status") or {}

    def condition(self, type_: str) -> dict[str, Any]:
        some = self.status().get("conditions") or []
        return next((one for one in some if one["type"] == type_), {"status": "", "reason": ""})

    def pods(self, image: str | None = None) -> list[dict[str, Any]]:
        """Worker pods that are not on their way out."""
        found = self.kubectl.json("get", "pods", "-l", "app.kubernetes.io/component=worker")
        return [
            pod
            for pod in found["items"]
            if "deletionTimestamp" not in pod["metadata"]
            and image in (None, pod["spec"]["containers"][0]["image"])
        ]

    def deployments(self) -> dict[str, int]:
        """Wanted workers by image."""
        found = self.kubectl.json("get", "deployments")
        return {
            one["spec"]["template"]["spec"]["containers"][0]["image"]: one["spec"]["replicas"]
            for one in found["items"]
        }

    def events(self) -> dict[str, str]:
        """The last message by reason."""
        found = self.kubectl.json("get", "events", "--sort-by=.metadata.creationTimestamp")
        return {
            one["reason"]: one["message"]
            for one in found["items"]
            if one["involvedObject"]["kind"] == "WorkflowApp"
        }

    def orders(self) -> tuple[int, int]:
        """Orders that were written, and the most often one was."""
        [row] = self.sql("select count(*), coalesce(max(writes), 0) from shop_orders")
        return row[0], row[1]

    def story(self) -> str:
        """How things stand, for a test that fails."""
        return "\n".join(
            self.kubectl(*words.split())
            for words in (
                "get workflowapps,deployments,jobs,pods -o wide",
                f"get workflowapp {self.name} -o yaml",
                "get events --sort-by=.metadata.creationTimestamp",
            )
        )


@contextmanager
def opened(kubectl: Kubectl, images: Images, admin_url: str, in_cluster_url: str) -> Iterator[Shop]:
    """A shop with a database of its own, and nothing else yet."""
    assert kubectl.namespace is not None
    name = kubectl.namespace.replace("-", "_")
    with psycopg.connect(admin_url, autocommit=True) as admin:
        admin.execute(f'create database "{name}"'.encode())
    shop = Shop(kubectl, images, admin_url.rpartition("/")[0] + f"/{name}")
    secret = in_cluster_url.rpartition("/")[0] + f"/{name}"
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "shop-database"},
            "data": {"url": base64.b64encode(secret.encode()).decode()},
        }
    )
    yield shop
    kubectl("delete", "workflowapps", "--all", "--ignore-not-found", "--wait=true")
