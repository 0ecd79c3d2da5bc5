"""Speak to a cluster through kubectl, as a user would."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from testbed import binaries
from testbed.command import DEFAULT_TIMEOUT_S, run


class Kubectl:
    """kubectl for one cluster, and for one namespace of it if given."""

    def __init__(self, kubeconfig: Path, namespace: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = namespace

    def __call__(
        self, *arguments: str | Path, stdin: str | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> str:
        """What it prints; `CommandFailed` carries what it complained of."""
        return run(*self.command(*arguments), stdin=stdin, timeout_s=timeout_s)

    def json(self, *arguments: str) -> Any:
        """What it prints with ``-o json``, parsed."""
        return json.loads(self(*arguments, "-o", "json"))

    def apply(self, *objects: dict[str, Any]) -> None:
        """Create or change objects."""
        everything = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "-f", "-", stdin=json.dumps(everything))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it with its output in a pipe, for what goes on until it is stopped."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def within(self, namespace: str) -> Kubectl:
        """The same for one namespace."""
        return Kubectl(self.kubeconfig, namespace)

    def command(self, *arguments: str | Path) -> list[str]:
        """The whole command line."""
        namespace = ["--namespace", self.namespace] if self.namespace else []
        words = [binaries.kubectl(), "--kubeconfig", self.kubeconfig, *namespace, *arguments]
        return [str(word) for word in words]
