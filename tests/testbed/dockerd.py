"""A docker daemon of our own, to build images with: its own socket, its own data, no network rules.

It neither knows nor disturbs a daemon that the machine may have. Containers get this machine's
network or none, so it needs no bridge and writes no firewall rule.

Its layers stay in the cache, so that a second build is quick; all else goes when it stops.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from testbed import debian
from testbed.command import TestbedError, run, succeeds, tail_of
from testbed.paths import cache_folder, state_folder
from testbed.sandbox import Sandbox, bury

TIMEOUT_S = 180.0
GRACE_S = 20.0
POLL_S = 0.2


class Dockerd:
    """The daemon; as a context it runs for the block, unless it ran before."""

    def __init__(self) -> None:
        self.state = state_folder() / "docker"
        self.data = cache_folder() / "docker"
        self.sandbox = Sandbox("rowlock-testbed-docker")
        self.socket = self.state / "docker.sock"
        self.log = self.state / "dockerd.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment in which the docker command speaks to this daemon."""
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"}

    def __enter__(self) -> Self:
        self.start(bound=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.stop()

    def docker(self, *arguments: str | Path, timeout_s: float = TIMEOUT_S) -> str:
        """What a docker command prints."""
        return run("docker", *arguments, env=self.env, timeout_s=timeout_s)

    @property
    def is_running(self) -> bool:
        return bool(self.sandbox.processes()) and self._answers()

    def start(self, *, bound: bool = False) -> None:
        """Start it, unless it runs, and return when it answers; a `bound` one ends with us."""
        if self.is_running:
            return
        debian.require_root()
        debian.ensure(debian.IMAGES)
        debian.ensure({"docker-cli": "docker"})  # a package of its own since Debian 13
        self.stop()  # what an earlier one may have left
        self.state.mkdir(parents=True)
        self.process = self.sandbox.start(self._command(), self.log, bound=bound)
        end = time.monotonic() + TIMEOUT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.sandbox.end()
                raise TestbedError(f"the docker daemon did not start\n{tail_of(self.log)}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it and remove every trace but the layers."""
        self.sandbox.end(grace_s=GRACE_S)
        if self.process is not None:
            bury(self.process)
            self.process = None
        if self.state.exists():
            shutil.rmtree(self.state)

    def _answers(self) -> bool:
        return succeeds("docker", "--host", f"unix://{self.socket}", "info")

    def _command(self) -> list[str]:
        return [
            "dockerd",
            f"--host=unix://{self.socket}",
            f"--data-root={self.data}",
            f"--exec-root={self.state}/exec",
            f"--pidfile={self.state}/docker.pid",
            f"--cgroup-parent=/{self.sandbox.name}/containers",
            # Not the machine's /etc/docker/daemon.json.
            f"--config-file={_empty(self.state / 'daemon.json')}",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]


def _empty(config: Path) -> Path:
    config.write_text("{}\n")
    return config
