"""What is printed: no secrets, no control characters, times people can read."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta

import click
import pytest

from rowlock.cli.main import COMMANDS, Commands, rowlock
from rowlock.cli.options import duration
from rowlock.cli.output import json_text, printable, span, without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no postgresql://me:se:c@ret@host/x there", "no postgresql://me:***@host/x there"),
        ("host=h password=secret user=me", "host=h password=*** user=me"),
        ("password = 'se cret' user=me", "password = *** user=me"),
        ("postgresql://me@host:5432/x", "postgresql://me@host:5432/x"),
    ],
)
def test_passwords_are_blotted_out(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


def test_control_characters_are_spelt_out() -> None:
    assert printable("a\x1b[2J\n\tb\u202eé") == "a\\x1b[2J\n\tb\\u202eé"


def test_json_steers_no_terminal_and_says_the_same() -> None:
    value = {"é\x9b2J": ["\x1b[2J", "\x7f", "\u202e", "\U000e0001", "tea 🫖"]}
    text = json_text(value)
    assert printable(text) == text
    assert json.loads(text) == value
    assert "é" in text
    assert "🫖" in text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (12, "12s"),
        (185, "3m05s"),
        (25920, "7h12m"),
        (356400, "4d03h"),
    ],
)
def test_spans_have_two_units_at_most(seconds: float, shown: str) -> None:
    assert span(timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("1.5", 1.5), ("250ms", 0.25), ("1h30m", 5400), ("2d", 172800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "s", "5 m", "-1s", "1y", "1h-3m", "5000w 1", "99999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_summary_and_an_example(name: str) -> None:
    assert isinstance(rowlock, Commands)
    command = rowlock.get_command(click.Context(rowlock), name)
    assert command is not None
    assert command.name == name
    text = inspect.cleandoc(command.help or "")
    assert text.splitlines()[0] == COMMANDS[name].summary
    assert "Example:\n  rowlock " in text
