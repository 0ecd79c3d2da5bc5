"""The image's locks hold what pyproject.toml asks for, pinned and hashed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = ["crypto", "metrics", "otel", "operator"]
WANTED = {
    "requirements.txt": [
        *PROJECT["project"]["dependencies"],
        *(one for extra in EXTRAS for one in PROJECT["project"]["optional-dependencies"][extra]),
    ],
    "build-requirements.txt": PROJECT["build-system"]["requires"],
}
AGAIN = "run deploy/image/lock.sh"


def locked(file: str) -> dict[str, Version]:
    text = (ROOT / "deploy/image" / file).read_text()
    return {
        canonicalize_name(name): Version(version)
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
    }


@pytest.mark.parametrize("file", WANTED)
def test_the_lock_satisfies_the_project(file: str) -> None:
    versions = locked(file)
    for text in WANTED[file]:
        wanted = Requirement(text)
        found = versions.get(canonicalize_name(wanted.name))
        assert found is not None, f"{wanted.name} is not in {file}: {AGAIN}"
        assert wanted.specifier.contains(found), f"{file} has {wanted.name} {found}: {AGAIN}"
        for extra in wanted.extras:
            assert canonicalize_name(f"{wanted.name}-{extra}") in versions, f"{text}: {AGAIN}"


@pytest.mark.parametrize("file", WANTED)
def test_every_package_is_hashed_and_no_index_is_named(file: str) -> None:
    text = (ROOT / "deploy/image" / file).read_text()
    packages = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]

    assert len(packages) == len(locked(file))
    for package in packages:
        assert "--hash=sha256:" in package, package.splitlines()[0]
    assert "://" not in text
    assert "--index" not in text
