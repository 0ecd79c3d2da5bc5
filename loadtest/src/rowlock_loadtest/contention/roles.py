"""What a connection of the load does, again and again, until time is up.

A role with ``every_s`` acts at times that are set beforehand, and its latencies count from those: a
database that stalls delays what would have come meanwhile, and that delay is measured too
("coordinated omission" would leave it out). Without ``every_s`` it acts as fast as it can, which
measures throughput.

Writes: what Rowlock's SQL functions write for workers and callers.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Protocol

import psycopg

from rowlock.runtime.patience import Patience
from rowlock_loadtest.contention.seat import Seat
from rowlock_loadtest.contention.truth import WORKFLOW

CLAIM = (
    "select run_id::text, epoch, queue, waited, cancel is not null, null, null, null"
    " from rowlock.claim(%s, %s, '', %s::text[], %s, %s)"
)
CLAIM_NEXT = (
    "select run_id::text, epoch, queue, waited, cancel is not null, again_in, after, memory"
    " from rowlock.claim_next(%s, %s, '', %s::text[], %s, %s, %s, p_memory => %s)"
)
JOURNAL = (
    "select i, verdict from rowlock.journal(%s, '[]', 0, false, false, '[]', '[]', %s::jsonb,"
    " '[]', '[]', '{}', false)"
)
REGISTER = (
    "select rowlock.register_worker(%s, '', 'loadtest', 0, %s, %s::text[],"
    " make_interval(secs => %s))"
)
CANCEL = "select rowlock.cancel(%s::uuid, force => %s)"
HEARTBEAT = "select from rowlock.heartbeat(%s, make_interval(secs => %s), '[]')"
START = (
    "select rowlock.start(%s, key => %s, queue => %s, app => %s,"
    " start_at => least(to_timestamp(%s), clock_timestamp()))::text"
)


MOST_TRIES = 1000

Taken = tuple[str, int, bool]
"""A run that was claimed, its epoch, and whether it is asked to stop."""


class Role(Protocol):
    """What one connection does."""

    def run(self, seat: Seat) -> None: ...


def finishes(claimed: list[Taken]) -> str:
    """The journal's entries that end runs."""
    return json.dumps(
        [
            {
                "i": n,
                "run": run,
                "epoch": epoch,
                "status": "cancelled" if stop else "succeeded",
                "cancelled": stop,
            }
            for n, (run, epoch, stop) in enumerate(claimed)
        ]
    )


class Claims:
    """Claims of one worker, as its code makes them on this Rowlock.

    Where there is `rowlock.claim_next`, its last row says how the next call is to be made: from
    which queue on, how soon if a limit left nothing, and what it is to be told again.
    """

    def __init__(
        self, seat: Seat, app: str, slots: int, queues: list[str] | None, lease_s: float = 3600.0
    ) -> None:
        self._seat, self._app, self._queues = seat, app, queues
        self.worker = int(seat.ask(REGISTER, [app, slots, queues, lease_s])[0][0])
        [(found,)] = seat.ask("select to_regproc('rowlock.claim_next') is not null", [])
        self._has_next = bool(found)
        self._after: str | None = None
        self._memory: str | None = None
        self._again_s: float | None = None
        self._patience = Patience()

    def take(self, at: float | None, want: int, *, listening: bool = False) -> list[Taken] | None:
        """At most so many runs, noted down; None: rolled back."""
        want, began = self._patience.want(want), time.monotonic()
        place = [self._after] if self._has_next else []
        memory = [self._memory] if self._has_next else []
        rows = self._seat.timed(
            "claim",
            at,
            CLAIM_NEXT if self._has_next else CLAIM,
            [self.worker, self._app, self._queues, *place, want, listening, *memory],
        )
        if rows is None:
            return None
        self._after = self._again_s = self._memory = None
        taken = []
        for run, epoch, queue, waited, stop, again_s, after, kept in rows:
            if run is None:
                self._again_s, self._after, self._memory = again_s, after, kept
                continue
            taken.append((run, epoch, stop))
            self._seat.claimed(run, epoch, queue, waited)
        if not taken:
            self._seat.count("claims that found nothing")
        if taken or self._again_s != 0:
            self._patience.let_in(want, time.monotonic() - began)
        return taken

    def pause_s(self, poll_s: float) -> float:
        """How long a worker waits after a look that found nothing."""
        if self._again_s is None:
            return poll_s * random.uniform(0.8, 1.2)
        if self._again_s == 0:  # another claim was at it
            return self._patience.refused()
        return min(poll_s, self._again_s)


@dataclass(frozen=True, slots=True)
class Claimer:
    """A worker without code: claims ``batch`` runs, holds them for ``hold_s``, ends them.

    ``abandons``: the share of its claims after which it is gone for longer than its lease, and then
    finishes what another may have by now.
    """

    app: str
    batch: int
    queues: tuple[str, ...] | None = None
    every_s: float | None = None
    hold_s: float = 0.0
    pause_s: float = 0.005
    """After a look that found nothing, where it acts as fast as it can."""
    lease_s: float = 3600.0
    abandons: float = 0.0

    def run(self, seat: Seat) -> None:
        queues = None if self.queues is None else list(self.queues)
        claims = Claims(seat, self.app, self.batch, queues, self.lease_s)
        for at in seat.moments(self.every_s):
            if self.lease_s < 60 and not seat.ask(HEARTBEAT, [claims.worker, self.lease_s]):
                claims = Claims(seat, self.app, self.batch, queues, self.lease_s)
            taken = claims.take(at, self.batch)
            if not taken:
                if self.every_s is None:
                    seat.rest(claims.pause_s(self.pause_s))
                continue
            if self.abandons and random.random() < self.abandons:
                seat.rest(self.lease_s * random.uniform(0.5, 2.0), to_the_end=True)
            elif self.hold_s:
                seat.rest(self.hold_s, to_the_end=True)
            if not end(seat, claims.worker, taken):
                claims = Claims(seat, self.app, self.batch, queues, self.lease_s)
        for _ in range(50):
            seat.ask("select rowlock.leave(%s)", [claims.worker])
            if not seat.ask("select from rowlock.workers where worker_id = %s", [claims.worker]):
                break


def end(seat: Seat, worker: int, claimed: list[Taken]) -> bool:
    """Journal until each is answered for; False: this worker was declared dead."""
    for _ in range(MOST_TRIES):
        rows = seat.timed("journal", None, JOURNAL, [worker, finishes(claimed)])
        if rows is None:
            continue  # a rollback that was counted: nothing of it was written
        verdicts = dict(rows)
        if verdicts.get(-1) == "gone":
            seat.count("finishes refused, taken over meanwhile", len(claimed))
            return False
        again = []
        for n, one in enumerate(claimed):
            # Of all, when somebody holds the worker's row just now.
            verdict = "again" if verdicts.get(-1) == "again" else verdicts.get(n)
            if verdict == "again":
                again.append(one)
            elif verdict == "lost":
                seat.count("finishes refused, taken over meanwhile")
            else:
                seat.finished(one[0], one[1])
        if not again:
            return True
        claimed = again
    raise RuntimeError(f"the journal said `again` {MOST_TRIES} times")


@dataclass(frozen=True, slots=True)
class Starter:
    """Starts one run at a time. ``keys``: with a key of so many, as its rivals do."""

    app: str
    queues: tuple[str, ...]
    every_s: float | None
    keys: int = 0

    def run(self, seat: Seat) -> None:
        for number, at in enumerate(seat.moments(self.every_s)):
            queue = self.queues[number % len(self.queues)]
            key = f"key-{random.randrange(self.keys)}" if self.keys else None
            rows = seat.timed("start", at, START, [WORKFLOW, key, queue, self.app, seat.wall(at)])
            if rows:
                seat.started(rows[0][0])


@dataclass(frozen=True, slots=True)
class Canceller:
    """Starts a run and soon asks it to stop, be it waiting, running or over; or by force."""

    app: str
    queue: str
    every_s: float

    def run(self, seat: Seat) -> None:
        for at in seat.moments(self.every_s):
            [(run,)] = seat.ask(START, [WORKFLOW, None, self.queue, self.app, seat.wall(at)])
            seat.started(run)
            seat.rest(random.uniform(0, 2 * self.every_s), to_the_end=True)
            try:
                seat.timed("cancel", None, CANCEL, [run, random.random() < 0.5])
            except psycopg.errors.DatabaseError as error:
                if not (error.sqlstate or "").startswith("RLS"):
                    raise
                seat.count("cancels refused, ended meanwhile")


@dataclass(frozen=True, slots=True)
class Tender:
    """Takes runs over from the dead, and carries out what waits for it, as any worker does."""

    every_s: float

    def run(self, seat: Seat) -> None:
        for at in seat.moments(self.every_s):
            rows = seat.timed("tend", at, "select taken_over from rowlock.tend(500, 1000)", [])
            if rows:
                seat.count("runs taken over", rows[0][0])


@dataclass(frozen=True, slots=True)
class Idler:
    """An idle worker: looks every ``poll_s``, and at once when it is told; ends what it gets."""

    app: str
    poll_s: float

    def run(self, seat: Seat) -> None:
        claims = Claims(seat, self.app, 10, None)
        seat.connection.execute(f"listen rowlock_worker_{claims.worker}".encode())
        seat.rest(random.uniform(0, self.poll_s))
        while seat.goes_on():
            if taken := claims.take(None, 10, listening=True):
                end(seat, claims.worker, taken)
            else:
                seat.hear(claims.pause_s(self.poll_s))
        seat.ask("select rowlock.leave(%s)", [claims.worker])
