"""Runs that have ended behind a transaction that stays open: dead, and not to be removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from store.races.sessions import Session, Worker, World, finish

LONG_AGO = "2000-01-01T00:00:00Z"


@contextmanager
def pinned(world: World) -> Iterator[Session]:
    """A stranger who has looked once and stays."""
    stranger = world.session("stranger").begin("repeatable read")
    stranger.run("select count(*) from rowlock.queue")
    try:
        yield stranger
    finally:
        stranger.rollback()


def end_many(world: World, count: int, *places: dict[str, Any], by: Worker | None = None) -> None:
    """Start so many runs, in each place as many, claim and end them, as a worker does."""
    anybody, worker = world.anybody, by or world.worker("undertaker")
    runs = [{"workflow": "fulfil", **place} for place in places or [{}]]
    anybody.start_many(*runs * (count // len(runs)))
    memory = None
    while claimed := worker.claim(1000, memory=memory):
        memory = worker.next.memory
        assert set(worker.write(*(finish(one) for one in claimed))) == {"written"}
        count -= len(claimed)
    assert count == 0
    if by is None:
        worker.leave()


def told(memory: str | None) -> dict[str, Any]:
    """What stands in a worker's memory, for tests alone: to workers it is opaque."""
    assert memory is not None
    return dict(json.loads(memory))


def told_of(places: str | None, queue: str = "default") -> str | None:
    """What the next hand-over in a queue is to be told: its part of what the last one said."""
    found = None if places is None else json.loads(places).get(queue)
    return None if found is None else json.dumps(found)


def of_places(memory: str | None, queue: str = "default") -> str:
    """The same, as it is said again."""
    return json.dumps({queue: told(memory)})


def due(memory: str | None) -> str:
    """The same, as if the time of the next full look had come."""
    return json.dumps(told(memory) | {"due": LONG_AGO})


def not_due(memory: str | None) -> str:
    """The same, as if it were far off: however slow the machine is."""
    return json.dumps(told(memory) | {"due": "2100-01-01T00:00:00Z"})


def from_before(queue: str = "default", priority: int = 50) -> str:
    """A memory by which the next claim looks at this queue and priority alone, from its head on."""
    bound = [LONG_AGO, "00000000-0000-0000-0000-000000000000"]
    queues = {queue: {"": {priority: bound}}}
    return not_due(json.dumps({"looked": LONG_AGO, "queues": queues}))


def unreached(queue: str = "default") -> str:
    """A memory by which the next claim looks at this queue alone, and fully."""
    return not_due(json.dumps({"looked": LONG_AGO, "queues": {queue: None}}))
