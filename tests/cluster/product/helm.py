"""Helm, as a user would call it."""

from __future__ import annotations

import os
from pathlib import Path

from testbed import binaries
from testbed.command import run

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "rowlock"


class Helm:
    """Helm for one cluster."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self._program = binaries.ensure("helm")["helm"]

    def __call__(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """What it prints; `CommandFailed` carries what it complained of."""
        return run(
            str(self._program),
            *arguments,
            env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
            timeout_s=timeout_s,
        )
