"""Process 1 of a cluster: lays its cables, starts its programs, and ends when any of them ends.

It runs in the cluster's own process, mount and network namespace (`sandbox`), so that its end is
the end of everything: programs, containers, mounts, bridge, firewall rules. Killed or not, nothing
has to be tidied up but files and empty control groups.

Run by `cluster`, as ``python -m testbed.supervisor STATE NUMBER HOST_NETWORK``, the last being a
file descriptor of this machine's own network namespace.
"""

from __future__ import annotations

import argparse
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NoReturn

from testbed import binaries, control_plane, node
from testbed.command import TestbedError, run, succeeds, tail_of
from testbed.control_plane import Commands
from testbed.layout import Layout

TIMEOUT_S = 240.0
POLL_S = 0.1
PAUSE_ARCHIVE = "pause.tar"


class Supervisor:
    """Starts the programs of one cluster and watches over them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.programs = {name: binaries.PROGRAMS[name].path for name in binaries.CLUSTER}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, host_network: int) -> None:
        connect_networks(self.layout, host_network)
        self.spawn(control_plane.api_server(self.layout, self.programs))
        self.spawn(node.runtime(self.layout))
        self.wait_for_api()
        self.load_pause_image()
        self.spawn(control_plane.controllers(self.layout, self.programs))
        self.spawn(node.services(self.layout, self.programs))
        self.layout.started.touch()
        while True:
            pid, status = os.wait()  # orphans of the whole namespace come here too
            for name, process in self.running.items():
                if process.pid == pid:
                    self.fail(name, os.waitstatus_to_exitcode(status))

    def spawn(self, commands: Commands) -> None:
        for name, command in commands.items():
            with self.layout.log(name).open("wb") as log:
                self.running[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

    def wait_for_api(self) -> None:
        trusted = ssl.create_default_context(cafile=str(self.layout.pki / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            self.check()
            try:
                with opener.open(f"{self.layout.api_url}/readyz", timeout=5):
                    return
            except OSError:
                time.sleep(POLL_S)
        raise TestbedError(
            f"the API server was not ready within {TIMEOUT_S:.0f} s\n"
            + tail_of(self.layout.log("kube-apiserver"))
        )

    def load_pause_image(self) -> None:
        """containerd opens its socket late; until then, try again."""
        end = time.monotonic() + TIMEOUT_S
        command = image_import(self.layout, self.layout.state / PAUSE_ARCHIVE)
        while not succeeds(*command):
            self.check()
            if time.monotonic() > end:
                run(*command)
            time.sleep(POLL_S)

    def check(self) -> None:
        """Fail if a program has ended. While starting only: no orphans are buried here."""
        for name, process in self.running.items():
            status = process.poll()
            if status is not None:
                self.fail(name, status)

    def fail(self, name: str, status: int) -> NoReturn:
        raise TestbedError(f"{name} ended with status {status}\n{tail_of(self.layout.log(name))}")


def image_import(layout: Layout, archive: Path) -> tuple[str | Path, ...]:
    """The command that gives an image archive to the node."""
    containerd = ("ctr", "--address", layout.containerd_socket, "--namespace", "k8s.io")
    return (*containerd, "images", "import", archive)


def connect_networks(layout: Layout, host_network: int) -> None:
    """A bridge for the pods, and a cable from it to this machine.

    The cable's end outside is all that the machine sees of the cluster's network, and the kernel
    removes it with the namespace.
    """
    host = f"/proc/{os.getpid()}/fd/{host_network}"
    for command in (
        "ip link set lo up",
        # With an address of its own: else it takes that of the lowest pod, and changes it.
        "ip link add pods address 02:00:00:00:00:01 type bridge",
        f"ip addr add {layout.node_address}/24 dev pods",
        "ip link set pods up",
        f"ip link add uplink type veth peer name {layout.link} netns {host}",
        "ip link set uplink master pods",
        "ip link set uplink up",
        f"nsenter --net={host} ip addr add {layout.host_address}/24 dev {layout.link}",
        f"nsenter --net={host} ip link set {layout.link} up",
        f"nsenter --net={host} ip route add {layout.service_net} via {layout.node_address}",
        "ip route add default via " + layout.host_address,
    ):
        run(*command.split())
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # of this namespace alone


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("host_network", type=int)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # process 1 has no default
    try:
        Supervisor(Layout(options.state, options.number)).serve(options.host_network)
    except TestbedError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
