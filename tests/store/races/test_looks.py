"""Whatever a worker remembers, it takes what it would take without: by a seed, in random queues.

Each comparison is made in a transaction that is rolled back. Only what was taken by rates may
differ: behind bounds those that have begun are found a full look later.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from rowlock.store.statements import Claimed
from store.pinning import due, not_due, pinned, told, unreached
from store.races.sessions import APP, Worker, World, finish, release

SEEDS = int(os.environ.get("ROWLOCK_LOOKS_SEEDS", "6"))
SEED = int(os.environ.get("ROWLOCK_HAMMER_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
ROUNDS = 15
TENANTS = [None, "a", "b", 'it\'s "q"', "ünï ✓", "Z", "x" * 180, "50", "many", "null"]
PRIORITIES = [0, 1, 50, 50, 99, 100]
VERSIONS = ["", "", "v1", "v2"]
SETTINGS: dict[str, list[Any]] = {
    "concurrency": [None, None, 3, 20],
    "worker_concurrency": [None, None, 3, 20],
    "partitions": [None, True, True],
    "partition_concurrency": [None, 1, 3],
    "ageing": [None, "1 s", "1 h"],
}


def change(world: World, chance: random.Random) -> None:
    """Other limits for the queue, and partitions or none."""
    world.anybody.limit(partition_concurrency=None)
    chosen = {name: chance.choice(values) for name, values in SETTINGS.items()}
    if not chosen["partitions"]:
        chosen["partition_concurrency"] = None
    world.anybody.limit(**chosen)


def come(world: World, chance: random.Random) -> None:
    """Runs of some tenants, priorities and versions, due at some time until a moment ago."""
    for _ in range(chance.randint(2, 6)):
        runs = world.anybody.start_many(
            *[{"workflow": "fulfil", "priority": chance.choice(PRIORITIES)}] * chance.randint(1, 6)
        )
        world.anybody.run(
            "update rowlock.task set partition = %s, version = %s,"
            " due_at = clock_timestamp() - make_interval(secs => 1 + %s) where run_id = any (%s)",
            chance.choice(TENANTS),
            chance.choice(VERSIONS),
            chance.choice([0, 1, 100, 3000]) * chance.random(),
            runs,
        )


HOW: list[Callable[[Claimed], Any]] = [finish, finish, release]


def leave(worker: Worker, claimed: list[Claimed], chance: random.Random) -> list[Claimed]:
    """Some of these are ended or handed back; those that are not."""
    chance.shuffle(claimed)
    how = chance.choice(HOW)
    some = claimed[: chance.randint(0, len(claimed))]
    if some:
        assert set(worker.write(*map(how, some))) == {"written"}
    return claimed[len(some) :]


def taken(worker: Worker, wants: list[int], memory: str | None, version: str) -> list[list[UUID]]:
    """What claims of these sizes take, one after the other, and gives it back."""
    found = []
    worker.begin()
    for want in wants:
        claimed = worker.claim(want, memory=memory, version=version)
        found.append([one.run_id for one in claimed])
        if memory is not None and worker.next.memory is not None:
            memory = not_due(worker.next.memory)
    worker.rollback()
    return found


def without_turns(memory: str) -> str:
    """The same, but whose turn it was is asked of the queue."""
    return json.dumps(told(memory) | {"cursors": {}})


@pytest.mark.parametrize("nth", range(SEEDS))
def test_looks_with_and_without_a_memory_take_the_same(world: World, nth: int) -> None:
    seed = SEED + nth
    print(f"ROWLOCK_HAMMER_SEED={seed}")
    chance = random.Random(seed)
    for version in ("v1", "v2"):
        world.anybody.run("insert into rowlock.version (app, name) values (%s, %s)", APP, version)
    workers = [world.worker(name) for name in ("one", "two")]
    mine: dict[Worker, list[Claimed]] = {worker: [] for worker in workers}
    memories: dict[Worker, str | None] = dict.fromkeys(workers)
    with pinned(world):
        for turn in range(ROUNDS):
            if turn % 3 == 0:
                change(world, chance)
            come(world, chance)
            for worker in workers:
                for _ in range(3):
                    remembered = memories[worker] or unreached()
                    how = chance.choice([due, not_due, not_due])
                    mine[worker] += worker.claim(chance.randint(1, 12), memory=how(remembered))
                    memories[worker] = worker.next.memory
                    mine[worker] = leave(worker, mine[worker], chance)
            worker = chance.choice(workers)
            version = chance.choice(VERSIONS)
            wants = [chance.randint(1, 6) for _ in range(chance.randint(1, 8))]
            plainly = taken(worker, wants, None, version)
            assert taken(worker, wants, unreached(), version) == plainly, "behind new bounds"
            before = without_turns(memories[worker] or unreached())
            assert taken(worker, wants[:1], due(before), version) == plainly[:1], "a full look"
    for worker in workers:
        if mine[worker]:
            assert set(worker.write(*map(finish, mine[worker]))) == {"written"}
    memory, left = memories[workers[0]], world.count("task")
    while claimed := workers[0].claim(50, memory=due(memory) if memory else None):
        memory, left = workers[0].next.memory, left - len(claimed)
        assert set(workers[0].write(*map(finish, claimed))) == {"written"}
    assert left == 0, "full looks find all there is"
