"""`helm test`: what it makes, what it leaves behind (nothing), and what it waits for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from chart.rendering import DATABASE, EMBEDDED, Render, Rendered

STUB = """#!/bin/sh
echo "$@" >> "$LOG"
case "$1" in
  migrate) test "$(grep -c migrate "$LOG")" -ge "$MIGRATED_AT" ;;
  start) test "$(grep -c start "$LOG")" -ge "$ANSWERED_AT" && echo "$ANSWER" ;;
esac
"""


def hooks(rendered: Rendered) -> list[dict[str, Any]]:
    return [
        manifest
        for manifest in rendered.manifests
        if "helm.sh/hook" in manifest["metadata"].get("annotations", {})
    ]


def test_the_app_comes_before_the_pod_and_nothing_stays(render: Render) -> None:
    found = hooks(render(DATABASE))

    assert {m["kind"] for m in found} == {"WorkflowApp", "Pod"}
    weights = {m["kind"]: int(m["metadata"]["annotations"]["helm.sh/hook-weight"]) for m in found}
    assert weights["WorkflowApp"] < weights["Pod"]
    for manifest in found:
        annotations = manifest["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "test"
        assert set(annotations["helm.sh/hook-delete-policy"].split(",")) == {
            "before-hook-creation",
            "hook-succeeded",
            "hook-failed",
        }


@pytest.mark.parametrize(
    ("values", "secret"), [(DATABASE, "shop-database"), (EMBEDDED, "rowlock-postgres")]
)
def test_app_and_pod_use_the_charts_database(
    render: Render, values: dict[str, Any], secret: str
) -> None:
    rendered = render(values)

    assert rendered.one("WorkflowApp")["spec"]["database"] == {"secretName": secret, "key": "url"}
    env = rendered.one("Pod")["spec"]["containers"][0]["env"]
    assert env[0]["valueFrom"]["secretKeyRef"] == {"name": secret, "key": "url"}


def test_the_app_is_the_one_that_the_image_brings(render: Render) -> None:
    # By text, not by import: the operator reads it, in another process, in the image.
    source = Path(__file__).parents[2] / "engine/src/rowlock/selftest.py"
    spec = render(DATABASE).one("WorkflowApp")["spec"]

    assert spec["target"] == "rowlock.selftest:app"
    assert f'app = App("{spec["app"]}")' in source.read_text()


def test_it_is_left_out_where_the_operator_does_not_look(render: Render) -> None:
    elsewhere = render(DATABASE, {"watch": {"namespaces": ["shop"]}})
    assert hooks(elsewhere) == []
    assert "`helm test` has nothing to run" in elsewhere.notes

    assert len(hooks(render(DATABASE, {"watch": {"namespaces": ["shop", "boats"]}}))) == 2


@pytest.mark.parametrize(
    ("migrated_at", "answered_at", "answer", "status", "said"),
    [
        (2, 2, '"pong"', 0, ""),
        (1, 1, '"pang"', 1, ""),
        (99, 1, '"pong"', 1, "the database was not migrated in time"),
        (1, 99, '"pong"', 1, "the run was not finished in time"),
    ],
    ids=["works at the second try", "wrong answer", "never migrated", "never answered"],
)
def test_the_script_waits_and_gives_up_with_a_reason(
    render: Render,
    tmp_path: Path,
    migrated_at: int,
    answered_at: int,
    answer: str,
    status: int,
    said: str,
) -> None:
    """The very script of the pod, with a `rowlock` that answers as told."""
    stub = tmp_path / "rowlock"
    stub.write_text(STUB)
    stub.chmod(0o755)
    (tmp_path / "log").touch()
    pod = render(DATABASE).one("Pod")["spec"]
    script = pod["containers"][0]["args"][0]
    limit = re.search(r"\+ (\d+)\)\)", script)
    assert limit is not None
    assert int(limit[1]) < pod["activeDeadlineSeconds"], "the script must be the first to give up"

    done = subprocess.run(
        ["sh", "-c", script.replace(f"+ {limit[1]}))", "+ 4))").replace("sleep 2", "sleep 0.1")],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "LOG": str(tmp_path / "log"),
            "MIGRATED_AT": str(migrated_at),
            "ANSWERED_AT": str(answered_at),
            "ANSWER": answer,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == status, done.stderr
    assert said in done.stderr
    keys = re.findall(r"--key (\S+)", (tmp_path / "log").read_text())
    assert len(set(keys)) <= 1, "every try must ask for the same run"
