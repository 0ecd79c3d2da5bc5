"""How a run is started: its options, and what they are in SQL.

Reads: store's START.  Writes: nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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


OnDuplicate = Literal["existing", "reject", "replace"]


@dataclass(frozen=True, slots=True)
class Dedup:
    """A key that a run has while it is unfinished, unique within its workflow.

    ``policy``: what a start becomes while another has the key: ``existing`` gives that run back,
    ``reject`` raises Refused (RLS06), ``replace`` cancels that run and starts a new one.
    """

    key: str
    policy: OnDuplicate = "existing"


@dataclass(frozen=True, slots=True)
class Debounce:
    """A key by which starts are put off until there are no more: the last input counts.

    A start of the workflow with the same key before the run is due gives that run back, with the
    new input, attributes and deadline. ``quiet``: seconds or timedelta after the last such start
    at which it is due; ``most``: after the first one at which it is due at the latest.
    """

    key: str
    quiet: timedelta | float
    most: timedelta | float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A key by which starts are gathered in one run, which gets a list of all they gave.

    One argument of the workflow is a list; a start with the same key before the run is due, or its
    list ``size`` (1 to 10,000) long, gives that run back and adds its list to the run's. All other
    arguments must be the same. ``wait``: seconds or timedelta after which it is due at the latest.
    """

    key: str
    size: int = 100
    wait: timedelta | float = 5.0


class StartOptions(TypedDict, total=False):
    """How a run is started.

    ``queue``: where it waits; its workflow's own by default. ``partition``: which part of a queue
    with partitions. ``priority``: 0 first to 100 last, 50 by default. ``delay``: seconds or
    timedelta before it is due, or ``start_at``: when (aware). ``start_before``: when it is too late
    to begin (aware), ``deadline``: seconds or timedelta, from when it is due, within which it must
    end; else it fails with DeadlineExceeded. ``attributes``: JSON to search runs by. ``dedup``: a
    key while it is unfinished, ``debounce`` and ``batch``: one until it is due: see Dedup, Debounce
    and Batch.
    """

    queue: str | None
    partition: str | None
    priority: int | None
    delay: timedelta | float | None
    start_at: datetime | None
    start_before: datetime | None
    deadline: timedelta | float | None
    attributes: Mapping[str, Any] | None
    dedup: Dedup | str | None
    debounce: Debounce | None
    batch: Batch | None


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
    partition: str | None = None,
    priority: int | None = None,
    delay: timedelta | float | None = None,
    start_at: datetime | None = None,
    start_before: datetime | None = None,
    deadline: timedelta | float | None = None,
    attributes: Mapping[str, Any] | None = None,
    dedup: Dedup | str | None = None,
    debounce: Debounce | None = None,
    batch: Batch | None = None,
) -> dict[str, Any]:
    """The parameters of START. Raises ConfigurationError, InvalidValue."""
    if isinstance(dedup, str):
        dedup = Dedup(dedup)
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
        "partition": partition,
        "start_before": None if start_before is None else aware(start_before, "start_before"),
        "dedup": None if dedup is None else dedup.key,
        "on_duplicate": None if dedup is None else dedup.policy,
        "debounce": None if debounce is None else debounce.key,
        "quiet": None if debounce is None else seconds_of(debounce.quiet),
        "most": None if debounce is None or debounce.most is None else seconds_of(debounce.most),
        "batch": None if batch is None else batch.key,
        "size": None if batch is None else batch.size,
        "wait": None if batch is None else seconds_of(batch.wait),
    }


def refuse_unknown(what: str, given: Iterable[str], options: type) -> None:
    """Raises TypeError, as Python does for a keyword that nobody takes, in the caller's words."""
    known = options.__annotations__
    for name in given:
        if name not in known:
            raise TypeError(f"{what} takes no {name!r}; its options are {', '.join(known)}")


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
