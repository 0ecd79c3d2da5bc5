"""Does, now and then, what any worker does for all: promote, wake, take over.

It sleeps until the next timer that it knows of falls due, at most a poll.

Reads and writes: store's TEND.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable

from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Session
from rowlock.store.statements import TEND
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.tender")

BATCH = 1000
SHORTEST_S = 0.02
STUCK_S = 0.25


class Tender:
    def __init__(
        self,
        settings: Settings,
        session: Session,
        *,
        on_ready: Callable[[], None],
        observer: Observer,
    ) -> None:
        self._settings = settings
        self._session = session
        self._on_ready = on_ready
        self._observer = observer
        self._next_at: float | None = None
        self._sooner = asyncio.Event()

    def expect(self, due_at: float) -> None:
        """A timer of this worker's runs falls due then (loop time)."""
        if self._next_at is None or due_at < self._next_at:
            self._next_at = due_at
            self._sooner.set()

    async def run(self) -> None:
        clock = asyncio.get_running_loop()
        backoff = Backoff()
        while True:
            try:
                done = await self._session.one(
                    TEND, {"limit": BATCH, "max_takeovers": self._settings.max_takeovers}
                )
                backoff.reset()
            except Disconnected:
                await asyncio.sleep(backoff.next_s())
                continue
            if done.taken_over:
                log.info("took over %d runs of dead workers", done.taken_over)
                self._observer.taken_over(done.taken_over)
            if done.promoted or done.woken or done.taken_over:
                self._on_ready()
            if BATCH in (done.promoted, done.woken, done.taken_over):
                continue
            pause_s = self._settings.poll_seconds * random.uniform(0.8, 1.2)
            if done.next_due_in is not None:
                # Due already and not promoted: someone holds it. Don't hammer.
                least_s = SHORTEST_S if done.next_due_in > 0 or done.promoted else STUCK_S
                pause_s = min(pause_s, max(least_s, done.next_due_in))
            self._next_at = clock.time() + pause_s
            await self._sleep()

    async def _sleep(self) -> None:
        """Until the next timer; who expects one sooner shortens it."""
        clock = asyncio.get_running_loop()
        while self._next_at is not None and (left := self._next_at - clock.time()) > 0:
            self._sooner.clear()
            try:
                async with asyncio.timeout(left):
                    await self._sooner.wait()
            except TimeoutError:
                return
