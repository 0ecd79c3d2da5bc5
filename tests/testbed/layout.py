"""Names, places and addresses of one cluster: values only, all derived from a folder and a number.

The number keeps clusters of one machine apart, should a test want a second one beside the session's
own: it is in the network's addresses, the link's name and the control group's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NODE = "node-1"
API_PORT = 6443
PAUSE_IMAGE = "localhost/pause:1"

# The kubelet's sockets lie up to 45 characters deeper, and a socket's path may have 107.
LONGEST_STATE = 60


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of cluster `number` is; its files are all below `state`."""

    state: Path
    number: int = 0

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "admin.kubeconfig"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def started(self) -> Path:
        """Exists once the supervisor has started everything."""
        return self.state / "started"

    def log(self, name: str) -> Path:
        return self.state / f"{name}.log"

    @property
    def sandbox(self) -> str:
        return f"rowlock-testbed-{self.number}"

    @property
    def link(self) -> str:
        """This machine's end of the cable into the cluster's network."""
        return f"rlk{self.number}"

    @property
    def pod_net(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def host_address(self) -> str:
        """This machine, as pods see it."""
        return f"10.244.{self.number}.1"

    @property
    def node_address(self) -> str:
        """The node: API server, kubelet, DNS, and the pods' gateway."""
        return f"10.244.{self.number}.2"

    @property
    def first_pod_address(self) -> str:
        return f"10.244.{self.number}.10"

    @property
    def service_net(self) -> str:
        return f"10.96.{self.number}.0/24"

    @property
    def api_service_address(self) -> str:
        return f"10.96.{self.number}.1"

    @property
    def api_url(self) -> str:
        return f"https://{self.node_address}:{API_PORT}"
