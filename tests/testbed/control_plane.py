"""The control plane's programs and their options: etcd, API server, controllers, scheduler.

Admission and authorization are as every real cluster has them: all default plugins (Pod Security
among them), RBAC, nodes restricted to their own objects. Only durability is left out: the cluster's
database dies with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from testbed import pki
from testbed.layout import API_PORT, Layout

ETCD_URL = "http://127.0.0.1:2379"  # in the cluster's own network namespace

Commands = dict[str, list[str]]


def api_server(layout: Layout, programs: Mapping[str, Path]) -> Commands:
    """What must run before anything else can."""
    return {
        "etcd": [str(programs["etcd"]), *_etcd(layout)],
        "kube-apiserver": [str(programs["kube-apiserver"]), *_api_server(layout)],
    }


def controllers(layout: Layout, programs: Mapping[str, Path]) -> Commands:
    """What works through the API once it answers."""
    manager, scheduler = programs["kube-controller-manager"], programs["kube-scheduler"]
    return {
        "kube-controller-manager": [
            str(manager),
            *_client(layout, "controller-manager"),
            f"--service-account-private-key-file={layout.pki}/service-account.key",
            f"--root-ca-file={layout.pki}/ca.crt",
            "--use-service-account-credentials",
        ],
        "kube-scheduler": [str(scheduler), *_client(layout, "scheduler")],
    }


def _etcd(layout: Layout) -> list[str]:
    return [
        f"--data-dir={layout.state}/etcd",
        "--log-level=warn",
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        "--listen-peer-urls=http://127.0.0.1:2380",
    ]


def _api_server(layout: Layout) -> list[str]:
    keys = layout.pki
    return [
        f"--etcd-servers={ETCD_URL}",
        f"--bind-address={layout.node_address}",
        f"--advertise-address={layout.node_address}",
        f"--secure-port={API_PORT}",
        f"--service-cluster-ip-range={layout.service_net}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged",  # as everywhere; it is Pod Security that refuses
        f"--tls-cert-file={keys}/apiserver.crt",
        f"--tls-private-key-file={keys}/apiserver.key",
        # Who may come in: a certificate of ours, a token of the file, a service account.
        f"--client-ca-file={keys}/ca.crt",
        f"--token-auth-file={pki.tokens(layout)}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/service-account.pub",
        f"--service-account-signing-key-file={keys}/service-account.key",
        # How it goes to the kubelet (logs, exec, port-forward).
        f"--kubelet-client-certificate={keys}/kubelet-client.crt",
        f"--kubelet-client-key={keys}/kubelet-client.key",
        f"--kubelet-certificate-authority={keys}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        # How it goes to API servers behind it.
        f"--proxy-client-cert-file={keys}/front-proxy.crt",
        f"--proxy-client-key-file={keys}/front-proxy.key",
        f"--requestheader-client-ca-file={keys}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    ]


def _client(layout: Layout, name: str) -> list[str]:
    config = pki.kubeconfig(layout, name)
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        f"--cert-dir={layout.state}/{name}",
    ]
