"""What limits a queue, as code declares it. Pure: the database counts (functions/limits.sql)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rowlock.errors import ConfigurationError
from rowlock.model.rates import LONGEST_S, Rate

MOST = 1_000_000


def limits_of(
    queue: str,
    *,
    concurrency: int | None = None,
    worker_concurrency: int | None = None,
    rate: Rate | str | None = None,
    partitions: bool | None = None,
    partition_concurrency: int | None = None,
    partition_rate: Rate | str | None = None,
    ageing: timedelta | None = None,
    weight: float | None = None,
) -> dict[str, Any]:
    """The limits that are given, by name, as the database takes them.

    Raises ConfigurationError for what can't be a limit.
    """
    for name, value in (
        ("concurrency", concurrency),
        ("worker_concurrency", worker_concurrency),
        ("partition_concurrency", partition_concurrency),
    ):
        if value is not None and (type(value) is not int or not 1 <= value <= MOST):
            raise ConfigurationError(
                f"queue {queue}: {name} is {value!r}, but must be an int from 1 to {MOST:,}"
            )
    if partitions is not None and type(partitions) is not bool:
        raise ConfigurationError(f"queue {queue}: partitions must be True or False")
    seconds = ageing.total_seconds() if isinstance(ageing, timedelta) else None
    if ageing is not None and (seconds is None or not 0.001 <= seconds <= LONGEST_S):
        given_as = f"{ageing!r}" if seconds is None else f"{seconds:.15g} s"
        raise ConfigurationError(
            f"queue {queue}: ageing is {given_as}, but must be a timedelta from a millisecond to "
            "366 days"
        )
    if weight is not None and not (isinstance(weight, int | float) and 0.001 <= weight <= 1000):
        raise ConfigurationError(
            f"queue {queue}: weight is {weight!r}, but must be from 0.001 to 1000"
        )
    given = {
        "concurrency": concurrency,
        "worker_concurrency": worker_concurrency,
        "rate": None if rate is None else _text(rate),
        "partitions": partitions,
        "partition_concurrency": partition_concurrency,
        "partition_rate": None if partition_rate is None else _text(partition_rate),
        "ageing": seconds,
        "weight": weight,
    }
    return {name: value for name, value in given.items() if value is not None}


def _text(rate: Rate | str) -> str:
    """Checked, and in one form."""
    if isinstance(rate, Rate):
        return str(rate)
    words = rate.split(" ") if isinstance(rate, str) else []
    match words:
        case [text]:
            return str(Rate(text))
        case [text, "smooth"]:
            return str(Rate(text, smooth=True))
        case [text, "burst", count] if count.isdecimal():
            return str(Rate(text, burst=int(count)))
    return str(Rate(rate))
