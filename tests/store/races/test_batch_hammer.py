"""Batches at random, by a seed: callers add numbers to two of them, workers take what is ready.

In the end every number whose start was committed is in the list of the run that its caller was
given, and in no other; no list is longer than any of its starts allowed; and every run began with
all of it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from rowlock import Batch
from rowlock.store.statements import Claimed
from store.races.hammering import ISOLATIONS, KEYS, SEED, Hammer, watch, work
from store.races.sessions import Session, World
from store.races.waiting import is_caller

FORGIVEN = {"RLS01", "RLS02", "40001"}


@dataclass
class Batches(Hammer):
    kinds = ["end"] * 4 + ["back"]
    given: dict[int, UUID] = field(default_factory=dict)
    """Numbers whose start was committed, and the run they are in."""
    sizes: dict[UUID, int] = field(default_factory=dict)
    begun: dict[UUID, list[int]] = field(default_factory=dict)
    """Runs, with the list that their first claim gave."""
    numbers: int = 0

    def is_enough(self) -> bool:
        return self.did["add"] > 10 and len(self.begun) > 10

    def saw(self, run: Claimed) -> None:
        self.begun.setdefault(run.run_id, json.loads(run.input)["pages"])

    def some(self, count: int) -> list[int]:
        with self.lock:
            self.numbers += count
            return list(range(self.numbers - count, self.numbers))

    def was_given(self, run: UUID, numbers: list[int], size: int) -> None:
        with self.lock:
            self.given |= dict.fromkeys(numbers, run)
            self.sizes[run] = min(size, self.sizes.get(run, size))


def call_at_random(hammer: Batches, session: Session, number: int) -> None:
    dice = random.Random(SEED * 100 + number)
    is_caller(session)
    while hammer.goes_on():
        what = dice.choice(["add"] * 8 + ["two", "two", "cancel", "reschedule"])
        size, wait = dice.choice([5, 7, 7]), dice.choice([0.001, 0.02, 0.1])
        asked = [hammer.some(dice.choice([1, 1, 1, 2, 4]))]
        runs: list[UUID] = []
        try:
            session.begin(dice.choice(ISOLATIONS))
            if what == "add":
                how = Batch(dice.choice(KEYS), size, wait)
                runs = [session.start(input=json.dumps({"pages": asked[0]}), batch=how)]
            elif what == "two":
                asked.append(hammer.some(1))
                fields = {"workflow": "fulfil", "size": size, "wait": f"{wait} seconds"}
                runs = session.start_many(
                    *({**fields, "batch": key, "input": {"pages": pages}}
                      for key, pages in zip(dice.sample(KEYS, 2), asked, strict=True))
                )  # fmt: skip
            else:
                act = {
                    "cancel": "select rowlock.cancel(run_id) from rowlock.runs"
                    " where finished_at is null order by random() limit 1",
                    "reschedule": "select rowlock.reschedule(run_id, now() + interval '5 ms')"
                    "  from rowlock.runs where status in ('ready', 'scheduled')"
                    " order by random() limit 1",
                }
                session.run(act[what])
            session.run("select pg_sleep(%s)", dice.choice([0, 0, 0.002, 0.02]))
            if dice.random() < 0.8:
                session.commit()
                hammer.did[what] += 1
                for run, numbers in zip(runs, asked, strict=False):
                    hammer.was_given(run, numbers, size)
            else:
                session.rollback()
        except psycopg.Error as error:
            session.rollback()
            if error.sqlstate not in FORGIVEN:
                raise
            hammer.did[f"{what}: {error.sqlstate}"] += 1


def test_every_number_is_in_the_run_that_its_caller_was_given_once(world: World) -> None:
    hammer = Batches(world)
    callers = [world.session(f"caller {n}") for n in range(6)]
    workers = [world.worker(f"worker {n}") for n in range(2)]
    with ThreadPoolExecutor(9) as threads:
        watched = threads.submit(watch, hammer, world.session("watch"))
        rest = [threads.submit(call_at_random, hammer, one, n) for n, one in enumerate(callers)]
        rest += [threads.submit(work, hammer, one, n) for n, one in enumerate(workers)]
        for one in rest:
            one.result()
    assert watched.result() == set(), f"seed {SEED}"
    stored: dict[UUID, list[int]] = dict(
        world.anybody.run("select id, input -> 'pages' from rowlock.run")
    )
    lengths = Counter(map(len, stored.values()))
    print(f"seed {SEED}: {dict(hammer.did)}, lists of {sorted(lengths.items())}")
    found = [(number, run) for run, pages in stored.items() for number in pages]
    assert sorted(found) == sorted(hammer.given.items()), f"seed {SEED}"
    too_long = {run: pages for run, pages in stored.items() if len(pages) > hammer.sizes[run]}
    assert too_long == {}, f"seed {SEED}"
    other = {run: pages for run, pages in hammer.begun.items() if stored[run] != pages}
    assert other == {}, f"seed {SEED}"
    assert hammer.is_enough()
    assert max(lengths) > 4
