"""What the journal writes, as the JSON that ``functions/journal.sql`` reads.

One struct a kind of entry; ``i`` is its number in the batch and is given when the batch is made.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Step(msgspec.Struct, omit_defaults=True):
    """An outcome at a place. ``child`` starts a run with it, whose id becomes the output."""

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
    i: int = -1


class Wait(msgspec.Struct, omit_defaults=True):
    """A timer that must outlive the process. ``kind``: timer or retry."""

    run: str
    epoch: int
    place: str
    kind: str
    seconds: float
    attempt: int = 0
    error: msgspec.Raw | None = None
    i: int = -1


class Finish(msgspec.Struct, omit_defaults=True):
    """How the generation ended. ``waited``: it may have left rows in ``wait``."""

    run: str
    epoch: int
    status: str
    output: msgspec.Raw | None = None
    error: msgspec.Raw | None = None
    waited: bool = False
    closing: bool = False
    i: int = -1


class Suspend(msgspec.Struct, omit_defaults=True):
    """Sleep until a timer of ``open`` falls due, or a run of ``watches`` ends."""

    run: str
    epoch: int
    watches: list[dict[str, str]]
    open: list[str]
    patience_ms: int
    force: bool = False
    i: int = -1


class Release(msgspec.Struct, omit_defaults=True):
    """Give the run back: to anybody, or with a ``reason`` to whoever resumes it."""

    run: str
    epoch: int
    reason: msgspec.Raw | None = None
    i: int = -1


Entry = Step | Wait | Finish | Suspend | Release

_encode = msgspec.json.Encoder().encode


def parameters(worker: int, entries: list[Entry], *, retrying: bool) -> dict[str, Any]:
    """The parameters of JOURNAL for a batch; numbers the entries."""
    kinds: dict[type, list[Entry]] = {Step: [], Wait: [], Finish: [], Suspend: [], Release: []}
    made = False
    for number, entry in enumerate(entries):
        entry.i = number
        kinds[type(entry)].append(entry)
        if isinstance(entry, Step) and (entry.child is not None or entry.kind == "now"):
            made = True
    return {
        "worker": worker,
        "retrying": retrying,
        "steps": _text(kinds[Step]),
        "asked": len(kinds[Step]),
        "made": made,
        "waits": _text(kinds[Wait]),
        "finishes": _text(kinds[Finish]),
        "suspends": _text(kinds[Suspend]),
        "releases": _text(kinds[Release]),
    }


def _text(entries: list[Entry]) -> str:
    return _encode(entries).decode() if entries else "[]"


def size_of(entry: Entry) -> int:
    """Roughly how many bytes an entry sends."""
    size = 200
    if isinstance(entry, Step | Finish):
        size += len(entry.output or b"") + len(entry.error or b"")
    elif isinstance(entry, Suspend):
        size += 80 * len(entry.watches)
    return size
