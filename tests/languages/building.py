"""Build the programs of examples/languages, once for each content.

A build ends in ``<cache>/<language>-<hash>``, by a rename, so that what is there is complete. Its
dependencies come by name from npm, the Go modules or Maven Central, pinned in each folder; the
language's own checks (tsc, go vet, javac -Xlint:all -Werror) are part of it. The tools keep what
they fetched in caches of their own.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed.command import run
from testbed.paths import cache_folder

EXAMPLES = Path(__file__).parents[2] / "examples" / "languages"
MADE_BY_BUILDS = {"node_modules", "dist", "target", "shop"}
BUILD_TIMEOUT_S = 600.0
KEPT_FOR_S = 7 * 24 * 3600.0
STRIPS_TYPES = (22, 18)
"""The first version of Node that runs TypeScript without being asked to."""


@dataclass(frozen=True, slots=True)
class Language:
    """What its program is built by and started with, in its folder."""

    name: str
    tools: tuple[str, ...]
    build: tuple[tuple[str, ...], ...]
    start: Callable[[], tuple[str, ...]]
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    @property
    def missing_tools(self) -> list[str]:
        return [tool for tool in self.tools if shutil.which(tool) is None]

    @property
    def sources(self) -> list[Path]:
        """Its files in the project, without what a build left there."""
        folder = EXAMPLES / self.name
        found = (path for path in folder.rglob("*") if path.is_file())
        return sorted(
            path for path in found if path.relative_to(folder).parts[0] not in MADE_BY_BUILDS
        )

    @property
    def hash(self) -> str:
        content = hashlib.sha256(repr((self.build, self.settings)).encode())
        for path in self.sources:
            content.update(f"{path.relative_to(EXAMPLES)}\0".encode() + path.read_bytes() + b"\0")
        return content.hexdigest()[:16]


def _node() -> tuple[str, ...]:
    """A Node that can strip types runs TypeScript as it is; tsc has checked it all the same."""
    version = re.match(r"v(\d+)\.(\d+)", run("node", "--version"))
    strips = version is not None and (int(version[1]), int(version[2])) >= STRIPS_TYPES
    return ("node", "main.ts" if strips else "dist/main.js")


LANGUAGES = (
    Language(
        "typescript",
        tools=("node", "npm"),
        build=(("npm", "ci"), ("npm", "run", "build")),
        start=_node,
    ),
    Language(
        "go",
        tools=("go",),
        build=(("go", "vet", "./..."), ("go", "build", "-o", "shop", ".")),
        start=lambda: ("./shop",),
        # As the testbed builds: so they share Go's cache of its standard library.
        settings={"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-trimpath -buildvcs=false"},
    ),
    Language(
        "java",
        tools=("java", "javac", "mvn"),
        build=(("mvn", "--quiet", "--batch-mode", "compile"),),
        start=lambda: (
            "java",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            "target/classes:target/dependency/*",
            "shop.Shop",
        ),
    ),
)


def built(language: Language) -> Path:
    """The folder with its program, ready to be started. Raises CommandFailed."""
    cache = cache_folder("languages")
    finished = cache / f"{language}-{language.hash}"
    with _turn(cache / f"{language}.lock"):
        if not finished.exists():
            _remove_old(cache, language)
            with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as folder:
                workspace = Path(folder) / "workspace"
                for source in language.sources:
                    copy = workspace / source.relative_to(EXAMPLES / language.name)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, copy)
                for command in language.build:
                    run(*command, cwd=workspace, env=language.settings, timeout_s=BUILD_TIMEOUT_S)
                workspace.rename(finished)
        finished.touch()  # it was used today
    return finished


@contextmanager
def _turn(lock_path: Path) -> Iterator[None]:
    """One at a time, in whatever process or checkout."""
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_old(cache: Path, language: Language) -> None:
    for build in cache.glob(f"{language}-*/"):
        if build.stat().st_mtime < time.time() - KEPT_FOR_S:
            shutil.rmtree(build)
