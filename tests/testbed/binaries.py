"""Build Kubernetes, etcd, CoreDNS and Helm from their published Go modules, once.

Each program ends in ``<cache>/<name>-<version>/<name>``, by a rename, so that what is there is
complete. Versions are pinned here and nowhere else; Go's checksum database vouches for the sources.
On two slow cores all of it takes some twenty minutes; afterwards nothing is built again.

Reads: the Go module proxy.  Writes: the cache folder, and Go's own caches.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.command import CommandFailed, TestbedError, run
from testbed.paths import cache_folder

# 1.36 and later refuse the containerd 1.6 of Debian 12, and cgroup v1.
KUBERNETES = "1.35.4"
COLLECTOR = "0.158.0"
GO_MINIMUM = (1, 26)
BUILD_TIMEOUT_S = 3600.0
POLL_S = 0.5
STRIPPED = "-s -w"
GO_SETTINGS = {"CGO_ENABLED": "0", "GOWORK": "off"}

COLLECTOR_MANIFEST = f"""\
dist: {{name: otelcol, output_path: ./built}}
receivers:
  - gomod: go.opentelemetry.io/collector/receiver/otlpreceiver v{COLLECTOR}
processors:
  - gomod: go.opentelemetry.io/collector/processor/batchprocessor v{COLLECTOR}
exporters:
  - gomod: go.opentelemetry.io/collector/exporter/debugexporter v{COLLECTOR}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """One program and how it is made: `build(program, workspace)` leaves it at `workspace/name`."""

    name: str
    version: str
    build: Callable[[Program, Path], None]
    package: str = ""

    @property
    def path(self) -> Path:
        return cache_folder() / f"{self.name}-{self.version}" / self.name


def ensure(*names: str, say: Callable[[str], None] = print) -> dict[str, Path]:
    """Where each of these programs is, after building those that are missing."""
    programs = [PROGRAMS[name] for name in names]
    for program in programs:
        while not program.path.exists():
            with _turn() as ours:
                if ours:
                    _build(program, say)
                else:
                    time.sleep(POLL_S)  # somebody else builds; it may be this very program
    return {program.name: program.path for program in programs}


def kubectl() -> Path:
    """The machine's own kubectl, or one of ours."""
    installed = shutil.which("kubectl")
    return Path(installed) if installed else ensure("kubectl")["kubectl"]


def _build(program: Program, say: Callable[[str], None]) -> None:
    if program.path.exists():  # somebody else built it, a moment ago
        return
    _check_go()
    for abandoned in cache_folder().glob("building-*/"):
        shutil.rmtree(abandoned)
    say(f"building {program.name} {program.version}; only this once, but it may take minutes")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="building-") as folder:
        workspace = Path(folder) / "workspace"
        workspace.mkdir()
        program.build(program, workspace)
        finished = Path(folder) / "finished"
        finished.mkdir()
        shutil.move(workspace / program.name, finished / program.name)
        finished.rename(program.path.parent)
    say(f"built {program.name} in {time.monotonic() - began:.0f} s")


@contextmanager
def _turn() -> Iterator[bool]:
    """Whether we may build: one at a time, as two would only halve each other's processors."""
    with (cache_folder() / "building.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _check_go() -> None:
    needed = ".".join(map(str, GO_MINIMUM))
    try:
        found = run("go", "env", "GOVERSION").strip()
    except (TestbedError, CommandFailed) as error:
        raise TestbedError(
            f"The testbed builds Kubernetes with Go >= {needed}, and `go` is not on PATH. "
            "Install it from https://go.dev/dl, or set ROWLOCK_TEST_KUBECONFIG to use a cluster "
            "of yours."
        ) from error
    numbers = re.match(r"go(\d+)\.(\d+)", found)
    if numbers and (int(numbers[1]), int(numbers[2])) < GO_MINIMUM:
        raise TestbedError(f"The testbed needs Go >= {needed}; this is {found}.")


# -- recipes -------------------------------------------------------------------------


def _go(workspace: Path, *arguments: str | Path) -> str:
    return run("go", *arguments, cwd=workspace, env=GO_SETTINGS, timeout_s=BUILD_TIMEOUT_S)


def _compile(program: Program, workspace: Path, *, stamps: str = "") -> None:
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"{STRIPPED} {stamps}"]
    _go(workspace, "build", *flags, "-o", workspace / program.name, program.package)


def _from_module(program: Program, workspace: Path) -> None:
    """A program whose module can be built as it was published."""
    (workspace / "go.mod").write_text("module rowlock.dev/testbed\n\ngo 1.26.0\n")
    _go(workspace, "get", "-tool", f"{program.package}@v{program.version}")
    _compile(program, workspace)


def _from_kubernetes(program: Program, workspace: Path) -> None:
    """A program of Kubernetes.

    Its go.mod points at folders inside its repository (k8s.io/api => ./staging/…), which the
    published module does not carry. The same code is published as k8s.io/api v0.X.Y: a module of
    our own sends each one there.
    """
    module = f"k8s.io/kubernetes@v{program.version}"
    downloaded = json.loads(_go(workspace, "mod", "download", "-json", module))
    staged = re.findall(r"^\s*(k8s\.io/[a-z0-9-]+) => \./staging", _read(downloaded["GoMod"]), re.M)
    _, minor, patch = program.version.split(".")
    lines = ["module rowlock.dev/testbed", "go 1.26.0", f"require {module.replace('@', ' ')}"]
    lines += [f"replace {name} => {name} v0.{minor}.{patch}" for name in sorted(set(staged))]
    (workspace / "go.mod").write_text("\n".join(lines) + "\n")
    _go(workspace, "get", "-tool", f"{program.package}@v{program.version}")
    stamp = "-X k8s.io/component-base/version.git"
    stamps = f"{stamp}Version=v{program.version} {stamp}Major=1 {stamp}Minor={minor}"
    _compile(program, workspace, stamps=stamps)


def _pause(program: Program, workspace: Path) -> None:
    (workspace / "go.mod").write_text("module rowlock.dev/pause\n\ngo 1.26.0\n")
    shutil.copy(Path(__file__).with_name("pause.go"), workspace)
    _compile(program, workspace)


def _collector(program: Program, workspace: Path) -> None:
    """OpenTelemetry's collector with just what a test reads back: OTLP in, a detailed log out."""
    builder = PROGRAMS["collector-builder"]
    builder.build(builder, workspace)
    (workspace / "manifest.yaml").write_text(COLLECTOR_MANIFEST)
    run(
        workspace / builder.name,
        "--config=manifest.yaml",
        cwd=workspace,
        env=GO_SETTINGS,
        timeout_s=BUILD_TIMEOUT_S,
    )
    shutil.move(workspace / "built" / "otelcol", workspace / program.name)


def _read(path: str) -> str:
    return Path(path).read_text()


def _kubernetes(name: str) -> Program:
    return Program(name, KUBERNETES, _from_kubernetes, f"k8s.io/kubernetes/cmd/{name}")


PROGRAMS = {
    program.name: program
    for program in (
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        _kubernetes("kubectl"),
        Program("etcd", "3.7.3", _from_module, "go.etcd.io/etcd/server/v3"),
        Program("coredns", "1.15.0", _from_module, "github.com/coredns/coredns"),
        Program("helm", "4.3.1", _from_module, "helm.sh/helm/v4/cmd/helm"),
        Program("pause", "1", _pause, "."),
        Program("otelcol", COLLECTOR, _collector),
        Program(
            "collector-builder",
            COLLECTOR,
            _from_module,
            "go.opentelemetry.io/collector/cmd/builder",
        ),
    )
}

# What a cluster runs, in the order in which building fails soonest.
CLUSTER = (
    "pause",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
)
