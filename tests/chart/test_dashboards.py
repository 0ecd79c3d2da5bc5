"""Dashboards get into ConfigMaps as they are; a chart without any still installs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import helm_python
import pytest
import yaml

from chart.rendering import CHART, DATABASE

DASHBOARD = {
    "title": "Fleet",
    "panels": [{"legendFormat": "{{app}}", "description": "50 % ≥ “ok” ☂"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the chart without dashboards."""
    copy = tmp_path / "rowlock"
    shutil.copytree(CHART, copy)
    shutil.rmtree(copy / "dashboards", ignore_errors=True)
    return copy


def config_maps(folder: Path, **dashboards: object) -> list[dict[str, object]]:
    with helm_python.Chart.load(folder) as chart:
        values = {**DATABASE, "dashboards": {"enabled": True, **dashboards}}
        text = chart.render(values, name="rowlock", namespace="boats")[
            "rowlock/templates/dashboards.yaml"
        ]
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def test_a_chart_without_dashboards_renders(folder: Path) -> None:
    assert config_maps(folder) == []


def test_a_dashboard_arrives_unchanged_under_the_label(folder: Path) -> None:
    (folder / "dashboards").mkdir()
    (folder / "dashboards/fleet.json").write_text(json.dumps(DASHBOARD, indent=2) + "\n")

    (found,) = config_maps(folder, label="team/boards", labelValue="yes", namespace="grafana")

    assert json.loads(found["data"]["fleet.json"]) == DASHBOARD  # type: ignore[index]
    metadata = found["metadata"]
    assert isinstance(metadata, dict)
    assert metadata["name"] == "rowlock-dashboard-fleet"
    assert metadata["namespace"] == "grafana"
    assert metadata["labels"]["team/boards"] == "yes"


def test_none_comes_unasked(folder: Path) -> None:
    (folder / "dashboards").mkdir()
    (folder / "dashboards/fleet.json").write_text("{}")

    assert config_maps(folder, enabled=False) == []
