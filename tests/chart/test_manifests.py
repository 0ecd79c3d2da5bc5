"""What the chart makes: valid, restricted, with no more rights than the operator uses."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest

from chart.rendering import DATABASE, EMBEDDED, EVERYTHING, Manifest, Render, Rendered

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "least": [DATABASE],
    "everything": [DATABASE, EVERYTHING],
    "embedded": [EMBEDDED, EVERYTHING],
    "embedded in the pod": [
        EMBEDDED,
        {"database": {"embedded": {"persistence": {"enabled": False}}}},
    ],
    "namespaced": [DATABASE, EVERYTHING, {"watch": {"namespaces": ["boats", "shop"]}}],
    "no exporter": [DATABASE, EVERYTHING, {"exporter": {"enabled": False}}],
}
KUBERNETES = ["1.29", "1.35"]
LONGEST_NAME = 52
"""Pods get 11 characters more, and are hosts: 63."""
LONGEST_NAMES = {"WorkflowApp": 20, "ConfigMap": 253}
NOT_OF_KUBERNETES = {"WorkflowApp", "PodMonitor", "ServiceMonitor"}

OPERATOR_RULES = {
    ("rowlock.dev", "workflowapps"): "get list patch update watch",
    ("rowlock.dev", "workflowapps/status"): "get patch update",
    ("rowlock.dev", "workflowapps/finalizers"): "update",
    ("apps", "deployments"): "create delete get list patch watch",
    ("batch", "jobs"): "create delete get list watch",
    ("", "pods"): "get list patch watch",
    ("", "secrets"): "get",
    ("", "events"): "create patch",
}
CLUSTER_WIDE_RULES = {
    ("apiextensions.k8s.io", "customresourcedefinitions"): "get list watch",
    ("", "namespaces"): "get list watch",
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=list(VARIANTS))
def rendered(request: pytest.FixtureRequest, render: Render) -> Rendered:
    return render(*request.param)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid(rendered: Rendered, version: str) -> None:
    checked = 0
    for manifest in rendered.manifests:
        if manifest["kind"] not in NOT_OF_KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
            checked += 1
    assert checked >= 6


def test_no_object_is_made_twice(rendered: Rendered) -> None:
    places = [
        (m["kind"], m["metadata"].get("namespace"), m["metadata"]["name"])
        for m in rendered.manifests
    ]
    assert len(places) == len(set(places))


def test_long_names_of_releases_stay_within_the_limits(render: Render) -> None:
    rendered = render(
        EMBEDDED, EVERYTHING, name="a-release.with-a-very-long-name-53-characters-longggg"
    )

    for manifest in rendered.manifests:
        name = manifest["metadata"]["name"]
        limit = LONGEST_NAMES.get(manifest["kind"], LONGEST_NAME)
        if manifest["kind"] != "CustomResourceDefinition":
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= limit


# --- pods


def test_every_pod_satisfies_the_restricted_standard(rendered: Rendered) -> None:
    pods = list(rendered.pods())
    assert pods
    for name, pod in pods:
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume], name
        for container in _containers(pod):
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, name
            assert inner["capabilities"] == {"drop": ["ALL"]}, name
            assert inner["readOnlyRootFilesystem"] is True, name
            assert "privileged" not in inner, name


def test_every_container_has_a_bounded_tmp_and_resources(rendered: Rendered) -> None:
    for name, pod in rendered.pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], f"{name}: {volume['name']} has no bound"
        for container in _containers(pod):
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert "emptyDir" in volumes[mounts["/tmp"]], name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name


def test_only_the_operator_gets_a_token(rendered: Rendered) -> None:
    tokens = {name for name, pod in rendered.pods() if pod["automountServiceAccountToken"]}

    assert tokens == {"Deployment/rowlock-operator"}
    for account in rendered.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_selector_finds_its_own_pods_and_no_others(rendered: Rendered) -> None:
    labels = {}
    for manifest in rendered.manifests:
        if "template" in manifest.get("spec", {}):
            labels[manifest["metadata"]["name"]] = manifest["spec"]["template"]["metadata"][
                "labels"
            ]
    for manifest in rendered.manifests:
        name = manifest["metadata"]["name"]
        selector = _selector(manifest)
        if selector is not None:
            found = {pod for pod, has in labels.items() if selector.items() <= has.items()}
            assert found == ({name} & set(labels)), f"{manifest['kind']} {name}"


def _selector(manifest: Manifest) -> dict[str, str] | None:
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        return dict(spec["selector"])
    if manifest["kind"] in ("Deployment", "StatefulSet"):
        return dict(spec["selector"]["matchLabels"])
    if manifest["kind"] == "NetworkPolicy":
        return dict(spec["podSelector"]["matchLabels"])
    return None


def _containers(pod: Manifest) -> list[Manifest]:
    return [*pod["containers"], *pod.get("initContainers", [])]


# --- the operator and its rights


def test_there_is_never_more_than_one_operator(rendered: Rendered) -> None:
    spec = rendered.one("Deployment", "-operator")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_operator_may_do_exactly_this(render: Render) -> None:
    rendered = render(DATABASE)

    assert _rights(rendered.one("ClusterRole")) == OPERATOR_RULES | CLUSTER_WIDE_RULES
    assert rendered.of_kind("Role") == rendered.of_kind("RoleBinding") == []
    _assert_binds(rendered.one("ClusterRoleBinding"), "ClusterRole")


def test_with_named_namespaces_there_are_roles_only(render: Render) -> None:
    rendered = render(DATABASE, {"watch": {"namespaces": ["boats", "shop", "shop"]}})

    assert rendered.of_kind("ClusterRole") == rendered.of_kind("ClusterRoleBinding") == []
    roles = {role["metadata"]["namespace"]: role for role in rendered.of_kind("Role")}
    assert set(roles) == {"boats", "shop"}
    for role in roles.values():
        assert _rights(role) == OPERATOR_RULES
    bindings = rendered.of_kind("RoleBinding")
    assert {binding["metadata"]["namespace"] for binding in bindings} == {"boats", "shop"}
    for binding in bindings:
        _assert_binds(binding, "Role")


def test_the_operator_looks_where_it_has_rights(render: Render) -> None:
    def watched(*values: dict[str, Any]) -> str:
        pod = render(DATABASE, *values).one("Deployment", "-operator")["spec"]["template"]["spec"]
        env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        return str(env["ROWLOCK_OPERATOR_NAMESPACE"])

    assert watched() == ""
    assert watched({"watch": {"namespaces": ["boats", "shop"]}}) == "boats,shop"


def _rights(role: Manifest) -> dict[tuple[str, str], str]:
    rights: dict[tuple[str, str], str] = {}
    for rule in role["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                assert (group, resource) not in rights
                rights[group, resource] = " ".join(sorted(rule["verbs"]))
    return rights


def _assert_binds(binding: Manifest, kind: str) -> None:
    assert binding["roleRef"]["kind"] == kind
    assert binding["roleRef"]["name"] == "rowlock-operator"
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "rowlock-operator", "namespace": "boats"}
    ]


# --- secrets and the database


@pytest.mark.parametrize("values", [DATABASE, {**DATABASE, **EVERYTHING}], ids=["least", "all"])
def test_no_manifest_holds_a_secret(render: Render, values: dict[str, Any]) -> None:
    rendered = render(values)

    assert rendered.of_kind("Secret") == []
    assert "postgresql://" not in rendered.text
    exporter = rendered.one("Deployment", "-exporter")["spec"]["template"]["spec"]
    assert exporter["containers"][0]["env"][0] == {
        "name": "ROWLOCK_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "shop-database", "key": "url"}},
    }


def test_the_embedded_password_stands_in_its_secret_only(render: Render) -> None:
    rendered = render(EMBEDDED, EVERYTHING)

    secret = rendered.one("Secret")
    password = secret["stringData"]["password"]
    assert re.fullmatch("[A-Za-z0-9]{32}", password)
    assert password not in rendered.notes
    assert rendered.text.count(password) == 2
    host = "rowlock-postgres.boats.svc"
    assert secret["stringData"]["url"] == f"postgresql://rowlock:{password}@{host}:5432/rowlock"
    assert render(EMBEDDED).one("Secret")["stringData"]["password"] != password


def test_the_embedded_postgres_comes_only_when_asked_for(render: Render) -> None:
    assert render(DATABASE).of_kind("StatefulSet") == []

    postgres = render(EMBEDDED, {"database": {"embedded": {"image": "local/pg:1"}}}).one(
        "StatefulSet"
    )
    assert "not for production" in postgres["metadata"]["annotations"]["rowlock.dev/warning"]
    assert postgres["spec"]["template"]["spec"]["containers"][0]["image"] == "local/pg:1"


def test_what_the_volume_needs_is_kept_with_it(render: Render) -> None:
    keep = {"helm.sh/resource-policy": "keep"}
    kept = render(EMBEDDED)
    assert kept.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    assert kept.one("Secret")["metadata"]["annotations"] == keep

    gone = render(EMBEDDED, {"database": {"embedded": {"persistence": {"enabled": False}}}})
    assert "volumeClaimTemplates" not in gone.one("StatefulSet")["spec"]
    assert "annotations" not in gone.one("Secret")["metadata"]


# --- switches


def test_nothing_optional_comes_unasked(render: Render) -> None:
    kinds = {manifest["kind"] for manifest in render(DATABASE).manifests}

    assert kinds == {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Pod",
        "Service",
        "ServiceAccount",
        "WorkflowApp",
    }


def test_without_the_exporter_nothing_of_it_is_left(render: Render) -> None:
    rendered = render(DATABASE, EVERYTHING, {"exporter": {"enabled": False}})

    assert [m for m in rendered.manifests if "exporter" in m["metadata"]["name"]] == []


def test_prometheus_finds_the_workers_wherever_they_are(render: Render) -> None:
    spec = render(DATABASE, EVERYTHING).one("PodMonitor")["spec"]
    assert spec["namespaceSelector"] == {"any": True}
    assert spec["selector"]["matchLabels"] == {
        "app.kubernetes.io/name": "rowlock",
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "rowlock-operator",
    }

    named = render(DATABASE, EVERYTHING, {"watch": {"namespaces": ["shop"]}})
    assert named.one("PodMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["shop"]}


def test_prometheus_finds_the_exporter(render: Render) -> None:
    rendered = render(DATABASE, EVERYTHING)
    selector = rendered.one("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    service = rendered.one("Service")

    assert selector.items() <= service["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["name"] == "metrics"
    assert service["spec"]["ports"][0]["port"] == 9187


def test_the_networkpolicies_let_every_component_reach_its_database(render: Render) -> None:
    rendered = render(DATABASE, EVERYTHING, {"networkPolicy": {"databasePorts": [6432]}})

    for policy in rendered.of_kind("NetworkPolicy"):
        rules = policy["spec"]["egress"]
        open_to = {(one["protocol"], one["port"]) for rule in rules for one in rule["ports"]}
        assert {("UDP", 53), ("TCP", 53), ("TCP", 6432)} <= open_to
        is_operator = policy["metadata"]["name"].endswith("-operator")
        assert (("TCP", 6443) in open_to) == is_operator
