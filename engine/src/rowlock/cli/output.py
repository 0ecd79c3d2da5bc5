"""What people read (tables) and what scripts read (JSON).

Values come from whoever starts runs: control characters are shown, never sent to the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

STATUS_STYLES = {
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "dead": "red",
    "blocked": "yellow",
    "cancelled": "dim",
}
PIPED_WIDTH = 10_000
"""A file or pipe has no width: nothing may be cut off there."""

_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/]+(?=@)|(\bpassword\s*=\s*)('[^']*'|\S+)")


def without_passwords(text: str) -> str:
    """The text with the passwords of connection strings blotted out."""
    return _PASSWORD.sub(lambda found: f"{found[1] or found[2]}***", text)


def printable(text: str) -> str:
    """The text with control characters spelt out, so that none reaches the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def one_line(text: str, most: int) -> str:
    """The text on one line, cut to ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def complain(message: str) -> None:
    """Say what is wrong, on standard error."""
    click.echo(printable(without_passwords(message.rstrip("\n"))), err=True)


def print_json(value: Any) -> None:
    """One JSON document, indented; times in ISO 8601, UTC."""
    click.echo(json_text(_plain(value)))


def json_text(value: Any, *, indent: int = 2) -> str:
    """A value as JSON. A character that could steer a terminal is escaped, as any may be."""
    encoded = msgspec.json.encode(value, enc_hook=str)
    text = msgspec.json.format(encoded, indent=indent).decode()
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """As JSON may write any character; above U+FFFF as two."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def table_of(
    headings: Sequence[str], rows: Iterable[Sequence[str | Text]], numbers: Container[str] = ()
) -> Table:
    """A table with a line of headings. The first column is never cut; ``numbers`` stand right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        overflow: Literal["fold", "ellipsis"] = "fold" if number == 0 else "ellipsis"
        justify: Literal["left", "right"] = "right" if heading in numbers else "left"
        table.add_column(heading, no_wrap=True, overflow=overflow, justify=justify)
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print such a table."""
    console().print(table_of(headings, rows))


Segments = Sequence[tuple[str, str]]
"""A line in parts, each with its style."""


def print_lines(lines: Iterable[Segments]) -> None:
    """Lines as they are; a long one goes on in the next."""
    screen = console()
    for line in lines:
        parts = [(printable(text), style) for text, style in line]
        screen.print(Text.assemble(*parts), soft_wrap=True)


def print_facts(facts: Mapping[str, str | Text]) -> None:
    """A name and a value a line."""
    screen = console()
    width = max(map(len, facts))
    for name, value in facts.items():
        label = Text(f"{name:<{width}}  ", style="bold")
        screen.print(label.append_text(_cell(value)), soft_wrap=True)


def print_block(heading: str, text: str) -> None:
    """A heading and lines of text below it, such as a traceback."""
    screen = console()
    screen.print(Text(f"\n{heading}", style="bold"))
    screen.print(Text(printable(text.rstrip())), soft_wrap=True)


def status_text(status: str) -> Text:
    return Text(status, style=STATUS_STYLES.get(status, ""))


def local_time(moment: datetime | None) -> str:
    """The time of this machine's zone, to the second; "" for none."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def span(duration: timedelta) -> str:
    """How long, in the two units that matter at most: 0.4s, 12s, 3m05s, 7h12m, 4d03h."""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    whole = int(seconds)
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{smaller}"
    return f"{whole // 60}m{whole % 60:02}s"


def console() -> Console:
    """Of standard output. Made when needed, for the standard output of that moment."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(markup=False, highlight=False, emoji=False, width=width)


def _cell(value: str | Text) -> Text:
    if isinstance(value, Text):
        return Text(printable(value.plain), style=value.style)
    return Text(printable(value))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
