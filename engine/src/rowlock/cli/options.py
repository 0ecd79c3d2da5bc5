"""Options and kinds of values that several commands share."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from rowlock.cli.names import complete
from rowlock.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_MOST_S = 100 * 365 * 86400


def duration(text: str) -> timedelta:
    """``30s``, ``5m``, ``1h30m``, ``2d``; a bare number is seconds."""
    written = f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    parts = _PART.findall(written)
    if not parts or "".join(number + unit for number, unit in parts) != written:
        raise click.BadParameter(f"{text!r} is not a duration: write 30s, 5m, 1h30m or 2d.")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds > _MOST_S:
        raise click.BadParameter(f"{text!r} is more than a hundred years.")
    return timedelta(seconds=seconds)


class Number(click.FloatRange):
    """A number within a range; what is not a number is in none, though click lets it pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if math.isnan(found):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return found


def moment(text: str) -> datetime:
    """``now``, a duration from now, or a time."""
    if text == "now":
        return datetime.now(UTC)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now(UTC) + duration(text)
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is no time: write now, 10m, 2026-12-24T08:00 or 2026-12-24T08:00Z."
        ) from None


def past_moment(text: str) -> datetime:
    """``now``, a duration ago, or a time."""
    if text == "now":
        return datetime.now(UTC)
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return datetime.now(UTC) - duration(text)
    except click.BadParameter:
        raise click.BadParameter(
            f"{text!r} is no time: write 1h (ago), 2026-12-24, 2026-12-24T08:00 or "
            "2026-12-24T08:00Z."
        ) from None


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, as text."""
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise click.BadParameter(f"not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise click.BadParameter("this must be a JSON object, such as '{\"id\": 7}'.")
    return found


def json_value(text: str) -> Any:
    """Any JSON; @FILE, or - for standard input."""
    try:
        return msgspec.json.decode(_text(text, "JSON"))
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise click.BadParameter(
            f"this is not JSON: {text!r}. Text needs quotes of its own: '\"text\"'.",
            param_hint="JSON",
        ) from None


def named_json(text: str, option: str, form: str) -> tuple[str, Any]:
    """``NAME=JSON``, as an option takes it."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.BadParameter(f"{text!r} is not {form}.", param_hint=option)
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise click.BadParameter(
            f"the value of {name} is not JSON: {value!r}. Text needs quotes of its own: "
            f"{option} '{name}=\"text\"'.",
            param_hint=option,
        ) from None


def input_options(command: Command) -> Command:
    """--input and --arg, for :func:`arguments`."""
    whole = click.option(
        "--input",
        "input_",
        metavar="JSON",
        help="The arguments as a JSON object; @FILE, or - (stdin).",
    )
    single = click.option(
        "--arg", "args", metavar="NAME=JSON", multiple=True, help="One argument; repeatable."
    )
    return whole(single(command))


def arguments(text: str | None, args: Sequence[str]) -> dict[str, Any]:
    """The workflow's arguments by name, from --input and, above it, each --arg."""
    found = {} if text is None else json_object(_text(text, "--input"))
    return found | dict(named_json(arg, "--arg", "NAME=JSON") for arg in args)


def _text(given: str, hint: str) -> str:
    """What was given, or what the file or standard input it names holds."""
    if given == "-":
        return sys.stdin.read()
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error), param_hint=hint) from None


def app_option(command: Command) -> Command:
    return click.option(
        "--app",
        metavar="NAME",
        shell_complete=complete("app"),
        help="The app's name, if there are several.",
    )(command)


def database_options(command: Command) -> Command:
    """Which database; the environment is the better place, as `ps` shows command lines."""
    return click.option(
        "--database-url",
        metavar="URL",
        help="The database; ROWLOCK_DATABASE_URL by default, which `ps` does not show.",
    )(command)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, for scripts.")(command)


def log_options(command: Command) -> Command:
    """How a worker logs, always to standard error."""
    style = click.option(
        "--log-format",
        type=click.Choice(["auto", "text", "json"]),
        default="auto",
        show_default=True,
        help="auto: text on a terminal, else JSON.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        default="info",
        show_default=True,
        help="The least that is logged.",
    )
    return style(level(command))


def settings_of(database_url: str | None) -> Settings:
    """The environment's settings, with the URL of the command line if there is one."""
    settings = Settings.from_environment()
    if database_url:
        settings = settings.with_(database_url=database_url)
    settings.require_database_url()
    return settings
