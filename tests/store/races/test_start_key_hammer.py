"""Keys of dedup and debounce at random, by a seed: callers, workers, redos meet on two of each.

Somebody looks all the time: no two unfinished runs have a dedup key, but those that were replaced.
In the end no debounced run has begun with an input that a later one should have replaced.
"""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from uuid import UUID

import psycopg

from rowlock import Debounce, Dedup
from rowlock.store.statements import Claimed
from store.races.hammering import ISOLATIONS, KEYS, SEED, Hammer, watch, work
from store.races.sessions import Session, World
from store.races.waiting import is_caller

FORGIVEN = {"RLS01", "RLS02", "RLS06", "40001"}

# A run has its key unless another start took it, which asked it to stop in the same transaction (or
# found that somebody had). A key names one run, so no two have it.
WITHOUT_ITS_KEY = """
select r.id from rowlock.run as r
  join rowlock.task as t on t.run_id = r.id
 where r.dedup is not null
   and not exists (select from rowlock.cancel_request as c
                    where c.run_id = r.id and c.generation = t.generation)
   and not exists (select from rowlock.start_key as k
                    where k.kind = 'dedup' and k.key = r.dedup and k.run_id = r.id)
"""


@dataclass
class Put:
    """A debounced start that was committed: between which moments, on which run."""

    run: UUID
    value: int
    began: float
    done: float


@dataclass
class Keys(Hammer):
    kinds = ["end"] * 4 + ["back", "block"]
    puts: list[Put] = field(default_factory=list)
    begun: dict[UUID, int] = field(default_factory=dict)
    """Debounced runs, with the value that their first claim gave."""
    values: int = 0

    def is_enough(self) -> bool:
        return self.did["dedup"] > 10 and self.did["debounce"] > 10

    def saw(self, run: Claimed) -> None:
        value = json.loads(run.input).get("value")
        if value is not None:
            self.begun.setdefault(run.run_id, value)

    def value(self) -> int:
        with self.lock:
            self.values += 1
            return self.values


def call_at_random(hammer: Keys, session: Session, number: int) -> None:
    dice = random.Random(SEED * 100 + number)
    is_caller(session)
    while hammer.goes_on():
        key, value, began = dice.choice(KEYS), hammer.value(), time.monotonic()
        what = dice.choice(
            ["dedup"] * 4 + ["debounce"] * 4 + ["cancel", "redo", "reschedule", "two"]
        )
        put: UUID | None = None
        try:
            session.begin(dice.choice(ISOLATIONS))
            if what == "dedup":
                policy = dice.choice(["existing", "existing", "reject", "replace"])
                session.start(dedup=Dedup(key, policy))  # type: ignore[arg-type]
            elif what == "debounce":
                how = Debounce(key, dice.choice([0.001, 0.02]), dice.choice([None, 0.05]))
                put = session.start(input=json.dumps({"value": value}), debounce=how)
            elif what == "two":
                asked = [{"workflow": "fulfil", "dedup": one} for one in KEYS]
                session.start_many(*dice.sample(asked, 2))
            else:
                act = {
                    "cancel": "select rowlock.cancel(run_id) from rowlock.runs"
                    " where finished_at is null order by random() limit 1",
                    "redo": "select case status when 'failed' then rowlock.retry(run_id)"
                    "                           else rowlock.resume(run_id) end"
                    "  from rowlock.runs where dedup is not null"
                    "   and status in ('failed', 'cancelled', 'blocked') order by random() limit 1",
                    "reschedule": "select rowlock.reschedule(run_id, now() + interval '5 ms')"
                    "  from rowlock.runs where status in ('ready', 'scheduled')"
                    " order by random() limit 1",
                }
                session.run(act[what])
            session.run("select pg_sleep(%s)", dice.choice([0, 0, 0.002, 0.02]))
            if dice.random() < 0.8:
                session.commit()
                hammer.did[what] += 1
                if put is not None:
                    hammer.puts.append(Put(put, value, began, time.monotonic()))
            else:
                session.rollback()
        except psycopg.Error as error:
            session.rollback()
            if error.sqlstate not in FORGIVEN:
                raise
            hammer.did[f"{what}: {error.sqlstate}"] += 1


def look(hammer: Keys, session: Session) -> tuple[int, list[object]]:
    looks, seen = 0, list[object]()
    while hammer.goes_on():
        seen += session.run(WITHOUT_ITS_KEY)
        looks += 1
    return looks, seen


def test_no_key_is_two_runs_and_no_later_input_is_lost(world: World) -> None:
    hammer = Keys(world)
    callers = [world.session(f"caller {n}") for n in range(6)]
    workers = [world.worker(f"worker {n}") for n in range(2)]
    with ThreadPoolExecutor(10) as threads:
        looked = threads.submit(look, hammer, world.session("look"))
        watched = threads.submit(watch, hammer, world.session("watch"))
        rest = [threads.submit(call_at_random, hammer, one, n) for n, one in enumerate(callers)]
        rest += [threads.submit(work, hammer, one, n) for n, one in enumerate(workers)]
        for one in rest:
            one.result()
    looks, seen = looked.result()
    print(f"seed {SEED}: {dict(hammer.did)}, {looks} looks, {len(hammer.begun)} debounced begun")
    assert seen == [], f"seed {SEED}"
    assert watched.result() == set(), f"seed {SEED}"
    assert world.anybody.run(WITHOUT_ITS_KEY) == [], f"seed {SEED}"
    lost = [
        (put, value)
        for run_id, value in hammer.begun.items()
        for put in hammer.puts
        if put.run == run_id and is_later(hammer, put, value)
    ]
    assert lost == [], f"seed {SEED}"
    assert hammer.is_enough()


def is_later(hammer: Keys, put: Put, value: int) -> bool:
    """Whether a start began after the one whose value was run with was committed (if it was)."""
    used = next((one for one in hammer.puts if one.value == value), None)
    return used is None or put.began > used.done
