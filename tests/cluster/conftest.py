"""Fixtures of the tests on a real cluster: the cluster, kubectl for it, a daemon to build images.

They start what is missing; see `testbed.cluster` for using a cluster of yours instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from testbed.cluster import AnyCluster, Cluster, chosen
from testbed.dockerd import Dockerd
from testbed.kubectl import Kubectl

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[AnyCluster]:
    """The session's cluster, ready for pods."""
    running = chosen()
    if running is not None:
        yield running
        return
    with Cluster() as started:
        yield started


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    """The session's docker daemon."""
    with Dockerd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def kubectl(cluster: AnyCluster) -> Kubectl:
    """kubectl as the cluster's administrator."""
    return Kubectl(cluster.kubeconfig)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[Kubectl]:
    """kubectl within a fresh namespace under the restricted Pod Security standard."""
    name = f"test-{uuid4().hex[:8]}"
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": RESTRICTED},
        }
    )
    yield kubectl.within(name)
    kubectl("delete", "namespace", name, "--wait=false")
