"""Limits at random, by a seed: claims, ends, takeovers, live changes, and a spy in each claim."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rowlock.store.statements import Claimed
from store.limit_spy import FULLEST_WINDOW, NO_SPY, SPY
from store.pinning import from_before, of_places
from store.races.sessions import APP, Worker, World, finish, release, sleep_on

SECONDS = float(os.environ.get("ROWLOCK_HAMMER_SECONDS", "8"))
SEED = int(os.environ.get("ROWLOCK_HAMMER_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
TENANTS = [None, "a", "b", "c"]
RATE, PERIOD = 40, "1 second"
CHANGING = 4


@pytest.fixture
def spied(world: World) -> Iterator[World]:
    world.anybody.run(NO_SPY)
    world.anybody.run(SPY)
    yield world
    world.anybody.run(NO_SPY)


def work(worker: Worker, chance: random.Random, over: threading.Event) -> int:
    """Claim, and end what was claimed in one way or another."""
    done = 0
    mine = []
    while not over.is_set():
        hold = chance.random() < 0.3
        if hold:
            worker.begin()
        # Whatever a worker remembers, it is no way past a limit.
        mine += worker.claim(chance.randint(1, 6), memory=chance.choice([None, from_before()]))
        if hold:
            over.wait(chance.random() * 0.01)
            worker.commit()
        chance.shuffle(mine)
        while len(mine) > 3 or (mine and chance.random() < 0.7):
            one = mine.pop()
            how = chance.random()
            if how < 0.3:
                done += worker.write(finish(one)) == ["written"]
            elif how < 0.6:
                verdict, more = hand_over(worker, one)
                done += verdict == "written"
                mine += [*more, one] if verdict == "again" else more
            elif how < 0.8:
                worker.write(release(one))
            else:
                worker.write(sleep_on(one, force=True))
        if chance.random() < 0.02:
            worker.leave()
            mine = []
            worker.worker_id = int(
                worker.ask(
                    "select rowlock.register_worker(%s, '', 'host', 1, 10, null, '30 s')", APP
                )
            )
    return done


def hand_over(worker: Worker, one: Claimed) -> tuple[str, list[Claimed]]:
    """End it, and take what comes in its place, while no limit changes."""
    worker.begin()
    worker.run("select pg_advisory_xact_lock_shared(%s)", CHANGING)
    end = finish(one)
    verdicts, more = worker.hand_over(end, memory=of_places(from_before()))
    worker.commit()
    return verdicts.of_worker or verdicts.of(end), more


def meddle(
    world: World,
    chance: random.Random,
    over: threading.Event,
    names: Sequence[str],
    changes: list[str],
) -> None:
    """Change limits while no claim or hand-over is under way: the spy sees what they saw."""
    session = world.session("operator")
    while not over.wait(0.02):
        session.begin()
        session.run("select pg_advisory_xact_lock(%s)", CHANGING)
        session.run("select from rowlock.queue_gate where name = 'default' for update")
        name = chance.choice(names)
        value: Any = chance.choice([None, 1, 2, 5, 9])
        session.limit(**{name: value})
        over.wait(0.002)
        session.end(chance.choice(["commit", "commit", "rollback"]))
        changes.append(name)


def upkeep(world: World, chance: random.Random, over: threading.Event) -> None:
    """Take over from workers that are declared dead, and wake who sleeps."""
    session = world.session("upkeep")
    while not over.wait(0.03):
        if chance.random() < 0.2:
            session.run(
                "update rowlock.worker set lease_until = clock_timestamp() - interval '1 s'"
                " where id = (select min(id) from rowlock.worker)"
            )
        session.tend()
        # As who has counted and walked far.
        session.run("select rowlock.move_oldest(%s, 'default', null)", APP)
        session.run(
            "update rowlock.task set state = 'ready', due_at = now() where run_id = any (array("
            " select run_id from rowlock.task where state = 'waiting' for update skip locked))"
        )


@pytest.mark.parametrize("kind", ["partitions", "rate", "plain"])
def test_no_limit_is_exceeded_at_any_instant(spied: World, kind: str) -> None:
    print(f"ROWLOCK_HAMMER_SEED={SEED}")  # shown when it fails
    world, chance = spied, random.Random(SEED)
    runs = world.anybody.start_many(*[{"workflow": "fulfil"}] * 800)
    for tenant in TENANTS if kind != "plain" else []:
        world.anybody.run(
            "update rowlock.run set partition = %s where id = any(%s)",
            tenant,
            chosen := chance.sample(runs, 250),
        )
        world.anybody.run(
            "update rowlock.task set partition = %s, priority = (random() * 9)::int"
            " where run_id = any(%s)",
            tenant,
            chosen,
        )
    changed = ["concurrency", "worker_concurrency"]
    if kind == "plain":
        world.anybody.limit(concurrency=5)
    else:
        changed.append("partition_concurrency")
        world.anybody.limit(partitions=True, partition_concurrency=2)
    if kind == "rate":
        world.anybody.limit(rate=f"{RATE}/s")
    workers = [world.worker(f"worker {n}") for n in range(5)]
    over = threading.Event()
    with ThreadPoolExecutor(len(workers) + 2) as threads:
        working = [
            threads.submit(work, worker, random.Random(SEED + n), over)
            for n, worker in enumerate(workers)
        ]
        changes: list[str] = []
        meddling = threads.submit(meddle, world, random.Random(SEED + 100), over, changed, changes)
        tending = threads.submit(upkeep, world, random.Random(SEED + 200), over)
        over.wait(SECONDS / 2)
        for _ in range(600):  # on a slow machine until enough has happened
            if world.count("outcome") > 40 and len(changes) > 5:
                break
            over.wait(0.1)
        over.set()
        done = sum(future.result(60) for future in working)
        meddling.result(60)
        tending.result(60)
    assert world.anybody.run("select * from public.over_limit") == []
    assert (done > 20, len(changes) > 5) == (True, True)
    if kind == "rate":
        fullest = world.anybody.ask(FULLEST_WINDOW, PERIOD, False, "default")
        assert 1 <= fullest <= RATE
    # Nothing has leaked: without limits all goes on.
    world.anybody.run("delete from rowlock.worker")
    world.anybody.reap(limit=10_000, max_takeovers=1000)
    limits = ("concurrency", "partition_concurrency", "worker_concurrency", "rate")
    nothing: dict[str, Any] = dict.fromkeys(limits)
    world.anybody.limit(**nothing)
    last = world.worker("last")
    world.anybody.run(
        "update rowlock.task set state = 'ready', due_at = now() where state = 'waiting'"
    )
    left = world.count("task")
    while claimed := last.claim(200):
        last.write(*[finish(one) for one in claimed])
        left -= len(claimed)
    assert left == 0
