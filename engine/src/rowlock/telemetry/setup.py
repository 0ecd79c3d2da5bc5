"""Puts together who observes a worker process."""

from __future__ import annotations

from rowlock.telemetry import traces
from rowlock.telemetry.observer import Observer, Observers


def observers(app: str, version: str, *others: Observer) -> Observer:
    """All observers of this process as one: ``others``, and traces if they are asked for.

    To be called in the process that works, once. Raises ConfigurationError when traces are asked
    for and can't be had.
    """
    spans = traces.observer(app, version)
    found = others if spans is None else (*others, spans)
    return found[0] if len(found) == 1 else Observers(*found)
