"""The chart as it is rendered: sets of values to render it with, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHART = Path(__file__).parents[2] / "deploy/helm/rowlock"
DATABASE = {"database": {"existingSecret": "shop-database"}}
EMBEDDED = {"database": {"embedded": {"enabled": True}}}
EVERYTHING: dict[str, Any] = {
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": [{"name": "registry"}]},
    "operator": {
        "extraEnv": [{"name": "LOG", "value": "yes"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "podLabels": {"team": "boats"},
        "podAnnotations": {"note": "yes"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
    },
    "monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}},
    "dashboards": {"enabled": True},
    "networkPolicy": {"enabled": True},
}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Rendered:
    """What one `helm install` would send to the cluster, and what it would print."""

    manifests: list[Manifest]
    notes: str
    text: str

    def of_kind(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Manifest:
        names = [m for m in self.of_kind(kind) if m["metadata"]["name"].endswith(ending)]
        assert len(names) == 1, f"{len(names)} of kind {kind} end with {ending!r}"
        return names[0]

    def pods(self) -> Iterator[tuple[str, Manifest]]:
        """The spec of every pod there will be, with the name of what makes it."""
        for manifest in self.manifests:
            name = f"{manifest['kind']}/{manifest['metadata']['name']}"
            if manifest["kind"] == "Pod":
                yield name, manifest["spec"]
            elif "template" in manifest.get("spec", {}):
                yield name, manifest["spec"]["template"]["spec"]


Render = Callable[..., Rendered]


def merged_values(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As Helm lays one file of values over another."""
    result = dict(below)
    for key, value in above.items():
        known = result.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            result[key] = merged_values(known, value)
        else:
            result[key] = value
    return result
