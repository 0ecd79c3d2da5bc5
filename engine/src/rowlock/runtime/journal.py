"""The one writer of a worker process: every durable write of all its runs, in shared commits.

Entries go into one list; whenever the connection is free, the list is flushed as one
transaction. There is no timer: an idle journal writes at once, a busy one shares. Nobody is
answered before the commit that holds his entry is acknowledged.

When the connection is lost in mid-flush nobody knows whether it committed: the same batch is sent
again, marked as retrying, and the database says what stands there. An entry that PostgreSQL
refuses fails alone: the others of its batch are sent again without it.

Runs of limited queues that end or sleep make room for as many others: their places go to an heir,
the claimer, in the same commit, if it wants them.

Reads: entries that executions add.  Writes: store's JOURNAL statements.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from rowlock.runtime.points import Points
from rowlock.settings import Settings
from rowlock.store.connection import Backoff, Disconnected, Poisoned, Session
from rowlock.store.entries import (
    Emit,
    Entry,
    Finish,
    Heir,
    Release,
    Step,
    Suspend,
    parameters,
    size_of,
)
from rowlock.store.statements import (
    JOURNAL,
    Answer,
    Claimed,
    claimed_from,
)
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.journal")

MOST_BYTES = 4 * 1024 * 1024
CLOSING_AFTER_S = 0.3
SMALL_BATCH = 16
"""Up to so many answers are given in one go."""

WRITTEN, RECORDED, AGAIN, LOOK, LOST, REFUSED, EMPTY, UNDELIVERABLE = (
    "written",
    "recorded",
    "again",
    "look",
    "lost",
    "refused",
    "empty",
    "undeliverable",
)

Done = Callable[[str, Any], None]
"""Told the verdict on an entry and its detail."""


class _Item:
    """An entry on its way, and who is to be told."""

    __slots__ = ("done", "entry", "first_tried_at", "is_dropped")

    def __init__(self, entry: Entry, done: Done, is_dropped: Callable[[], bool]) -> None:
        self.entry = entry
        self.done = done
        self.is_dropped = is_dropped
        self.first_tried_at: float | None = None


class Heirs(Protocol):
    """Who takes the places of limited runs that end."""

    def heir_of(self, places: int) -> Heir | None:
        """For whom to take runs for so many places; None: for nobody now."""

    def take(self, claimed: list[Claimed], memory: str | None) -> None:
        """They are this worker's now; and what the next claim of this kind is to say again."""


class WorkerGone(Exception):
    """The database no longer knows this worker: its runs belong to others."""


class Journal:
    """See the module's text. Add entries with :meth:`add`; :meth:`run` writes until cancelled."""

    def __init__(
        self,
        settings: Settings,
        worker_id: int,
        *,
        on_ready: Callable[[], None] = lambda: None,
        on_tend: Callable[[], None] = lambda: None,
        on_news: Callable[[Iterable[str]], None] = lambda _runs: None,
        heirs: Heirs | None = None,
        observer: Observer,
        points: Points | None = None,
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self.session = Session(settings, "journal", timeout_s=settings.lease_seconds)
        """Its connection. A test says there what time it is."""
        self._items: deque[_Item] = deque()
        self._wanted = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._on_ready = on_ready
        self._on_tend = on_tend
        self._on_news = on_news
        self._heirs = heirs
        self._observer = observer
        self._groups: set[str] = set()
        """Of them children have ended in a batch that is committed: to be summed up by the next."""
        self._points = points

    def add(self, entry: Entry, done: Done, is_dropped: Callable[[], bool] = lambda: False) -> None:
        """Write an entry with the next commit, and tell ``done``.

        Entries of one run are written in the order in which they are added. One whose
        ``is_dropped`` turns true before it is sent is forgotten without a word.
        """
        self._items.append(_Item(entry, done, is_dropped))
        if not self._wanted.is_set():
            self._idle.clear()
            self._wanted.set()

    async def flushed(self) -> None:
        """Return when everything added so far has been written."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled. Raises WorkerGone when the worker was declared dead."""
        try:
            while True:
                if not self._items and not self._groups:
                    self._wanted.clear()
                    self._idle.set()
                    await self._wanted.wait()
                batch = self._take()
                if batch or self._groups:
                    leftovers = await self._write(batch)
                    if leftovers:
                        self._items.extendleft(reversed(leftovers))
                        if batch and len(leftovers) == len(batch):
                            # Nothing moved: give whoever holds the locks time to let go.
                            await asyncio.sleep(random.uniform(0.002, 0.02))
        finally:
            await self.session.close()

    def _take(self) -> list[_Item]:
        batch: list[_Item] = []
        size = 0
        while self._items and len(batch) < self._settings.max_batch and size < MOST_BYTES:
            item = self._items.popleft()
            if item.is_dropped():
                continue
            batch.append(item)
            size += size_of(item.entry)
        return batch

    async def _write(self, batch: list[_Item]) -> list[_Item]:
        """Write a batch and tell everyone; gives back what must come again, in order."""
        try:
            return self._answer(batch, await self._send(batch))
        except Poisoned:
            pass
        # One of these is poison: write each alone, so that only that one fails.
        leftovers: list[_Item] = []
        for item in batch:
            if item.is_dropped():
                continue
            try:
                answers = await self._send([item], retrying=True)
            except Poisoned as error:
                log.error("PostgreSQL refused an entry of run %s: %s", item.entry.run, error)
                # At once: what its run has put behind it on the strength of it must not be sent.
                item.done(REFUSED, str(error))
                continue
            leftovers += self._answer([item], answers)
        return leftovers

    def _answer(self, batch: list[_Item], answers: dict[int, Answer]) -> list[_Item]:
        """Tell everyone the verdict on his entry; gives back what must come again, in order."""
        leftovers: list[_Item] = []
        told: list[tuple[Done, str, Any]] = []
        for number, item in enumerate(batch):
            answer = answers.get(number)
            if answer is None:
                told.append((item.done, WRITTEN, None))
            elif answer.verdict == AGAIN and not isinstance(item.entry, Suspend):
                self._passed_by(item)
                leftovers.append(item)
            else:
                told.append((item.done, answer.verdict, answer.detail))
        # In two halves: while the database writes what the first half asks for next, the second
        # half's code runs. All at once they would take turns, and each would idle half the time.
        asyncio.get_running_loop().call_soon(_tell, told, max(SMALL_BATCH, (len(told) + 1) // 2))
        return leftovers

    def _passed_by(self, item: _Item) -> None:
        """A finish that is passed by for too long lets no new watchers come."""
        now = time.monotonic()
        if item.first_tried_at is None:
            item.first_tried_at = now
        elif isinstance(item.entry, Finish) and now - item.first_tried_at > CLOSING_AFTER_S:
            item.entry.closing = True

    async def _send(self, batch: list[_Item], *, retrying: bool = False) -> dict[int, Answer]:
        """Send until the database has answered; what a lost connection did is asked for."""
        backoff = Backoff()
        entries = [item.entry for item in batch]
        groups = sorted(self._groups)
        places = sum(isinstance(entry, Finish | Suspend) and entry.limited for entry in entries)
        while True:
            began = time.perf_counter()
            if self._points is not None:
                await self._points.writing(entries)
            heir = None
            if places and self._heirs is not None and not retrying:
                heir = self._heirs.heir_of(places)
            try:
                answers = await self.session.rows(
                    JOURNAL,
                    parameters(
                        self._worker_id, entries, retrying=retrying, groups=groups, heir=heir
                    ),
                )
            except Disconnected as error:
                pause_s = backoff.next_s()
                log.warning("the journal lost its connection, again in %.1f s: %s", pause_s, error)
                retrying = True
                await asyncio.sleep(pause_s)
                continue
            found: dict[int, Answer] = {}
            claimed: list[Claimed] = []
            memory: str | None = None
            busy = listened = False
            arrived: set[str] = set()
            for answer in answers:
                if answer.number >= 0:
                    found[answer.number] = answer
                elif answer.verdict == "claimed":
                    claimed.append(claimed_from(answer.detail))
                elif answer.verdict == "memory":
                    memory = answer.detail
                elif answer.verdict == "gone":
                    raise WorkerGone
                elif answer.verdict == "again":
                    busy = True
                elif answer.verdict == "arrived":
                    arrived.update(answer.detail)
                elif answer.verdict == "tend":
                    self._on_tend()
                elif answer.verdict == "listened":
                    listened = True
                else:
                    self._on_ready()
            if busy:
                await asyncio.sleep(random.uniform(0.005, 0.05))
                continue
            self._groups = self._groups.difference(groups) | arrived
            self._observer.written(len(entries), time.perf_counter() - began)
            if self._points is not None:
                await self._points.written(entries, found)
            if heir is not None and self._heirs is not None:
                self._heirs.take(claimed, memory)
            if len(claimed) < places or any(map(_makes_ready, entries)):
                self._on_ready()
            if listened:
                self._on_news(entry.run for entry in entries if _is_news(entry))
            return found


def _makes_ready(entry: Entry) -> bool:
    """Whether there is something to claim once it is written."""
    if isinstance(entry, Step):
        return entry.child is not None or entry.children is not None
    return isinstance(entry, Release) or (isinstance(entry, Finish) and entry.next is not None)


def _is_news(entry: Entry) -> bool:
    """Whether somebody outside may wait for it."""
    if isinstance(entry, Step):
        return entry.kind in ("set_event", "emit")
    return isinstance(entry, Finish | Emit)


def _tell(told: list[tuple[Done, str, Any]], share: int) -> None:
    """Give a share of the answers now, the others in the loop's next turn."""
    for done, verdict, detail in told[:share]:
        done(verdict, detail)
    if len(told) > share:
        asyncio.get_running_loop().call_soon(_tell, told[share:], share)
