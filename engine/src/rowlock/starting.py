"""How a run is started: its options, and what they are in SQL.

Reads: store's START.  Writes: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

from rowlock.errors import ConfigurationError
from rowlock.model.commands import seconds_of
from rowlock.model.values import Shape
from rowlock.store.statements import START
from rowlock.telemetry import propagation

ATTRIBUTES = Shape(dict[str, Any], "attributes")

Style = Literal["pyformat", "named", "numeric"]

_PARAMETER = re.compile(r"%\((\w+)\)s")
_CAST = re.compile(r"%\((\w+)\)s::(\w+(?:\[\])?)")


class StartOptions(TypedDict, total=False):
    """How a run is started.

    ``queue``: where it waits; its workflow's own by default. ``priority``: 0 first to 100 last, 50
    by default. ``delay``: seconds or timedelta before it is due, or ``start_at``: when (aware).
    ``deadline``: seconds or timedelta, from when it is due, within which it must end; else it fails
    with DeadlineExceeded. ``attributes``: JSON to search runs by.
    """

    queue: str | None
    priority: int | None
    delay: timedelta | float | None
    start_at: datetime | None
    deadline: timedelta | float | None
    attributes: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Sql:
    """A statement and its parameters, for a driver that Rowlock does not know.

    The result is one row with one column, the run's id.
    """

    text: str
    parameters: Any
    """A dict by name, or of style ``numeric`` a list."""


def start_parameters(
    workflow: str,
    input: str,  # noqa: A002
    *,
    app: str | None,
    key: str | None = None,
    queue: str | None = None,
    priority: int | None = None,
    delay: timedelta | float | None = None,
    start_at: datetime | None = None,
    deadline: timedelta | float | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of START. Raises ConfigurationError, InvalidValue."""
    return {
        "workflow": workflow,
        "input": input,
        "key": key,
        "queue": queue,
        "app": app,
        "priority": priority,
        "delay": None if delay is None else seconds_of(delay),
        "start_at": None if start_at is None else aware(start_at, "start_at"),
        "deadline": None if deadline is None else seconds_of(deadline),
        "attributes": None if attributes is None else ATTRIBUTES.store(dict(attributes)),
        "trace_context": propagation.outgoing(),
    }


def aware(moment: datetime, what: str) -> datetime:
    """The same. Raises ConfigurationError when it is not known which moment that is."""
    if moment.utcoffset() is None:
        raise ConfigurationError(
            f"{what} is {moment.isoformat()}, which has no time zone: which moment is that? "
            "Give an aware datetime, such as datetime.now(UTC) + …"
        )
    return moment


def start_sql(parameters: Mapping[str, Any], style: Style) -> Sql:
    """START in the style of a driver (PEP 249's names): ``%(name)s``, ``:name`` or ``$1``."""
    return styled(START.sql, parameters, style)


def styled(sql: str, parameters: Mapping[str, Any], style: Style) -> Sql:
    """A statement with ``%(name)s`` in another style."""
    if style == "pyformat":
        return Sql(sql, dict(parameters))
    if style == "named":
        # `:name::type` is read as a name that ends earlier by those who look for colons.
        cast = _CAST.sub(r"cast(:\1 as \2)", sql)
        return Sql(_PARAMETER.sub(r":\1", cast), dict(parameters))
    if style != "numeric":
        raise ConfigurationError(f"style is {style!r}, but must be pyformat, named or numeric")
    names = list(dict.fromkeys(_PARAMETER.findall(sql)))
    text = _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", sql)
    return Sql(text, [parameters[name] for name in names])
