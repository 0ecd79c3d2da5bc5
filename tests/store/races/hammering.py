"""What the hammers of start keys share: a seed, two keys, a time, and workers."""

from __future__ import annotations

import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

from rowlock.store.statements import Claimed
from store.races.sessions import Session, Worker, World, finish, release, step
from store.races.waiting import is_worker, waiting_for_callers

SECONDS = float(os.environ.get("ROWLOCK_HAMMER_SECONDS", "5"))
SEED = int(os.environ.get("ROWLOCK_HAMMER_SEED", "0")) or random.SystemRandom().randint(1, 10**6)
ISOLATIONS = ["read committed"] * 3 + ["repeatable read", "serializable"]
KEYS = ["a", "b"]
MOST_MORE_S = 60.0
"""How much longer, at most, until enough has happened."""


@dataclass
class Hammer(ABC):
    world: World
    kinds: ClassVar[list[str]]
    """What becomes of a claimed run, as often as it stands there: ``end``, ``back``, ``block``."""
    until: float = field(default_factory=lambda: time.monotonic() + SECONDS)
    did: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @abstractmethod
    def is_enough(self) -> bool:
        """Whether so much has happened that the end tells something."""

    @abstractmethod
    def saw(self, run: Claimed) -> None:
        """A worker has claimed it."""

    def goes_on(self) -> bool:
        """For as long as was asked, and on a slow machine until enough has happened."""
        left = self.until - time.monotonic()
        return left > 0 or (left > -MOST_MORE_S and not self.is_enough())


def work(hammer: Hammer, worker: Worker, number: int) -> None:
    """Gives runs back, blocks them, ends them one way or the other."""
    dice = random.Random(SEED * 100 + 50 + number)
    is_worker(worker)
    while hammer.goes_on():
        worker.tend()
        for run in worker.claim(4):
            hammer.saw(run)
            kind = dice.choice(hammer.kinds)
            if kind == "end" or run.cancel is not None:
                status = "cancelled" if run.cancel else dice.choice(["succeeded", "failed"])
                worker.write(step(run, str(run.epoch)), finish(run, status))
            else:
                worker.write(release(run, None if kind == "back" else "nondeterminism"))


def watch(hammer: Hammer, session: Session) -> set[str]:
    """What workers did that waited for a transaction which a caller held open."""
    waited: set[str] = set()
    while hammer.goes_on():
        waited |= waiting_for_callers(session)
        session.run("select pg_sleep(0.005)")
    return waited
