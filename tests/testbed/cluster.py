"""The cluster as tests and people see it: start it, give it images, stop it.

    with Cluster() as cluster:
        cluster.load(images.save("localhost/mine:1"))
        subprocess.run(["kubectl", "--kubeconfig", cluster.kubeconfig, "get", "nodes"])

``ROWLOCK_TEST_KUBECONFIG`` names another cluster to use instead. Nothing is started or stopped
then, and its images are its owner's to bring (`kind load`, a registry; ``ROWLOCK_TEST_IMAGE`` names
the one of Rowlock). ``ROWLOCK_TEST_HOST_ADDRESS`` says where its pods reach this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol, Self

from testbed import archive, binaries, debian, pki
from testbed.command import CommandFailed, TestbedError, run, succeeds, tail_of
from testbed.layout import LONGEST_STATE, NODE, PAUSE_IMAGE, Layout
from testbed.paths import state_folder
from testbed.sandbox import Sandbox, bury
from testbed.supervisor import PAUSE_ARCHIVE, TIMEOUT_S, image_import

POLL_S = 0.2
LOAD_TIMEOUT_S = 600.0


class AnyCluster(Protocol):
    """What tests may rely on, whoever's cluster it is."""

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def host_address(self) -> str:
        """Where pods reach this machine, a Postgres on it say."""

    def load(self, image_archive: Path) -> None:
        """Make the images of a `docker save` known to the node."""


class ForeignCluster:
    """Somebody's cluster, that we only use."""

    def __init__(self, kubeconfig: Path, host_address: str) -> None:
        self.kubeconfig = kubeconfig
        self.host_address = host_address

    def load(self, image_archive: Path) -> None:
        """Nothing to do: the owner has brought the images."""


class Cluster:
    """A cluster of one node on this machine, from our own binaries."""

    def __init__(self, state: Path | None = None, number: int = 0) -> None:
        self.layout = Layout(state or state_folder() / f"cluster-{number}", number)
        self.sandbox = Sandbox(self.layout.sandbox)
        self.supervisor: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def host_address(self) -> str:
        return self.layout.host_address

    def __enter__(self) -> Self:
        self.start(bound=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        return self.layout.started.exists() and bool(self.sandbox.processes())

    def start(self, *, bound: bool = False) -> None:
        """Start it and return when its node is ready; a `bound` one ends with our process."""
        debian.require_root()
        debian.ensure(debian.CLUSTER)
        self._check_is_free()
        self.stop()  # what an earlier one may have left
        programs = binaries.ensure(*binaries.CLUSTER)
        self.layout.state.mkdir(parents=True, mode=0o711)
        pki.make(self.layout)
        archive.of_program(programs["pause"], PAUSE_IMAGE, self.layout.state / PAUSE_ARCHIVE)
        try:
            self._supervise(bound=bound)
            self._wait_until_ready()
        except BaseException:
            self.sandbox.end()  # but leave the logs
            raise

    def load(self, image_archive: Path) -> None:
        """Make the images of a `docker save` known to the node."""
        run(*image_import(self.layout, image_archive), timeout_s=LOAD_TIMEOUT_S)

    def stop(self) -> None:
        """End it and remove every trace: processes, link, control groups, files."""
        self.sandbox.end()
        if self.supervisor is not None:
            bury(self.supervisor)
            self.supervisor = None
        # It goes with its namespace, but not at once.
        succeeds("ip", "link", "delete", self.layout.link)
        shutil.rmtree(
            self.layout.state, ignore_errors=False
        ) if self.layout.state.exists() else None

    def _check_is_free(self) -> None:
        if len(str(self.layout.state)) > LONGEST_STATE:
            raise TestbedError(
                f"{self.layout.state} is too long a path for the sockets in it: choose one of at "
                f"most {LONGEST_STATE} characters by ROWLOCK_TESTBED_STATE."
            )
        if self.sandbox.processes():
            raise TestbedError(
                f"A cluster runs already (control group {self.sandbox.name}). Use it by "
                f"ROWLOCK_TEST_KUBECONFIG={self.kubeconfig}, or end it: python -m testbed down"
            )

    def _supervise(self, *, bound: bool) -> None:
        network = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            self.supervisor = self.sandbox.start(
                [
                    *(sys.executable, "-m", "testbed.supervisor"),
                    *(str(self.layout.state), str(self.layout.number), str(network)),
                ],
                self.layout.log("supervisor"),
                own_network=True,
                inherit=(network,),
                env={"PYTHONPATH": str(Path(__file__).parents[1])},
                bound=bound,
            )
        finally:
            os.close(network)

    def _wait_until_ready(self) -> None:
        """The node takes pods, and the default namespace has the account they run under."""
        end = time.monotonic() + TIMEOUT_S
        while not (self.layout.started.exists() and self._takes_pods()):
            if self.supervisor is None or self.supervisor.poll() is not None:
                raise TestbedError(f"the cluster ended\n{tail_of(self.layout.log('supervisor'))}")
            if time.monotonic() > end:
                logs = [tail_of(self.layout.log(name)) for name in ("supervisor", "kubelet")]
                raise TestbedError("\n".join(["the node did not become ready", *logs]))
            time.sleep(POLL_S)

    def _takes_pods(self) -> bool:
        kubectl = (binaries.kubectl(), "--kubeconfig", self.kubeconfig)
        try:
            node = json.loads(run(*kubectl, "get", "node", NODE, "-o", "json"))
            run(*kubectl, "get", "serviceaccount", "default", "-o", "name")
        except CommandFailed:
            return False
        conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
        return conditions.get("Ready") == "True"


def chosen() -> ForeignCluster | Cluster | None:
    """The running cluster that ``ROWLOCK_TEST_KUBECONFIG`` names; None asks to start one.

    It may well name our own, left running by ``python -m testbed up``.
    """
    named = os.environ.get("ROWLOCK_TEST_KUBECONFIG")
    if not named:
        return None
    ours = Cluster()
    if Path(named).resolve() == ours.kubeconfig.resolve():
        return ours
    return ForeignCluster(Path(named), os.environ.get("ROWLOCK_TEST_HOST_ADDRESS", ""))
