"""Fixtures of the tests of the product as its users install it: images, the chart, a shop."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.product import shop as shops
from cluster.product.helm import CHART, Helm
from cluster.product.images import Images, build_all
from cluster.product.shop import Shop, until
from testbed.cluster import AnyCluster
from testbed.kubectl import Kubectl

SYSTEM = "rowlock-system"
RELEASE = "rowlock"
SECRET = "rowlock-postgres"  # the chart's name for its embedded database's
STABILIZATION_S = 10


@pytest.fixture(scope="session")
def images(cluster: AnyCluster, request: pytest.FixtureRequest) -> Images:
    """All images, built and loaded."""
    return build_all(cluster, lambda: request.getfixturevalue("dockerd"))


class Release:
    """The chart, installed with its embedded database."""

    def __init__(self, kubectl: Kubectl, images: Images) -> None:
        self.helm = Helm(kubectl.kubeconfig)
        self.kubectl = kubectl.within(SYSTEM)
        self._images = images

    def install(self, *more: str) -> str:
        """``helm upgrade --install --wait``; gives what it says."""
        repository, _, tag = self._images.rowlock.rpartition(":")
        values = {
            "image.repository": repository,
            "image.tag": tag,
            "database.embedded.enabled": "true",
            "database.embedded.image": self._images.postgres,
            "database.embedded.runAsUser": "10001",
            "database.embedded.persistence.enabled": "false",
            "database.embedded.persistence.size": "1Gi",
            "operator.extraEnv[0].name": "ROWLOCK_OPERATOR_STABILIZATION_SECONDS",
        }
        options = [f"--set={name}={value}" for name, value in values.items()]
        options.append(f"--set-string=operator.extraEnv[0].value={STABILIZATION_S}")
        return self.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", SYSTEM),
            *("--create-namespace", "--wait", "--timeout", "10m", *options, *more),
            timeout_s=660.0,
        )

    def urls(self) -> tuple[str, str]:
        """The database's URL from this machine, and as pods know it."""
        secret = self.kubectl.json("get", "secret", SECRET)
        inside = base64.b64decode(secret["data"]["url"]).decode()
        pod: dict[str, Any] = self.kubectl.json("get", "pod", "rowlock-postgres-0")
        outside = re.sub(r"@[^:/]+", f"@{pod['status']['podIP']}", inside)
        return outside, inside


@pytest.fixture(scope="session")
def release(kubectl: Kubectl, images: Images) -> Iterator[Release]:
    """The product, installed."""
    found = Release(kubectl, images)
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": SYSTEM,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    kubectl.apply(namespace)
    found.install()
    yield found
    found.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--ignore-not-found")
    kubectl("delete", "namespace", SYSTEM, "--wait=false")


@pytest.fixture
def shop(release: Release, namespace: Kubectl, images: Images) -> Iterator[Shop]:
    """A shop without a WorkflowApp yet."""
    outside, inside = release.urls()
    with shops.opened(namespace, images, outside, inside) as one:
        yield one


@pytest.fixture
def open_shop(shop: Shop) -> Shop:
    """A shop that is ready, with its first image."""
    shop.apply(shop.images.shop_1)
    shop.wait_ready(shop.images.shop_1)
    until(shop.pods)
    return shop
