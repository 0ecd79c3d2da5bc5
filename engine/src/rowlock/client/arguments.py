"""What callers give, checked before anything is sent.

PostgreSQL would refuse most of it too, but in words that tell nobody anything ("function
rowlock.start(…, smallint, …) does not exist"), and at the price of the caller's own transaction.

An argument is of one kind wherever it occurs, so the table goes by names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, get_args
from uuid import UUID

from rowlock.errors import InvalidValue
from rowlock.starting import Batch, Debounce, Dedup, OnDuplicate

MOST_SECONDS = 3.1e10
"""Some 980 years: the database takes up to a thousand, of 360 days each."""
MOST_INTEGER = 2**31 - 1


def check(**given: Any) -> None:
    """Raises InvalidValue for what can't be meant. None is nothing, and fine."""
    if wrong := wrong_one(given):
        raise InvalidValue(wrong[0], "", wrong[1], "Nothing was sent.")


def wrong_one(given: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first that can't be meant: its name, and why."""
    for name, value in given.items():
        if value is not None and (look := CHECKS.get(name)) and (why := look(value)):
            return name, why
    return None


def run_id_of(given: UUID | str) -> UUID:
    """The id of a run, however it was given. Raises InvalidValue."""
    why = _no_id(given)
    if why:
        raise InvalidValue("the run's id", "", why)
    return UUID(str(given))


def _no_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return _other(value, "a str")
    if "\0" in value:
        return "the text holds a NUL character, which PostgreSQL can't keep."
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the text is not Unicode: a part of it could not be decoded."
    return None


def _no_key(value: Any) -> str | None:
    if value == "":
        return "it is empty. Leave it out where there is none."
    return _no_text(value)


def _no_integer(value: Any) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return _other(value, "an int")
    return None if abs(value) <= MOST_INTEGER else f"{value} is out of range."


def _no_flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else _other(value, "a bool")


def _no_id(value: Any) -> str | None:
    try:
        UUID(str(value))
    except ValueError:
        return _other(value, "a UUID")
    return None


def _no_duration(value: Any) -> str | None:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return _other(value, "seconds or a timedelta")
    if math.isnan(seconds) or abs(seconds) > MOST_SECONDS:
        return f"{value} is no time that can be waited for."
    return None


def _no_delay(value: Any) -> str | None:
    if why := _no_duration(value):
        return why
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return None if seconds >= 0 else f"it is {seconds:.15g} s, but can't be negative."


def _no_moment(value: Any) -> str | None:
    return None if isinstance(value, datetime) else _other(value, "a datetime")


def _no_dedup(value: Any) -> str | None:
    if not isinstance(value, Dedup):
        return _no_key(value) if isinstance(value, str) else _other(value, "a str or a Dedup")
    if value.policy not in get_args(OnDuplicate):
        return f"its policy is {value.policy!r}, but must be {', '.join(get_args(OnDuplicate))}."
    return _no_key(value.key)


def _no_debounce(value: Any) -> str | None:
    if not isinstance(value, Debounce):
        return _other(value, "a Debounce")
    most = None if value.most is None else _no_duration(value.most)
    return _no_key(value.key) or _no_duration(value.quiet) or most


def _no_batch(value: Any) -> str | None:
    if not isinstance(value, Batch):
        return _other(value, "a Batch")
    return _no_key(value.key) or _no_integer(value.size) or _no_duration(value.wait)


def _no_when(value: Any) -> str | None:
    if isinstance(value, str):
        return _no_text(value)
    return None if isinstance(value, timedelta) else _other(value, "a cron expression or timedelta")


def _no_object(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else _other(value, "a mapping, such as a dict")


def _other(value: Any, wanted: str) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:59]}…"
    return f"it is {short}, but must be {wanted}."


CHECKS: dict[str, Callable[[Any], str | None]] = {
    **dict.fromkeys(
        (
            "app",
            "workflow",
            "queue",
            "key",
            "topic",
            "name",
            "stream",
            "place",
            "reason",
            "version",
            "timezone",
            "overlap",
            "catch_up",
            "tick",
        ),
        _no_text,
    ),
    **dict.fromkeys(("priority", "limit", "worker"), _no_integer),
    **dict.fromkeys(("force", "children"), _no_flag),
    **dict.fromkeys(("parent", "before"), _no_id),
    **dict.fromkeys(("deadline", "grace", "jitter", "window"), _no_duration),
    **dict.fromkeys(
        (
            "start_at",
            "start_before",
            "at",
            "created_after",
            "created_before",
            "since",
            "until",
            "start",
            "end",
        ),
        _no_moment,
    ),
    **dict.fromkeys(("attributes", "outcomes", "args"), _no_object),
    "partition": _no_key,
    "delay": _no_delay,
    "dedup": _no_dedup,
    "debounce": _no_debounce,
    "batch": _no_batch,
    "when": _no_when,
}
