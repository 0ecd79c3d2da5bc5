"""When to look again for what a run does: the one listener of a client.

Whoever waits looks, at growing intervals; polling is the truth. Waits that last have the client
listen: workers tell of runs that end, set events or emit (runtime/crier.py), as long as a row in
``listener`` says that somebody wants to know. Behind PgBouncer there is only the looking.

Reads: NOTIFY on ``rowlock_news``.  Writes: store's LISTEN, UNLISTEN.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from uuid import UUID, uuid4

from rowlock.errors import RowlockError
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Session, SessionPool
from rowlock.store.statements import LISTEN, UNLISTEN

T = TypeVar("T")

log = logging.getLogger("rowlock.client")

CHANNEL = "rowlock_news"
FIRST_PAUSE_S, GROWTH = 0.004, 1.5
MOST_DEAF_S = 0.25
"""Between two looks, while nobody tells."""
MOST_S = 5.0
"""Between two looks, while somebody does: a notification may be lost with its worker."""
LISTENING_FROM_S = 0.05
LEASE_S = 30.0
IDLE_ROUNDS = 3


class Watch:
    """One who waits for a run. Look, then :meth:`wait`, and look again."""

    def __init__(self, news: News) -> None:
        self._news = news
        self._told = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S

    def tell(self) -> None:
        """There is news: since the last look, perhaps."""
        self._told.set()

    def found_something(self) -> None:
        """There may soon be more."""
        self._pause_s = FIRST_PAUSE_S

    async def wait(self, until: float = math.inf) -> None:
        """Return when it is time to look, or when it is ``until`` (loop time)."""
        left = until - asyncio.get_running_loop().time()
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left, self._pause_s * random.uniform(0.8, 1.2))):
                await self._told.wait()
        self._told.clear()
        self._pause_s = min(self._pause_s * GROWTH, self._news.most_pause_s)
        if self._pause_s > LISTENING_FROM_S:
            self._news.want_listener()


class News:
    """See the module's text."""

    def __init__(self, settings: Settings, pool: SessionPool) -> None:
        self._pool = pool
        self._session = Session(settings, "client")
        self._can_listen = not settings.pgbouncer
        self._watches: dict[UUID, set[Watch]] = defaultdict(set)
        self._listening: asyncio.Task[None] | None = None
        self._is_told = False
        self._id = uuid4()

    @property
    def most_pause_s(self) -> float:
        return MOST_S if self._is_told else MOST_DEAF_S

    @contextmanager
    def watch(self, run_id: UUID) -> Iterator[Watch]:
        """Be told of news of a run."""
        watch = Watch(self)
        self._watches[run_id].add(watch)
        try:
            yield watch
        finally:
            watches = self._watches[run_id]
            watches.discard(watch)
            if not watches:
                del self._watches[run_id]

    async def until(
        self, run_id: UUID, look: Callable[[], Awaitable[T | None]], seconds: float | None
    ) -> T:
        """Look for something of a run until it is there. Raises TimeoutError.

        It is looked for at least once. While the database is away it is not there yet.
        """
        clock = asyncio.get_running_loop()
        until = math.inf if seconds is None else clock.time() + seconds
        said = False
        with self.watch(run_id) as watch:
            while True:
                try:
                    if (found := await look()) is not None:
                        return found
                except Disconnected as error:
                    if not said:  # it may be away for good: a wrong password, say
                        log.warning("run %s is waited for, but: %s", run_id, error)
                    said = True
                if clock.time() >= until:
                    raise TimeoutError
                await watch.wait(until)

    def want_listener(self) -> None:
        """Somebody has waited for a while."""
        if self._can_listen and (self._listening is None or self._listening.done()):
            self._listening = asyncio.create_task(self._serve())

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
            self._listening = None

    async def _serve(self) -> None:
        """Listen as long as somebody waits, and a little longer."""
        listening = asyncio.create_task(self._listen())
        idle_rounds = 0
        try:
            while idle_rounds < IDLE_ROUNDS:
                await asyncio.wait([listening], timeout=LEASE_S / 3)
                if listening.done():
                    return
                idle_rounds = 0 if self._watches else idle_rounds + 1
                if self._is_told and self._watches:
                    with suppress(Disconnected):
                        await self._renew()
        finally:
            listening.cancel()
            await asyncio.wait([listening])
            await self._session.close()
            if self._is_told:
                self._is_told = False
                with suppress(RowlockError):
                    await self._pool.rows(UNLISTEN, {"listener": self._id})

    async def _renew(self) -> None:
        await self._pool.rows(LISTEN, {"listener": self._id, "seconds": LEASE_S})

    async def _listen(self) -> None:
        backoff = Backoff()
        while True:
            try:
                async for said in self._session.listen(CHANNEL):
                    backoff.reset()
                    if said:
                        for text in said.split(","):
                            self._tell(UUID(text))
                    else:  # from now on we hear; of what came before nobody told
                        await self._renew()
                        self._is_told = True
                        for run_id in list(self._watches):
                            self._tell(run_id)
            except Disconnected:
                self._is_told = False
                await asyncio.sleep(backoff.next_s())
            except RowlockError as error:  # such as a role that may not
                log.warning("this client can't listen, and looks more often instead: %s", error)
                self._can_listen = False
                return

    def _tell(self, run_id: UUID) -> None:
        for watch in self._watches.get(run_id, ()):
            watch.tell()
