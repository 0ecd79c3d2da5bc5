"""The images of these tests, built by the project's own Dockerfiles and given to the cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from testbed import images
from testbed.cluster import AnyCluster, Cluster
from testbed.dockerd import Dockerd

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
SHOP = ROOT / "deploy" / "examples" / "shop"


@dataclass(frozen=True)
class Images:
    """Their tags. On a cluster of yours: bring them, under these names."""

    rowlock: str = "localhost/rowlock:test"
    postgres: str = "localhost/rowlock-postgres:test"
    shop_1: str = "localhost/shop:1"
    shop_2: str = "localhost/shop:2"
    broken: str = "localhost/shop:broken"
    refused: str = "localhost/shop:refused"


def build_all(cluster: AnyCluster, dockerd: Callable[[], Dockerd]) -> Images:
    """Build what is needed and load it."""
    if not isinstance(cluster, Cluster):
        named = os.environ.get("ROWLOCK_TEST_IMAGE")
        return Images(rowlock=named) if named else Images()
    daemon = dockerd()
    tags = Images()
    upon = {"ROWLOCK": tags.rowlock}
    images.build(daemon, ROOT, tags.rowlock, build_args={"VERSION": "test"})
    images.build(daemon, HERE / "postgres", tags.postgres, build_args=upon)
    for tag in (tags.shop_1, tags.shop_2):
        images.build(daemon, SHOP, tag, build_args=upon)
    for tag, name in ((tags.broken, "broken"), (tags.refused, "refused")):
        images.build(daemon, SHOP, tag, dockerfile=HERE / f"{name}.Dockerfile", build_args=upon)
    for tag in vars(tags).values():
        cluster.load(images.save(daemon, tag))
    return tags
