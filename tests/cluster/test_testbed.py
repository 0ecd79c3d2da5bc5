"""The testbed is what it says: a real cluster, that behaves like one and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import testbed
from testbed import images
from testbed.cluster import AnyCluster, Cluster, ForeignCluster
from testbed.command import CommandFailed, run
from testbed.dockerd import Dockerd
from testbed.kubectl import Kubectl
from testbed.layout import PAUSE_IMAGE, Layout
from testbed.sandbox import Sandbox

# The first of them may have to make the base image, on a slow machine.
pytestmark = pytest.mark.timeout(900)

SAMPLE = "localhost/rowlock-testbed/sample:1"
WAIT = "--timeout=180s"
TESTS = Path(testbed.__file__).parents[1]


@pytest.fixture(scope="module")
def sample(cluster: AnyCluster, dockerd: Dockerd) -> str:
    """An image built here, which answers HTTP on port 8080."""
    if isinstance(cluster, ForeignCluster):
        pytest.skip("a foreign cluster does not know our sample image")
    images.build(dockerd, TESTS / "testbed" / "sample", SAMPLE)
    cluster.load(images.save(dockerd, SAMPLE))
    return SAMPLE


@pytest.fixture
def second() -> Iterator[Cluster]:
    """A cluster beside the session's, to end in every way; whatever happens, it is gone after."""
    cluster = Cluster(number=1)
    yield cluster
    cluster.stop()


def pod(name: str, image: str, **container: Any) -> dict[str, Any]:
    """A pod that the restricted Pod Security standard admits, with a read-only root."""
    restricted = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    main = {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{**main, "securityContext": restricted, **container}],
        },
    }


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]},
    }


def serve(namespace: Kubectl, image: str) -> None:
    """Run the sample as pod and Service `server`, and wait until it is ready."""
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    namespace.apply(pod("server", image, readinessProbe=probe), service("server"))
    namespace("wait", "--for=condition=Ready", "pod/server", WAIT)


def output_of(namespace: Kubectl, image: str, code: str) -> str:
    """What a pod prints that runs some Python."""
    namespace.apply(pod("client", image, args=["-c", code]))
    try:
        namespace("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/client", WAIT)
    except CommandFailed as error:
        pytest.fail(f"{error}\n{namespace('logs', 'client')}")
    return namespace("logs", "client")


# -- a real cluster ------------------------------------------------------------------


def test_the_node_is_ready(kubectl: Kubectl) -> None:
    nodes = kubectl.json("get", "nodes")["items"]

    conditions = {each["type"]: each["status"] for each in nodes[0]["status"]["conditions"]}
    assert conditions["Ready"] == "True"


def test_pod_security_refuses_what_is_not_restricted(namespace: Kubectl) -> None:
    careless = pod("careless", "any", securityContext={"privileged": True})

    with pytest.raises(CommandFailed, match="violates PodSecurity"):
        namespace.apply(careless)


def test_an_account_may_do_nothing_that_no_role_allows(namespace: Kubectl) -> None:
    account = f"--as=system:serviceaccount:{namespace.namespace}:default"

    with pytest.raises(CommandFailed, match="no"):
        namespace("auth", "can-i", "list", "secrets", account)


def test_a_custom_resource_is_held_to_its_rules(kubectl: Kubectl, namespace: Kubectl) -> None:
    def boat(oars: int) -> dict[str, Any]:
        metadata = {"name": "skiff", "namespace": namespace.namespace}
        return {
            "apiVersion": "testbed.rowlock.dev/v1",
            "kind": "Boat",
            "metadata": metadata,
            "oars": oars,
        }

    rule = {"rule": "self.oars % 2 == 0", "message": "oars come in pairs"}
    schema = {
        "type": "object",
        "properties": {"oars": {"type": "integer"}},
        "x-kubernetes-validations": [rule],
    }
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    kubectl.apply(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "boats.testbed.rowlock.dev"},
            "spec": {
                "group": "testbed.rowlock.dev",
                "names": {"kind": "Boat", "plural": "boats"},
                "scope": "Namespaced",
                "versions": [version],
            },
        }
    )
    try:
        kubectl("wait", "--for=condition=Established", "crd/boats.testbed.rowlock.dev", WAIT)
        namespace.apply(boat(oars=2))
        with pytest.raises(CommandFailed, match="oars come in pairs"):
            namespace.apply(boat(oars=3))
    finally:
        kubectl("delete", "crd", "boats.testbed.rowlock.dev")


def test_a_restricted_pod_is_reached_by_its_services_name(namespace: Kubectl, sample: str) -> None:
    serve(namespace, sample)
    ask = "import urllib.request as r; print(r.urlopen('http://{}').read().decode())"
    name = f"server.{namespace.namespace}.svc.cluster.local"

    assert "hello" in output_of(namespace, sample, ask.format(name))
    assert "serving" in namespace("logs", "server")


def test_a_pod_cannot_write_to_its_root_and_is_nobody(namespace: Kubectl, sample: str) -> None:
    code = "import os; print(os.getuid(), os.access('/opt', os.W_OK)); open('/opt/new', 'w')"
    namespace.apply(pod("client", sample, args=["-c", code]))
    namespace("wait", "--for=jsonpath={.status.phase}=Failed", "pod/client", WAIT)

    said = namespace("logs", "client")
    assert "10001 False" in said
    assert "Read-only file system" in said


def test_commands_run_in_a_pod_and_its_ports_come_out(namespace: Kubectl, sample: str) -> None:
    serve(namespace, sample)

    inside = namespace("exec", "server", "--", "/opt/sample/bin/python", "-c", "print(6 * 7)")
    assert inside.strip() == "42"

    forward = namespace.start("port-forward", "service/server", ":80", "--address=127.0.0.1")
    try:
        assert forward.stdout is not None
        port = forward.stdout.readline().partition(" -> ")[0].rpartition(":")[2]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=60) as answer:
            assert b"hello" in answer.read()
    finally:
        forward.kill()
        forward.communicate()


def test_pods_reach_this_machine(cluster: AnyCluster, namespace: Kubectl, sample: str) -> None:
    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"from outside")

    with socket.create_server((cluster.host_address, 0)) as server:
        port = server.getsockname()[1]
        answering = threading.Thread(target=answer, args=[server])
        answering.start()
        address = (cluster.host_address, port)
        code = f"import socket; print(socket.create_connection({address}).recv(100))"

        assert "from outside" in output_of(namespace, sample, code)
        answering.join()


def test_a_pod_has_its_grace_period_to_end(namespace: Kubectl, sample: str) -> None:
    serve(namespace, sample)
    logs = namespace.start("logs", "--follow", "server")

    namespace("delete", "pod", "server", "--grace-period=60")

    said, _ = logs.communicate(timeout=60)
    assert "told to end" in said
    assert "ended in good order" in said


# -- nothing stays -------------------------------------------------------------------


def traces(layout: Layout) -> dict[str, list[str]]:
    """All that this machine shows of a cluster."""
    network = layout.pod_net.rpartition(".")[0] + "."
    listed = {
        "links": run("ip", "-oneline", "link"),
        "routes": run("ip", "route"),
        "rules": run("iptables-save"),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "network namespaces": run("ip", "netns"),
    }
    signs = (layout.link, network, str(layout.state), "KUBE-", "cni-")
    found = {
        what: [line for line in lines.splitlines() if any(sign in line for sign in signs)]
        for what, lines in listed.items()
    }
    found["processes"] = [str(process) for process in Sandbox(layout.sandbox).processes()]
    found["command lines"] = command_lines_with(str(layout.state))
    found["control groups"] = [str(group) for group in Sandbox(layout.sandbox).groups()]
    found["files"] = [str(layout.state)] if layout.state.exists() else []
    return {what: lines for what, lines in found.items() if lines}


def command_lines_with(text: str) -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [line for line in lines if text in line]


def run_a_pod(cluster: Cluster) -> None:
    kubectl = Kubectl(cluster.kubeconfig)
    kubectl.apply(pod("still", PAUSE_IMAGE))
    kubectl("wait", "--for=condition=Ready", "pod/still", WAIT)


def test_a_stopped_cluster_leaves_nothing(second: Cluster) -> None:
    second.start()
    run_a_pod(second)
    found = traces(second.layout)
    assert {"links", "routes", "processes", "control groups", "files"} <= set(found)

    second.stop()

    assert traces(second.layout) == {}


def test_a_killed_cluster_leaves_no_process_and_starts_again(second: Cluster) -> None:
    second.start()
    run_a_pod(second)
    assert second.supervisor is not None

    second.supervisor.kill()
    second.supervisor.wait()
    wait_until_empty(second)
    second.start()
    run_a_pod(second)
    second.stop()

    assert traces(second.layout) == {}


def test_a_bound_cluster_ends_with_the_process_that_started_it(second: Cluster) -> None:
    code = (
        "import time; from testbed.cluster import Cluster;"
        "Cluster(number=1).start(bound=True); print('started', flush=True); time.sleep(900)"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as starter:
        assert starter.stdout is not None
        said = starter.stdout.readline()
        starter.kill()
    assert said == b"started\n"

    wait_until_empty(second)
    second.stop()

    assert traces(second.layout) == {}


def wait_until_empty(cluster: Cluster) -> None:
    end = time.monotonic() + 60
    while cluster.sandbox.processes():
        assert time.monotonic() < end, cluster.sandbox.processes()
        time.sleep(0.1)
