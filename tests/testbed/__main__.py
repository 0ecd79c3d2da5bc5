"""The testbed by hand: ``PYTHONPATH=tests python -m testbed up|down|load|binaries``."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from testbed import binaries, images
from testbed.cluster import Cluster
from testbed.command import TestbedError
from testbed.dockerd import Dockerd


def main() -> None:
    options = _parser().parse_args()
    try:
        if options.command == "up":
            up()
        elif options.command == "down":
            down()
        elif options.command == "load":
            Cluster().load(options.archive)
        else:
            build(options.names)
    except TestbedError as error:
        sys.exit(f"testbed: {error}")


def up() -> None:
    """Start the cluster, unless it runs, and say how to use it."""
    cluster = Cluster()
    if not cluster.is_running:
        cluster.start()
    print(cluster.kubeconfig)
    print(f"export KUBECONFIG={cluster.kubeconfig} ROWLOCK_TEST_KUBECONFIG={cluster.kubeconfig}")


def down() -> None:
    """End what runs and remove what it left; what was built stays."""
    Cluster().stop()
    Dockerd().stop()
    shutil.rmtree(images.archives(), ignore_errors=True)


def build(names: list[str]) -> None:
    """Build the named programs, or all that the cluster's tests need."""
    for name, path in binaries.ensure(*(names or [*binaries.CLUSTER, "helm", "otelcol"])).items():
        print(f"{name}\t{path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the cluster; build what is missing first")
    commands.add_parser("down", help="end the cluster and the docker daemon, remove every trace")
    load = commands.add_parser("load", help="give the node an image from `docker save`")
    load.add_argument("archive", type=Path, metavar="IMAGE.tar")
    build_ = commands.add_parser("binaries", help="build programs into the cache")
    build_.add_argument("names", nargs="*", choices=[[], *binaries.PROGRAMS], metavar="NAME")
    return parser


if __name__ == "__main__":
    main()
