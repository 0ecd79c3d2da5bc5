"""The WorkflowApp's definition, as far as it can be checked without an API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.rendering import DATABASE, Manifest, Render

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/shop/workflowapp.yaml"
CORE_OBJECTS = {
    "affinity",
    "topologySpreadConstraints",
    "env",
    "envFrom",
    "volumes",
    "volumeMounts",
}
"""Fields of spec.pools[].template that are passed on to Kubernetes as they are."""


@pytest.fixture(scope="module")
def crd(render: Render) -> Manifest:
    return render(DATABASE).one("CustomResourceDefinition")


@pytest.fixture(scope="module")
def schema(crd: Manifest) -> dict[str, Any]:
    found = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    assert isinstance(found, dict)
    return found


def test_it_stays_when_the_release_goes_unless_told_otherwise(render: Render) -> None:
    def annotations(keep: bool) -> Any:
        values = {"crds": {"keep": keep}}
        definition = render(DATABASE, values).one("CustomResourceDefinition")
        return definition["metadata"].get("annotations")

    assert annotations(keep=True) == {"helm.sh/resource-policy": "keep"}
    assert annotations(keep=False) is None


def test_it_can_be_left_to_others(render: Render) -> None:
    assert render(DATABASE, {"crds": {"enabled": False}}).of_kind("CustomResourceDefinition") == []


def test_kubectl_shows_what_people_ask_for(crd: Manifest) -> None:
    version = crd["spec"]["versions"][0]
    columns = [(c["name"], c["jsonPath"]) for c in version["additionalPrinterColumns"]]

    assert columns == [
        ("Version", ".status.version"),
        ("Phase", ".status.phase"),
        ("Ready", ".status.readyWorkers"),
        ("Open", ".status.openRuns"),
        ("Wait", ".status.oldestWaitSeconds"),
        ("Age", ".metadata.creationTimestamp"),
    ]
    assert crd["spec"]["names"]["shortNames"] == ["wfa"]
    assert version["subresources"] == {"status": {}}


def test_every_field_says_what_it_is(schema: dict[str, Any]) -> None:
    nodes = dict(_nodes(schema, ""))
    assert len(nodes) > 70
    assert nodes.pop(".metadata") == {"type": "object"}, "the API server refuses anything else"
    for path, node in nodes.items():
        assert node.get("description", "").endswith("."), path


def test_unknown_fields_are_kept_only_inside_kubernetes_own_objects(
    schema: dict[str, Any],
) -> None:
    loose = [path for path, node in _nodes(schema, "") if _keeps_unknown(node)]

    assert loose
    for path in loose:
        where, _, field = path.removesuffix("[]").rpartition(".")
        assert where == ".spec.pools[].template", path
        assert field in CORE_OBJECTS, path


def test_defaults_are_those_that_are_documented(schema: dict[str, Any]) -> None:
    defaults = {path: n["default"] for path, n in _nodes(schema, "") if "default" in n}

    assert defaults == {
        ".spec.database.key": "url",
        ".spec.migration": {},
        ".spec.migration.timeoutSeconds": 600,
        ".spec.paused": False,
        ".spec.pools": [{"name": "default"}],
        ".spec.pools[].drainGraceSeconds": 30,
        ".spec.pools[].idleAfterSeconds": 300,
        ".spec.pools[].max": 10,
        ".spec.pools[].min": 1,
        ".spec.pools[].processes": 1,
        ".spec.pools[].slots": 100,
        ".spec.pools[].targetWaitSeconds": 10,
    }


def test_every_rule_explains_itself(schema: dict[str, Any]) -> None:
    rules = [
        rule for _, node in _nodes(schema, "") for rule in node.get("x-kubernetes-validations", [])
    ]
    assert len(rules) == 5
    for rule in rules:
        assert len(rule["message"].split()) > 5, rule["rule"]


def test_the_example_uses_fields_that_exist(schema: dict[str, Any]) -> None:
    _check_fields(yaml.safe_load(EXAMPLE.read_text())["spec"], schema["properties"]["spec"])


def test_helm_test_uses_fields_that_exist(render: Render, schema: dict[str, Any]) -> None:
    app = render(DATABASE, {"image": {"pullSecrets": [{"name": "registry"}]}}).one("WorkflowApp")

    _check_fields(app["spec"], schema["properties"]["spec"])


def _check_fields(value: Any, schema: dict[str, Any]) -> None:
    if isinstance(value, list):
        for one in value:
            _check_fields(one, schema["items"])
    elif isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= set(value)
        for key, below in value.items():
            _check_fields(below, schema["properties"][key])


def _nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the tree with the place of its value."""
    yield path, schema
    for key, below in schema.get("properties", {}).items():
        yield from _nodes(below, f"{path}.{key}")
    if "items" in schema:
        yield from _nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _nodes(schema["additionalProperties"], f"{path}.*")


def _keeps_unknown(node: dict[str, Any]) -> bool:
    return bool(node.get("x-kubernetes-preserve-unknown-fields"))
