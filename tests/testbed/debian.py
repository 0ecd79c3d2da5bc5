"""Install what the testbed needs from Debian, where it is missing.

Only root can, and only then is anything installed; everybody else is told the command. No service
is started by it: the testbed runs daemons of its own, and wants no others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.command import TestbedError, run

# Each package, and the file or command that shows that it is there, from Debian or otherwise.
CLUSTER = {
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "openssl": "openssl",
    "util-linux": "unshare",
}
IMAGES = {"docker.io": "dockerd", "debootstrap": "debootstrap", "util-linux": "unshare"}

POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_TIMEOUT_S = 900.0


def ensure(packages: dict[str, str]) -> None:
    """Install those of `packages` that nothing on this machine provides."""
    missing = [package for package, proof in packages.items() if not shutil.which(proof)]
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise TestbedError(
            f"The testbed needs: {', '.join(missing)}. As root on Debian or Ubuntu: "
            f"apt-get install --no-install-recommends {' '.join(missing)}"
        )
    with _no_service_starts():
        run("apt-get", "update", "-qq", timeout_s=INSTALL_TIMEOUT_S)
        run(
            *("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing),
            env={"DEBIAN_FRONTEND": "noninteractive"},
            timeout_s=INSTALL_TIMEOUT_S,
        )


def require_root() -> None:
    """Namespaces, network links and control groups are root's."""
    if os.geteuid() != 0:
        raise TestbedError(
            "A node of Kubernetes and a docker daemon need root. Run this as root, or set "
            "ROWLOCK_TEST_KUBECONFIG to use a cluster of yours."
        )


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Debian's own switch for it. A policy that the machine has already is left alone."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
