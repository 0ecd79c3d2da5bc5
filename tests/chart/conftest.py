"""Render the chart as Helm does, without a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from chart.rendering import CHART, Render, Rendered, merged_values


@pytest.fixture(scope="session")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(CHART) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm_python.Chart) -> Render:
    """Render with these values; later ones lie over earlier ones."""

    def rendered(*values: dict[str, Any], name: str = "rowlock") -> Rendered:
        merged: dict[str, Any] = {}
        for layer in values:
            merged = merged_values(merged, layer)
        files = chart.render(merged, name=name, namespace="boats")
        notes = files.pop("rowlock/templates/NOTES.txt")
        text = "\n---\n".join(files.values())
        manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
        return Rendered(manifests, notes, text)

    return rendered
