"""Who is who in the cluster: certificates for servers, a token and a kubeconfig for each client.

All of it is made anew at every start and good for some days: nothing here is a secret of anybody's.
"""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from testbed.command import run
from testbed.files import write
from testbed.layout import NODE, Layout

DAYS = "30"

# Client name -> its user and group, as Kubernetes' own role bindings expect them.
CLIENTS = {
    "admin": ("admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
}


def kubeconfig(layout: Layout, client: str) -> Path:
    """The kubeconfig that `make` writes for one of `CLIENTS`."""
    return layout.state / f"{client}.kubeconfig"


def tokens(layout: Layout) -> Path:
    """The file by which the API server knows its clients' tokens."""
    return layout.state / "tokens.csv"


def make(layout: Layout) -> None:
    """Write all certificates, keys, tokens and kubeconfigs."""
    layout.pki.mkdir(parents=True, mode=0o700)
    _authority(layout.pki)
    addresses = (layout.node_address, "127.0.0.1", layout.api_service_address)
    names = ("kubernetes.default.svc", "kubernetes.default", NODE)
    server = ",".join([*(f"IP:{a}" for a in addresses), *(f"DNS:{name}" for name in names)])
    _signed(layout.pki, "apiserver", "/CN=kube-apiserver", f"subjectAltName={server}")
    _signed(layout.pki, "kubelet", f"/CN=system:node:{NODE}", f"subjectAltName={server}")
    client = "extendedKeyUsage=clientAuth"
    _signed(layout.pki, "kubelet-client", "/O=system:masters/CN=apiserver-to-kubelet", client)
    _signed(layout.pki, "front-proxy", "/CN=front-proxy", client)
    _service_account_key(layout.pki)
    _clients(layout)


def _authority(pki: Path) -> None:
    run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS),
        # Python from 3.13 on takes no authority that does not say what its key is for.
        *("-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"),
        *("-subj", "/CN=rowlock-testbed", "-keyout", pki / "ca.key", "-out", pki / "ca.crt"),
    )


def _signed(pki: Path, name: str, subject: str, extension: str) -> None:
    request, key = pki / f"{name}.csr", pki / f"{name}.key"
    identity = "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    extensions = write(pki / f"{name}.ext", identity + extension + "\n")
    run(
        *("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
        *("-keyout", key, "-out", request),
    )
    run(
        *("openssl", "x509", "-req", "-in", request, "-days", DAYS, "-extfile", extensions),
        *("-CA", pki / "ca.crt", "-CAkey", pki / "ca.key", "-CAcreateserial"),
        *("-out", pki / f"{name}.crt"),
    )


def _service_account_key(pki: Path) -> None:
    key = pki / "service-account.key"
    run("openssl", "genrsa", "-out", key, "2048")
    run("openssl", "rsa", "-in", key, "-pubout", "-out", pki / "service-account.pub")


def _clients(layout: Layout) -> None:
    authority = base64.b64encode((layout.pki / "ca.crt").read_bytes()).decode()
    cluster = {"server": layout.api_url, "certificate-authority-data": authority}
    lines = []
    for client, (user, group) in CLIENTS.items():
        token = secrets.token_hex(16)
        lines.append(f'{token},{user},{user},"{group}"\n')
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": user}}],
        }
        write(kubeconfig(layout, client), content)
    write(tokens(layout), "".join(lines))
