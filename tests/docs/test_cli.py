"""Every example of a command is one that the command takes, wherever it stands."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rowlock import Settings
from rowlock.cli.main import COMMANDS, rowlock
from rowlock.doctor import examine

DOCS = Path(__file__).parents[2] / "docs"
ROOT = DOCS.parent
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


def command(*names: str) -> click.Command:
    """A command, or one of a group."""
    found: click.Command = rowlock
    for name in names:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), name)
        assert inner is not None, f"there is no command {' '.join(names)}"
        found = inner
    return found


def all_commands() -> Iterator[tuple[str, ...]]:
    for name in COMMANDS:
        yield (name,)
        found = command(name)
        if isinstance(found, click.Group):
            yield from ((name, inner) for inner in found.list_commands(click.Context(found)))


def words_of(line: str) -> list[str]:
    """What is said to rowlock, up to a pipe, a redirection or another command."""
    words = []
    for word in shlex.split(line, comments=True):
        if word in ("|", ">", "&&"):
            break
        words.append(word)
    return words[1:]


def parsed(line: str) -> tuple[str, ...]:
    """Whose example this is; raises UsageError where the command would."""
    words = words_of(line)
    names = []
    found: click.Command = rowlock
    while isinstance(found, click.Group):
        names.append(words.pop(0))
        found = command(*names)
    found.make_context(" ".join(names), words).close()
    return tuple(names)


def examples(text: str) -> list[str]:
    """Lines of a block that say something to rowlock, wherever that is installed."""
    lines = [line.strip().removeprefix(".venv/bin/") for line in text.splitlines()]
    return [line for line in lines if line.startswith("rowlock ")]


def in_pages() -> list[tuple[str, str]]:
    return [
        (page.name, line)
        for page in PAGES
        for block in _BLOCK.findall(page.read_text())
        for line in examples(block)
    ]


@pytest.mark.parametrize(("page", "line"), in_pages())
def test_the_examples_of_the_docs_are_taken(page: str, line: str) -> None:
    assert parsed(line)


@pytest.mark.parametrize("names", list(all_commands()), ids=" ".join)
def test_the_examples_of_a_command_are_its_own_and_are_taken(names: tuple[str, ...]) -> None:
    text = inspect.cleandoc(command(*names).help or "")
    _, _, rest = text.partition("Example:\n")
    found = examples(rest.partition("\n\n")[0])
    assert found, "its help has no example"
    assert all(parsed(line)[: len(names)] == names for line in found)


def test_every_command_has_an_example_on_its_page() -> None:
    shown = {parsed(line) for page, line in in_pages() if page == "cli.md"}
    leaves = {names for names in all_commands() if not isinstance(command(*names), click.Group)}
    assert leaves - shown == set()


def test_an_example_that_is_not_taken_would_be_found() -> None:
    for line in ("rowlock list --since soon", "rowlock lst", "rowlock show", "rowlock top --x"):
        with pytest.raises((click.UsageError, AssertionError)):
            parsed(line)


def test_every_check_of_the_doctor_is_told_of(database: str) -> None:
    page = (DOCS / "cli.md").read_text()
    told = re.findall(r"^\| `([a-z ]+)` \|", page, re.MULTILINE)
    assert told == [one.check for one in examine(Settings(database_url=database))]
