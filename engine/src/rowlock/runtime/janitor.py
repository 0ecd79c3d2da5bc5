"""Removes ended runs that are kept long enough, a batch at a time: any worker does it for all.

Asking whether there is something to do is one cheap statement a minute. The work itself goes over a
connection of its own, which is there only meanwhile: a batch may take longer than the control
connection, with the lease, should have to wait. Between two batches it rests as long as the last
one took.

Once a minute, too, what the code declares of its queues is applied, where somebody held a queue's
row before.

Reads: store's HOUSE_DUE.  Writes: store's KEEP_HOUSE, APPLY_DECLARATION.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

from rowlock.errors import RowlockError
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Session
from rowlock.store.statements import APPLY_DECLARATION, HOUSE_DUE, KEEP_HOUSE
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.janitor")

BATCH = 1000
LOOK_EVERY_S = 60.0
REST_S = 0.02


class Janitor:
    """See the module's text."""

    def __init__(self, settings: Settings, control: Session, observer: Observer) -> None:
        self._settings = settings
        self._control = control
        self._observer = observer

    async def run(self) -> None:
        """Look until cancelled."""
        backoff = Backoff(first_s=LOOK_EVERY_S / 10, most_s=LOOK_EVERY_S)
        pause_s = LOOK_EVERY_S
        while True:
            # Not all workers of a fleet at once, nor all those that were started together.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = LOOK_EVERY_S
            try:
                await self._control.rows(APPLY_DECLARATION, {})
                due_in = await self._control.one(HOUSE_DUE, {})
                if due_in is not None and due_in <= 0:
                    await self._work()
                elif due_in is not None:
                    pause_s = min(pause_s, due_in)
                backoff.reset()
            except Disconnected:
                pause_s = backoff.next_s()
            except RowlockError as error:
                # Nothing else of this worker depends on it.
                log.warning("ended runs could not be removed, trying again later: %s", error)

    async def _work(self) -> None:
        clock = asyncio.get_running_loop()
        session = Session(self._settings, "janitor")
        total = 0
        try:
            while True:
                began = clock.time()
                kept = await session.one(KEEP_HOUSE, {"limit": BATCH})
                if kept.removed:
                    self._observer.removed(kept.removed)
                    total += kept.removed
                if kept.next_in is None or kept.next_in > 0:
                    break
                await asyncio.sleep(max(REST_S, clock.time() - began))
        finally:
            if total:
                log.info("removed %d ended runs", total)
            with suppress(RowlockError):
                await session.close()
