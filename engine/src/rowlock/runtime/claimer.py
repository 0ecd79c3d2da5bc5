"""Takes ready runs for this worker, never more than it has free slots, and loads them.

Polling is the truth; being told (a notification, the own journal, a round of tending) only
shortens the wait. A worker that finds nothing says that it listens, then looks once more: whoever
starts a run after that look sees the flag and tells it. A queue with a rate says itself when to
come again; and what a claim wants to be told with the next one (behind.sql) goes back as it came.
When runs of a limited queue end here, others come in their places with the journal's commit, while
there are other slots free: or other queues would get none.

Reads and writes: store's CLAIM, HISTORY, OUTCOMES; takes what JOURNAL gave for what ended.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar
from uuid import UUID

from rowlock.errors import Disconnected
from rowlock.runtime.patience import Patience
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Session, Statement
from rowlock.store.entries import Heir
from rowlock.store.statements import (
    CLAIM,
    HISTORY,
    OUTCOMES,
    Claimed,
    Ended,
    Next,
    Remembered,
    parted,
)
from rowlock.telemetry.observer import Observer

T = TypeVar("T")

MOST_CLAIMS = 200
BUSY_STREAK = 5
"""After so many claims in a row that found work, the worker stops listening."""
RATE_LEAST_S = 0.005
"""A rate that is used up is not looked at more often."""


class Slots(Protocol):
    """How much room there is."""

    def free(self) -> int: ...
    async def wait_for(self, wanted: int, timeout_s: float | None) -> None: ...


class Claimer:
    """See the module's text; :meth:`run` claims until cancelled or told to stop."""

    def __init__(
        self,
        settings: Settings,
        session: Session,
        *,
        worker_id: int,
        app: str,
        queues: list[str] | None,
        slots: Slots,
        load: Callable[[Claimed, list[Remembered], dict[UUID, Ended]], None],
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._session = session
        self._worker_id = worker_id
        self._app = app
        self._queues = queues
        self._slots = slots
        self._load = load
        self._observer = observer
        self._poked = asyncio.Event()
        self._listening = False
        self._streak = 0
        self._patience = Patience()
        self._next = Next()
        self._is_all = False
        self._all_slots = max(1, slots.free())
        self._handed: asyncio.Queue[list[Claimed]] = asyncio.Queue()
        self._memory: str | None = None
        self._is_claiming = False

    def poke(self) -> None:
        """There may be work: look now."""
        self._poked.set()

    def heir_of(self, places: int) -> Heir | None:
        """See the journal's Heirs."""
        is_alone = self._queues is not None and len(self._queues) == 1
        if not self._is_claiming or not (is_alone or self._slots.free() > places):
            return None
        return Heir(self._settings.version, self._memory)

    def take(self, claimed: list[Claimed], memory: str | None) -> None:
        """See the journal's Heirs."""
        self._memory = memory
        if not claimed:
            return
        self._observer.claimed(claimed, None)
        fresh = [one for one in claimed if one.epoch == 1]
        for one in fresh:
            self._load(one, [], {})
        if len(fresh) < len(claimed):
            self._handed.put_nowait([one for one in claimed if one.epoch > 1])

    async def run(self) -> None:
        self._is_claiming = True
        try:
            await self._claim_on()
        finally:
            self._is_claiming = False

    async def load_handed(self) -> None:
        """Load what came with the journal's commits and has a history, until cancelled."""
        while True:
            await self._load_all(await self._handed.get())

    async def _claim_on(self) -> None:
        backoff = Backoff()
        while True:
            try:
                found = await self._claim()
                backoff.reset()
            except Disconnected:
                await asyncio.sleep(backoff.next_s())
                continue
            if found and not (self._is_all and self._listening):
                self._streak += 1
                if self._streak >= BUSY_STREAK:
                    self._listening = False
                continue
            self._streak = 0
            if self._next.again_in == 0:
                await self._pause(self._patience.refused())
                continue
            if not self._listening:
                # Say so first; the next look is the one that counts.
                self._listening = True
                self._poked.set()
                await self._say_listening()
                continue
            await self._pause(self._poll_s())

    async def _say_listening(self) -> None:
        try:
            await self._ask(0)
        except Disconnected:
            self._listening = False

    def _poll_s(self) -> float:
        poll_s = self._settings.poll_seconds * random.uniform(0.8, 1.2)
        if self._next.again_in is None:
            return poll_s
        # A little later, each at random: not all workers in the same moment.
        return min(poll_s, max(self._next.again_in, RATE_LEAST_S) * random.uniform(1.0, 1.05))

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._poked.wait()
        except TimeoutError:
            pass

    async def _claim(self) -> int:
        # A few free slots at a time would be a claim for every run: wait for a handful, briefly.
        if self._slots.free() < 1:
            await self._slots.wait_for(1, None)
        if self._streak and self._slots.free() < self._all_slots // 4:
            await self._slots.wait_for(self._all_slots // 4, 0.005)
        self._poked.clear()
        began = time.perf_counter()
        want = self._patience.want(min(self._slots.free(), MOST_CLAIMS))
        claimed = await self._ask(want)
        took_s = time.perf_counter() - began
        if claimed or self._next.again_in != 0:
            self._patience.let_in(want, took_s)
        # A limit gave no more: a look right after it would be in vain.
        self._is_all = (
            len(claimed) < want and self._next.after is None and all(one.limited for one in claimed)
        )
        self._observer.claimed(claimed, took_s)
        await self._load_all(claimed)
        return len(claimed)

    async def _load_all(self, claimed: list[Claimed]) -> None:
        remembered, outcomes = await self._remember([c for c in claimed if c.epoch > 1])
        for one in claimed:
            self._load(one, remembered[one.run_id], outcomes)

    async def _ask(self, want: int) -> list[Claimed]:
        found = await self._session.rows(
            CLAIM,
            {
                "worker": self._worker_id,
                "app": self._app,
                "version": self._settings.version,
                "queues": self._queues,
                "after": self._next.after,
                "want": want,
                "listening": self._listening and not self._settings.pgbouncer,
                "memory": self._next.memory,
            },
        )
        claimed, following = parted(found)
        if want:
            self._next = following
        return claimed

    async def _remember(
        self, claimed: list[Claimed]
    ) -> tuple[dict[UUID, list[Remembered]], dict[UUID, Ended]]:
        """The histories of runs that were here or elsewhere before, and what they waited for."""
        by_run: dict[UUID, list[Remembered]] = defaultdict(list)
        if not claimed:
            return by_run, {}
        for one in await self._persist(
            HISTORY,
            {"runs": [c.run_id for c in claimed], "generations": [c.generation for c in claimed]},
        ):
            by_run[one.run_id].append(one)
        awaited = [r.on_run_id for rows in by_run.values() for r in rows if r.on_run_id is not None]
        if not awaited:
            return by_run, {}
        ended = await self._persist(OUTCOMES, {"runs": awaited})
        return by_run, {one.run_id: one for one in ended}

    async def _persist(self, statement: Statement[T], parameters: Mapping[str, Any]) -> list[T]:
        """These runs are ours already: ask until answered."""
        backoff = Backoff()
        while True:
            try:
                return await self._session.rows(statement, parameters)
            except Disconnected:
                await asyncio.sleep(backoff.next_s())
