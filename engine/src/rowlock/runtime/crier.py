"""Tells who waits outside that there is news of a run: it ended, set an event, emitted something.

In a transaction of its own after the journal's, because a commit with a notification takes a lock
that the whole database shares; several batches share one. What is lost with a crash in between is
found by the next look of whoever waits.

Writes: store's TELL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from rowlock.store.connection import Disconnected, Session
from rowlock.store.statements import TELL

PAUSE_S = 0.005
"""No more often than this: 200 notifying commits a second, at most, from each worker."""


class Crier:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._news: set[str] = set()
        self._any = asyncio.Event()

    def tell(self, runs: Iterable[str]) -> None:
        """There is news of these runs, and somebody listens."""
        self._news.update(runs)
        self._any.set()

    async def run(self) -> None:
        while True:
            await self._any.wait()
            self._any.clear()
            news, self._news = self._news, set()
            with suppress(Disconnected):
                await self._session.rows(TELL, {"runs": sorted(news)})
            await asyncio.sleep(PAUSE_S)
