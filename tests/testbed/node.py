"""The node's programs, their options and configuration: containerd, kubelet, kube-proxy, CoreDNS.

CoreDNS runs beside the node and not in it, so that there is nothing to wait for after the start.

Some machines withhold CAP_SYS_RESOURCE from root, or have cgroup v1 still. What they need is marked
below; it changes nothing elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed import pki
from testbed.control_plane import Commands
from testbed.files import write
from testbed.layout import NODE, PAUSE_IMAGE, Layout
from testbed.sandbox import DAEMONS

CNI_PLUGINS = Path("/usr/lib/cni")
CLUSTER_DOMAIN = "cluster.local"


def runtime(layout: Layout) -> Commands:
    """What runs containers; the pods' first image has to be loaded before the rest starts."""
    return {"containerd": ["containerd", "--config", str(_containerd(layout))]}


def services(layout: Layout, programs: Mapping[str, Path]) -> Commands:
    """What makes this machine a node."""
    _cni(layout)
    return {
        "kubelet": [
            str(programs["kubelet"]),
            f"--config={_kubelet(layout)}",
            f"--kubeconfig={pki.kubeconfig(layout, 'kubelet')}",
            f"--root-dir={layout.state}/kubelet",
            f"--hostname-override={NODE}",
            f"--node-ip={layout.node_address}",
        ],
        "kube-proxy": [
            str(programs["kube-proxy"]),
            f"--config={_kube_proxy(layout)}",
            f"--hostname-override={NODE}",
        ],
        "coredns": [str(programs["coredns"]), "-conf", str(_coredns(layout))],
    }


def _containerd(layout: Layout) -> Path:
    state = layout.state
    # restrict_oom_score_adj, oomScoreAdj below: without CAP_SYS_RESOURCE nobody gets a lower score.
    content = f"""\
version = 2
root = "{state}/containerd"
state = "{state}/containerd-run"
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{state}/cni"
"""
    return write(state / "containerd.toml", content)


def _cni(layout: Layout) -> Path:
    """Pods hang on the bridge that the supervisor made, where this machine is plugged in too."""
    addresses = {
        "subnet": layout.pod_net,
        "rangeStart": layout.first_pod_address,
        "gateway": layout.node_address,
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{layout.state}/cni-addresses",
            "ranges": [[addresses]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    content = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, {"type": "portmap"}]}
    return write(layout.state / "cni" / "10-bridge.conflist", content)


def _kubelet(layout: Layout) -> Path:
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": layout.node_address,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": f"{layout.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{layout.pki}/kubelet.key",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": f"{layout.pki}/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.sandbox}",
        "kubeletCgroups": f"/{layout.sandbox}/{DAEMONS}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "oomScoreAdj": 0,
        # Kernel settings that can't be set are then a line in the log and not the end.
        "featureGates": {"KubeletInUserNamespace": True},
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDNS": [layout.node_address],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(write(layout.state / "resolv.conf", "")),
        "runtimeRequestTimeout": "5m",
        # Images are not to be had again: never throw one away because the disk is full.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "localStorageCapacityIsolation": False,
    }
    return write(layout.state / "kubelet.yaml", content)


def _kube_proxy(layout: Layout) -> Path:
    content = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        # All pods are on one bridge: their answers would come back by the short way, past the
        # address translation, unless the kernel has br_netfilter. So the node is the sender.
        "iptables": {"masqueradeAll": True},
        "clientConnection": {"kubeconfig": str(pki.kubeconfig(layout, "kube-proxy"))},
        "bindAddress": "127.0.0.1",
        "metricsBindAddress": "127.0.0.1:10249",
        "healthzBindAddress": "127.0.0.1:10256",
        "clusterCIDR": layout.pod_net,
        # The machine's connection table is not ours to change.
        "conntrack": {
            "maxPerCore": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
    return write(layout.state / "kube-proxy.yaml", content)


def _coredns(layout: Layout) -> Path:
    content = f"""\
{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {layout.node_address}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {layout.kubeconfig} testbed
    }}
    errors
}}
"""
    return write(layout.state / "Corefile", content)
