"""MODULE:APP and files lead to the App, or to a message that says why not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rowlock.cli import loading
from rowlock.errors import ConfigurationError

ONE = "from rowlock import App\nbakery = App('bakery')\nalso = bakery\n"
TWO = ONE + "mill = App('mill')\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder; what a test imports is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "target",
    [
        "kitchen.ovens",
        "kitchen.ovens:bakery",
        "kitchen/ovens.py",
        "./kitchen/ovens.py",
        "kitchen/ovens.py:also",
    ],
)
def test_all_forms_lead_to_the_app(folder: Path, target: str) -> None:
    write(folder / "kitchen" / "ovens.py", ONE)
    write(folder / "kitchen" / "__init__.py", "")
    assert loading.load(target).name == "bakery"
    assert "kitchen.ovens" in sys.modules


def test_a_file_in_a_package_may_use_relative_imports(folder: Path) -> None:
    write(folder / "src" / "bread" / "__init__.py", "")
    write(folder / "src" / "bread" / "ovens.py", ONE)
    write(folder / "src" / "bread" / "main.py", "from .ovens import bakery\n")
    assert loading.load("src/bread/main.py").name == "bakery"


def test_two_apps_need_a_name(folder: Path) -> None:
    write(folder / "ovens.py", TWO)
    with pytest.raises(ConfigurationError, match=r"several apps: also, mill.*ovens\.py:also"):
        loading.load("ovens.py")
    assert loading.load("ovens.py:mill").name == "mill"


@pytest.mark.parametrize(
    ("target", "text", "said"),
    [
        ("nosuch:app", ONE, "there is no module nosuch"),
        ("ovens.nosuch:app", ONE, r"there is no module ovens\.nosuch"),
        ("nosuch.py", ONE, r"there is no file nosuch\.py"),
        ("ovens:", ONE, "names no app"),
        ("", ONE, "names no app"),
        ("ovens:nosuch", ONE, "has no nosuch. Its apps: also, bakery"),
        ("ovens:App", ONE, "App in module ovens .* is a type"),
        ("ovens", "x = 1\n", "holds no App"),
        ("ovens", "import nosuch\n", "(?s)importing ovens failed:.*ovens.py., line 1.*'nosuch'"),
        ("ovens", "x = (\n", "(?s)importing ovens failed:.*line 1.*SyntaxError"),
        ("ovens", "raise SystemExit(3)\n", "(?s)importing ovens failed:.*SystemExit: 3"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, target: str, text: str, said: str) -> None:
    write(folder / "ovens.py", text)
    with pytest.raises(ConfigurationError, match=said):
        loading.load(target)


def test_a_file_that_another_module_hides_is_refused(folder: Path) -> None:
    write(folder / "json.py", ONE)
    with pytest.raises(ConfigurationError, match="another module of the name json"):
        loading.load("json.py")
