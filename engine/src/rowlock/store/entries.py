"""What the journal writes, as the JSON that ``functions/journal.sql`` reads.

One struct a kind of entry; ``i`` is its number in the batch and is given when the batch is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Step(msgspec.Struct, omit_defaults=True):
    """An outcome at a place, and what hangs on it (functions/made.sql).

    ``child`` starts a run, whose id becomes the output; ``children`` a group of them, whose name
    becomes the output; ``send`` is a message to another run; ``value`` an event or stream entry.
    """

    run: str
    epoch: int
    place: str
    position: int
    name: str
    seconds: float
    output: msgspec.Raw | None = None
    error: msgspec.Raw | None = None
    kind: str = "step"
    attempts: int = 1
    child: dict[str, Any] | None = None
    children: list[dict[str, Any]] | None = None
    send: dict[str, Any] | None = None
    value: msgspec.Raw | None = None
    trace_context: msgspec.Raw | None = None
    i: int = -1


class Emit(msgspec.Struct, omit_defaults=True):
    """An entry that a step appends to a stream of its run."""

    run: str
    epoch: int
    stream: str
    value: msgspec.Raw
    i: int = -1


class Wait(msgspec.Struct, omit_defaults=True):
    """A timer that must outlive the process.

    ``kind``: timer, retry, or what it is the timeout of: message or event, with their ``name`` (and
    ``on_run``, whose event it is).
    """

    run: str
    epoch: int
    place: str
    kind: str
    seconds: float
    attempt: int = 0
    name: str | None = None
    on_run: str | None = None
    error: msgspec.Raw | None = None
    i: int = -1


class Finish(msgspec.Struct, omit_defaults=True):
    """How the generation ended.

    ``waited``: it may have left rows in ``wait``; ``cancelled``: one in ``cancel_request``.
    ``grouped``: it is one of a group of children. ``next``: the input of the next generation.
    ``limited``: it was claimed under a limit, and its place may go to another run.
    """

    run: str
    epoch: int
    status: str
    output: msgspec.Raw | None = None
    error: msgspec.Raw | None = None
    next: msgspec.Raw | None = None
    waited: bool = False
    cancelled: bool = False
    grouped: bool = False
    closing: bool = False
    limited: bool = False
    i: int = -1


class Watch(msgspec.Struct, omit_defaults=True):
    """What a place waits for: a ``run`` to end, a ``message``, an ``event``, a ``group``.

    ``on``: the run that is to end, or whose event it is. ``name``: topic, event or group;
    ``count``: how many children the group has.
    """

    place: str
    kind: str
    on: str | None = None
    name: str | None = None
    count: int | None = None


class Suspend(msgspec.Struct, omit_defaults=True):
    """Sleep until a timer of ``open`` falls due, or something of ``watches`` happens.

    ``open``: all places that wait. ``watches``: a Watch for each that waits for more than a timer.
    ``deadline_s``: seconds to the run's deadline. ``told``: it has heard that it is cancelled.
    ``limited``: as in Finish.
    """

    run: str
    epoch: int
    watches: list[Watch]
    open: list[str]
    patience_ms: int
    deadline_s: float | None = None
    told: bool = False
    force: bool = False
    limited: bool = False
    i: int = -1


class Release(msgspec.Struct, omit_defaults=True):
    """Give the run back: to anybody, or with a ``reason`` to whoever resumes it."""

    run: str
    epoch: int
    reason: msgspec.Raw | None = None
    i: int = -1


Entry = Step | Emit | Wait | Finish | Suspend | Release

MADE = frozenset({"now", "child", "children", "receive", "send", "set_event", "emit", "cancel"})
"""Kinds of steps that the server has a part in."""
_DELIVERED = frozenset({"send", "set_event", "emit"})
"""Kinds that need a lock on a run's row."""

_encode = msgspec.json.Encoder().encode


class Heir(NamedTuple):
    """For whom places are taken: the version of his code, and what the last time said."""

    version: str
    memory: str | None


def parameters(
    worker: int,
    entries: list[Entry],
    *,
    retrying: bool,
    groups: list[str] | None = None,
    heir: Heir | None = None,
) -> dict[str, Any]:
    """The parameters of JOURNAL for a batch; numbers the entries.

    ``groups``: names of groups of which children have ended in a batch that is committed.
    ``heir``: who takes the places of limited runs that end; None: they stay empty.
    """
    kinds: dict[type, list[Entry]] = {
        kind: [] for kind in (Step, Emit, Wait, Finish, Suspend, Release)
    }
    made = rows = False
    for number, entry in enumerate(entries):
        entry.i = number
        kinds[type(entry)].append(entry)
        if isinstance(entry, Step):
            made = made or entry.kind in MADE
            rows = rows or entry.kind in _DELIVERED
        elif isinstance(entry, Emit):
            rows = True
        elif isinstance(entry, Suspend):
            rows = rows or any(watch.kind in ("message", "event") for watch in entry.watches)
    return {
        "worker": worker,
        "retrying": retrying,
        "steps": _text(kinds[Step]),
        "asked": len(kinds[Step]),
        "made": made,
        "rows": rows,
        "emits": _text(kinds[Emit]),
        "waits": _text(kinds[Wait]),
        "finishes": _text(kinds[Finish]),
        "suspends": _text(kinds[Suspend]),
        "releases": _text(kinds[Release]),
        "groups": groups or [],
        "version": heir.version if heir else None,
        "memory": heir.memory if heir else None,
    }


def _text(entries: list[Entry]) -> str:
    return _encode(entries).decode() if entries else "[]"


def size_of(entry: Entry) -> int:
    """Roughly how many bytes an entry sends."""
    size = 200
    if isinstance(entry, Step):
        size += len(entry.output or b"") + len(entry.error or b"") + len(entry.value or b"")
        for child in entry.children or ():
            size += 100 + len(child["input"])
    elif isinstance(entry, Finish):
        size += len(entry.output or b"") + len(entry.error or b"") + len(entry.next or b"")
    elif isinstance(entry, Suspend):
        size += 80 * len(entry.watches)
    elif isinstance(entry, Emit):
        size += len(entry.value)
    return size
