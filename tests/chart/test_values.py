"""What the chart takes, what it refuses, and with which words."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import helm_python
import pytest
import yaml

from chart.rendering import CHART, DATABASE, EMBEDDED, EVERYTHING, Render


@pytest.mark.parametrize("values", [DATABASE, {**EVERYTHING, **EMBEDDED}], ids=["least", "all"])
def test_helm_lint_finds_nothing_to_warn_of(values: dict[str, Any]) -> None:
    report = helm_python.lint(CHART, values, strict=True)

    information = 1  # that an icon would be nice
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > information] == []


def test_without_a_database_it_says_how_to_name_one(render: Render) -> None:
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render()

    message = str(refused.value)
    assert "Rowlock needs a PostgreSQL database" in message
    assert "kubectl -n boats create secret generic" in message
    assert "database.existingSecret" in message
    assert "database.embedded.enabled=true" in message


def test_two_databases_are_one_too_many(render: Render) -> None:
    with pytest.raises(helm_python.HelmRenderError, match="Set one of them"):
        render(DATABASE, EMBEDDED)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"imgae": {}}, "additional properties 'imgae' not allowed"),
        ({"image": {"tagg": "1"}}, "additional properties 'tagg' not allowed"),
        ({"image": {"tag": 1.5}}, "got number, want string"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'Always', 'IfNotPresent', 'Never'"),
        ({"image": {"digest": "sha256:short"}}, "/image/digest"),
        ({"database": {"existingSecret": "postgresql://u@h/d"}}, "/database/existingSecret"),
        ({"database": {"url": "postgresql://"}}, "additional properties 'url' not allowed"),
        ({"database": {"embedded": {"runAsUser": 0}}}, "/database/embedded/runAsUser"),
        ({"watch": {"namespaces": "shop"}}, "want array"),
        (
            {"exporter": {"extraEnv": [{"name": "ROWLOCK_DATABASE_URL", "value": "x"}]}},
            "/exporter/extraEnv/0/name",
        ),
        ({"tests": {"timeoutSeconds": 1}}, "/tests/timeoutSeconds"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_can_not_be_meant_is_refused(
    render: Render, values: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(complaint)):
        render(DATABASE, values)


def test_every_value_is_explained_and_in_the_schema(chart: helm_python.Chart) -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in pairwise(lines):
        key, _, value = line.strip().partition(":")
        is_leaf = value and not line.strip().startswith("#")
        if is_leaf and key not in ("requests", "limits"):
            assert before.strip().startswith("#"), f"{line} is not explained"

    schema = chart.schema
    assert schema is not None
    _same_keys(chart.values, schema, schema["definitions"], "values")


def _same_keys(
    values: dict[str, Any], schema: dict[str, Any], definitions: dict[str, Any], where: str
) -> None:
    """Each object of values.yaml is closed in the schema, and the schema names nothing else."""
    assert schema["additionalProperties"] is False, where
    assert set(values) == set(schema["properties"]) - {"global"}, where
    for key, value in values.items():
        below = schema["properties"][key]
        if isinstance(value, dict) and "properties" in below:
            _same_keys(value, below, definitions, f"{where}.{key}")


def test_the_chart_installs_the_version_it_is_of(chart: helm_python.Chart, render: Render) -> None:
    project = (CHART.parents[2] / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert chart.metadata["appVersion"] == version[1]

    operator = render(DATABASE).one("Deployment", "-operator")
    image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == f"rowlock:{version[1]}"
    assert (
        image in yaml.safe_load(chart.metadata["annotations"]["artifacthub.io/images"])[0].values()
    )


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({"repository": "registry:5000/a/rowlock", "tag": "2"}, "registry:5000/a/rowlock:2"),
        ({"digest": f"sha256:{'a' * 64}"}, f"rowlock@sha256:{'a' * 64}"),
        ({"tag": "2", "digest": f"sha256:{'a' * 64}"}, f"rowlock:2@sha256:{'a' * 64}"),
    ],
    ids=["tag", "digest", "both"],
)
def test_the_image_is_written_as_asked(
    render: Render, image: dict[str, str], reference: str
) -> None:
    rendered = render(DATABASE, {"image": image})

    for _, pod in rendered.pods():
        assert [container["image"] for container in pod["containers"]] == [reference]
    assert rendered.one("WorkflowApp")["spec"]["image"] == reference


def test_the_notes_name_the_next_commands(render: Render) -> None:
    notes = render(DATABASE).notes

    assert "helm test rowlock -n boats" in notes
    assert "kubectl create secret generic shop-database" in notes
    assert "kind: WorkflowApp" in notes
    assert "kubectl get workflowapps" in notes
    assert "production" not in notes
    assert "not for production" in render(EMBEDDED).notes


def test_the_app_in_the_notes_is_one_that_the_crd_takes(render: Render) -> None:
    rendered = render(DATABASE)
    heredoc = re.search(r"<<EOF\n(.*?)\n\s*EOF", rendered.notes, re.DOTALL)
    assert heredoc is not None
    fields = rendered.one("CustomResourceDefinition")["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]["properties"]["spec"]["properties"]

    assert set(yaml.safe_load(heredoc[1])["spec"]) <= set(fields)
