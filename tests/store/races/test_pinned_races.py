"""What a worker remembers of a queue is a hint: it exceeds nothing, and loses nothing."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from store.pinning import due, end_many, from_before, pinned
from store.races.sessions import APP, PATIENCE_S, Session, Worker, World, finish, release

SECONDS = float(os.environ.get("ROWLOCK_HAMMER_SECONDS", "8"))
SEED = int(os.environ.get("ROWLOCK_HAMMER_SEED", "0")) or random.SystemRandom().randint(1, 10**6)


# --- a memory from before


def start(world: World, count: int) -> list[UUID]:
    return world.anybody.start_many(*[{"workflow": "fulfil"}] * count)


def test_a_memory_is_no_way_past_a_limit(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    start(world, 10)
    assert len(one.claim(2, memory=from_before())) == 2
    world.anybody.limit(concurrency=5)
    assert len(two.claim(10, memory=from_before())) == 3
    assert two.claim(10, memory=from_before()) == []
    assert one.claim(10, memory=one.next.memory) == []


def test_a_claim_with_a_memory_that_has_looked_before_the_limit_takes_nothing_after_it(
    world: World,
) -> None:
    """As one without: it reads the settings again when it has the gate."""
    one, two = world.worker("one"), world.worker("two")
    start(world, 10)
    holder = world.session("holder").begin()
    holder.run("lock table rowlock.queue_gate in access exclusive mode")
    claim = one.go(lambda: one.claim(10, memory=from_before()))
    assert claim.waits(), "for the gate; it has seen that the queue is not limited"
    world.anybody.limit(concurrency=2)
    holder.commit()
    assert claim.result() == []
    assert len(two.claim(10, memory=from_before())) == 2
    assert one.claim(10, memory=from_before()) == []


def test_a_claim_with_a_memory_holds_the_gate_against_who_counts(world: World) -> None:
    one, two = world.worker("one"), world.worker("two")
    start(world, 10)
    assert len(one.begin().claim(2, memory=from_before())) == 2
    world.anybody.limit(concurrency=5)
    assert two.claim(10, memory=from_before()) == []
    assert two.next.again_in == 0, "another claim is at it"
    one.commit()
    assert len(two.claim(10, memory=from_before())) == 3


def paused_queue(world: World) -> None:
    world.anybody.run("select rowlock.pause(queue => 'default', app => %s)", APP)


def paused_workflow(world: World) -> None:
    world.anybody.run("select rowlock.pause(workflow => 'fulfil', app => %s)", APP)


def paused_app(world: World) -> None:
    world.anybody.run("select rowlock.pause(app => %s)", APP)


def moved(world: World) -> None:
    world.anybody.run(
        "select rowlock.move(run_id, 'other') from rowlock.task where state = 'ready'"
    )


def removed(world: World) -> None:
    world.anybody.run("select rowlock.cancel(run_id, force => true) from rowlock.task")


def taken(world: World) -> None:
    world.worker("faster").claim(100)


@pytest.mark.parametrize(
    "event", [paused_queue, paused_workflow, paused_app, moved, removed, taken]
)
def test_a_memory_gives_nothing_that_is_not_to_be_had(
    world: World, event: Callable[[World], None]
) -> None:
    worker = world.worker()
    start(world, 5)
    assert len(worker.claim(1, memory=from_before())) == 1
    memory = worker.next.memory
    event(world)
    assert worker.claim(10, queues=["default"], memory=memory) == []


def test_a_memory_is_of_the_queues_that_are_asked_for(world: World) -> None:
    worker = world.worker()
    start(world, 5)
    assert worker.claim(10, queues=["other"], memory=from_before()) == []
    assert len(worker.claim(10, queues=["default", "other"], memory=from_before())) == 5


@pytest.mark.parametrize("fate", ["commit", "rollback"])
def test_two_claimers_with_memories_never_get_the_same_run(world: World, fate: str) -> None:
    one, two = world.worker("one"), world.worker("two")
    start(world, 5)
    first = one.begin().claim(3, memory=from_before())
    claim = two.go(lambda: two.claim(5, memory=from_before()))
    assert not claim.waits()
    second = claim.result()
    one.end(fate)
    assert (len(first), len(second)) == (3, 2)
    assert not {c.run_id for c in first} & {c.run_id for c in second}
    # What was given back may stand before the bound of the second.
    more = two.claim(5, memory=two.next.memory)
    more += two.claim(5, memory=due(two.next.memory))
    assert len(more) == (0 if fate == "commit" else 3)


# --- all of it at random


def work(worker: Worker, chance: random.Random, over: threading.Event) -> tuple[list[UUID], int]:
    """As workers do: claim with what the last claim said, and end, or hand back."""
    done: list[UUID] = []
    bounded = 0
    while not over.is_set():
        memory = worker.next.memory
        hold = chance.random() < 0.2
        if hold:
            worker.begin()
        claimed = worker.claim(chance.randint(1, 9), memory=memory)
        if hold:
            over.wait(chance.random() * 0.02)
            worker.end(fate := chance.choice(["commit", "rollback"]))
            claimed = claimed if fate == "commit" else []
        bounded += memory is not None and worker.next.memory is not None
        ends = [(one, chance.random() < 0.9) for one in claimed]
        verdicts = worker.write(*(finish(one) if end else release(one) for one, end in ends))
        assert set(verdicts) <= {"written"}
        done += [one.run_id for one, end in ends if end]
    return done, bounded


def come(session: Session, chance: random.Random, over: threading.Event) -> list[UUID]:
    """Start runs of all kinds, in transactions that stay open for a while."""
    started: list[UUID] = []
    while not over.wait(chance.random() * 0.02):
        session.begin()
        mine = [
            session.start(
                priority=chance.choice([50, 50, 50, 0, 99]),
                queue=chance.choice(["default", "default", "other"]),
                delay=chance.choice([None, None, 0.1]),
            )
            for _ in range(chance.randint(1, 20))
        ]
        over.wait(chance.random() * chance.choice([0.01, 0.5]))
        session.end(fate := chance.choice(["commit", "commit", "rollback"]))
        started += mine if fate == "commit" else []
    return started


def upkeep(session: Session, chance: random.Random, over: threading.Event) -> None:
    """Promote what is due, and change whether a queue is limited or has partitions."""
    while not over.wait(0.05):
        session.tend()
        session.limit("other", concurrency=chance.choice([None, 3]))


def test_nothing_is_overlooked_for_good(world: World) -> None:
    print(f"ROWLOCK_HAMMER_SEED={SEED}")  # shown when it fails
    with pinned(world):
        end_many(world, 3_000)
        workers = [world.worker(f"worker {n}") for n in range(3)]
        for worker in workers:
            worker.heartbeat(lease_s=3600.0)
        callers = [world.session(f"caller {n}") for n in range(3)]
        quiet, over = threading.Event(), threading.Event()
        with ThreadPoolExecutor(10) as threads:
            working = [
                threads.submit(work, worker, random.Random(SEED + n), over)
                for n, worker in enumerate(workers)
            ]
            coming = [
                threads.submit(come, caller, random.Random(SEED + 10 + n), quiet)
                for n, caller in enumerate(callers)
            ]
            tending = threads.submit(upkeep, world.session(), random.Random(SEED + 20), over)
            quiet.wait(SECONDS / 2)
            quiet.set()
            started = {run for future in coming for run in future.result(PATIENCE_S)}
            left = threading.Event()
            for _ in range(int(PATIENCE_S / 0.05)):
                if world.count("task") == 0 or any(future.done() for future in working):
                    break
                left.wait(0.05)
            remaining = world.count("task")
            over.set()
            found = [future.result(PATIENCE_S) for future in working]
            tending.result(PATIENCE_S)
    assert remaining == 0
    done = [run for mine, _ in found for run in mine]
    assert len(done) == len(set(done))
    assert set(done) == started
    assert sum(bounded for _, bounded in found) > 0
