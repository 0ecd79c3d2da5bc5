"""Find the place inside a value that keeps it from being stored.

Only runs once something is known, or suspected, to be wrong: an error that says
``lines[3].price`` is worth a walk in Python, an ordinary step is not.

Reads: any value.  Writes: nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import msgspec

from rowlock.model.secret import Secret

_MSGSPEC_PLACE = re.compile(r" - at (`key` in )?`\$?([^`]*)`$")


def join(outer: str, inner: str) -> str:
    """Put a path behind another: ``join("order", "[3].price")`` is ``order[3].price``."""
    if not outer:
        return inner.removeprefix(".")
    if not inner or inner.startswith((".", "[")):
        return outer + inner
    return f"{outer}.{inner}"


def split_msgspec_error(error: BaseException) -> tuple[str, str]:
    """Return (path, why) of a msgspec error, whose text ends in `` - at `$.lines[3].price` ``.

    msgspec knows the index in a list but not the key in a dict: that part reads ``[...]``.
    """
    message = str(error)
    found = _MSGSPEC_PLACE.search(message)
    why = message[: found.start()] if found else message
    why = why[:1].lower() + why[1:]
    if found is None:
        return "", why
    return found[2].removeprefix("."), f"a key: {why}" if found[1] else why


def locate(value: Any, is_faulty: Callable[[Any], bool]) -> tuple[str, Any]:
    """Return the path and the innermost part of ``value`` that ``is_faulty`` on its own.

    Goes down as long as a part is at fault by itself; so a bad dict key ends at its dict.
    """
    path = ""
    while True:
        for step, child in parts(value):
            if is_faulty(child):
                path, value = path + step, child
                break
        else:
            return path.removeprefix("."), value


def losses(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, why) for what JSON would silently lose, from the outside in.

    That is NaN and infinities, which msgspec writes as ``null``, and dict keys that become the
    same text, of which ``jsonb`` keeps the last.
    """
    waiting = deque([("", value)])  # no recursion: what could be encoded may still be deep
    while waiting:
        path, part = waiting.popleft()
        if isinstance(part, float):
            if not math.isfinite(part):
                yield path.removeprefix("."), f"JSON has no number for {float(part)!r}."
            continue
        if isinstance(part, Secret):
            if next(losses(part.reveal()), None):
                why = "the value of the Secret holds NaN, infinity, or keys that become the same."
                yield path.removeprefix("."), why
            continue
        if isinstance(part, dict):
            for one, other in _colliding_keys(part):
                why = f"the keys {one!r} and {other!r} are the same text in JSON."
                yield path.removeprefix("."), why
        waiting.extend((path + step, child) for step, child in parts(part))


def holders(value: Any, is_one: Callable[[Any], bool]) -> Iterator[str]:
    """Yield the paths of the parts that ``is_one``, from the outside in; not of what is in them."""
    waiting = deque([("", value)])
    while waiting:
        path, part = waiting.popleft()
        if is_one(part):
            yield path.removeprefix(".")
        else:
            waiting.extend((path + step, child) for step, child in parts(part))


def _colliding_keys(value: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    seen: dict[str, Any] = {}
    for key in value:
        text = _key_text(key)
        if text in seen:
            yield seen[text], key
        seen[text] = key


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (path step, part) for each part that JSON writes of a value."""
    if isinstance(value, dict):
        for key, child in value.items():
            text = _key_text(key)
            yield (f".{text}" if text.isidentifier() else f"[{text!r}]"), child
    elif isinstance(value, (tuple, list, set, frozenset)):
        names = getattr(value, "_fields", None)
        if isinstance(value, tuple) and names:
            yield from zip((f".{name}" for name in names), value, strict=True)
        else:
            yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif not isinstance(value, type):
        for name in _field_names(value):
            if hasattr(value, name):
                yield f".{name}", getattr(value, name)


def _field_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    if hasattr(value, "__attrs_attrs__"):
        return tuple(field.name for field in value.__attrs_attrs__)
    if hasattr(value, "model_dump"):
        return tuple(vars(value))
    return ()


def _key_text(key: Any) -> str:
    """A dict key as msgspec writes it, near enough to compare and to show."""
    if isinstance(key, Enum):
        key = key.value
    return key if isinstance(key, str) else str(key)
