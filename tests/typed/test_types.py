"""Types hold from the workflow's function to the run's result, for mypy and for pyright, strict.

What is right passes: files in right/ and the examples. What is wrong is
found: each line of wrong/ that ends with ``# error: …`` (mypy's names of the error), and no other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WRONG = sorted((HERE / "wrong").glob("*.py"))
Found = dict[Path, dict[int, set[str]]]
"""Names of errors by file and line."""


def marked() -> Found:
    found: Found = {}
    for path in WRONG:
        lines = enumerate(path.read_text().splitlines(), 1)
        marks = ((number, re.search(r"# error: (.+)$", line)) for number, line in lines)
        found[path] = {number: set(mark[1].split()) for number, mark in marks if mark}
    return found


@pytest.fixture(scope="module")
def mypy_says() -> Found:
    # The rest of the project is `make lint`'s.
    paths = [HERE / "right", *WRONG, ROOT / "examples", ROOT / "deploy/examples/shop"]
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--no-error-summary", *paths]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    found: Found = defaultdict(lambda: defaultdict(set))
    for line in ran.stdout.splitlines():
        if error := re.match(r"(.+?):(\d+): error: .*\[([\w-]+)\]$", line):
            found[ROOT / error[1]][int(error[2])].add(error[3])
        else:
            assert ": note: " in line, line
    return found


@pytest.fixture(scope="module")
def pyright_says() -> Found:
    command: list[str | Path] = [Path(sys.executable).with_name("pyright"), "--outputjson"]
    command += ["-p", ROOT, "--pythonpath", sys.executable]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 1), ran.stdout + ran.stderr
    said = json.loads(ran.stdout)
    assert said["summary"]["filesAnalyzed"] > 10
    found: Found = defaultdict(lambda: defaultdict(set))
    for one in said["generalDiagnostics"]:
        line = one["range"]["start"]["line"] + 1
        found[Path(one["file"])][line].add(f"{one.get('rule')}: {one['message']}")
    return found


def test_mypy_passes_what_is_right_and_finds_what_is_wrong(mypy_says: Found) -> None:
    for path, lines in marked().items():
        assert mypy_says.pop(path, {}) == lines
    assert mypy_says == {}


def test_pyright_passes_what_is_right_and_finds_what_is_wrong(pyright_says: Found) -> None:
    for path, lines in marked().items():
        assert sorted(pyright_says.pop(path, {})) == sorted(lines)
    assert pyright_says == {}


def test_the_package_says_that_it_is_typed() -> None:
    for package in ("engine/src/rowlock", "operator/src/rowlock_operator"):
        assert (ROOT / package / "py.typed").exists()
