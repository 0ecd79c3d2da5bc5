"""The house rules that no linter knows."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "engine/src").rglob("*.py"), *(ROOT / "loadtest/src").rglob("*.py")]
SQL_FILES = sorted((ROOT / "engine/src/rowlock/store").rglob("*.sql"))
RIGHTS = (ROOT / "engine/src/rowlock/store/functions/zz_rights.sql").read_text()
PUBLIC_FUNCTIONS = set(re.findall(r"\('(\w+)', +'\{", RIGHTS))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SQL_FILES, ids=name)
def test_every_sql_file_says_what_it_does_and_why(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if not line.startswith("-- minimum")]
    name_of_file = (
        path.stem if path.parent.name == "migrations" else re.sub(r"^(\d{3}|zz)_", "", path.stem)
    )
    assert header[0].startswith(f"-- {name_of_file}") or f" {name_of_file}" in header[0]
    comments = [line for line in header[:12] if line.startswith("-- ")]
    assert len(" ".join(comments)) > 60


def test_every_sql_function_is_called_or_public() -> None:
    text = {path: path.read_text() for path in SQL_FILES}
    python = "\n".join(path.read_text() for path in SOURCES)
    for path, sql in text.items():
        for function in re.findall(r"create or replace function rowlock\.(\w+)", sql):
            called = f"rowlock.{function}("
            uses = sum(other.count(called) for other in text.values()) + python.count(called)
            definitions = sql.count(f"function {called}")
            assert uses > definitions or function in PUBLIC_FUNCTIONS, f"{function} in {path.name}"


def test_every_module_begins_with_its_job() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), name(path)


def test_every_module_is_imported_or_run() -> None:
    imported = "\n".join(path.read_text() for path in SOURCES)
    for path in SOURCES:
        if path.stem in ("__init__", "__main__", "main") or path.parent.name == "cli":
            continue  # commands are imported by name when they are used
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts[2:])
        parent, _, module = dotted.rpartition(".")
        found = (
            dotted in imported
            or re.search(rf"from {re.escape(parent)} import [^\n]*\b{module}\b", imported)
            or re.search(rf"from {re.escape(parent)} import \([^)]*\b{module}\b", imported)
        )
        assert found, f"nobody imports {dotted}"


def test_the_operator_folder_can_never_shadow_the_standard_library() -> None:
    assert list((ROOT / "operator").glob("*.py")) == []


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in phony[1].split():
        assert f"make {target} " in shown.stdout


def test_python_in_the_readme_compiles() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
