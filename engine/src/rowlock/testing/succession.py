"""The harness's workers, one after the other: who dies is replaced, whose runs are taken lives on.

There is one present worker. When it ends, however that came, another begins; when a fault kills it,
its lease is over in the database at once, so that nobody has to wait for that.

Reads: moments of workers.  Writes: leases of dead workers, through store/laboratory.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from rowlock.store.laboratory import Laboratory
from rowlock.testing.faults import Fault, FaultNeverHappened, Kind
from rowlock.testing.moments import Mark, When
from rowlock.testing.worker import LOOK_S, Hangs, Watcher, Worker
from rowlock.testing.zombie import Zombie


class Succession:
    """See the module's text. ``begin`` makes a worker that serves, given whom to tell of its life.

    It is the Watcher of all its workers.
    """

    def __init__(
        self,
        lab: Laboratory,
        max_takeovers: int,
        begin: Callable[[Watcher, Callable[[Worker], None]], Awaitable[Worker]],
    ) -> None:
        self._lab = lab
        self._max_takeovers = max_takeovers
        self._begin = begin
        self._changes: set[asyncio.Task[None]] = set()
        """Workers that are being replaced."""
        self._zombies: list[Zombie] = []
        self._called: set[str] = set()
        self._closing = False
        self.present: Worker
        self.faults: list[Fault] = []
        self.watchers: list[Watcher] = []
        """Told of every moment before the faults are; see crashes.py."""

    async def open(self) -> None:
        self.present = await self._begin(self, self._on_over)

    async def close(self) -> None:
        """All leave; the present worker hands back what it has."""
        self._closing = True
        changes = list(self._changes)
        for change in changes:
            change.cancel()
        await asyncio.gather(*changes, return_exceptions=True)
        for zombie in self._zombies:
            await zombie.end()
        await self.present.leave()

    @property
    def is_changing(self) -> bool:
        return bool(self._changes) or self.present.is_ending

    async def changed(self) -> None:
        """Wait until every worker that has gone is replaced. Raises what went wrong with it."""
        while self.is_changing:
            for change in list(self._changes):
                await change  # one that failed stays, and fails whoever comes next too
                self._changes.discard(change)
            await asyncio.sleep(LOOK_S)

    async def bury_zombies(self) -> bool:
        """Let zombies end, and make sure that they recorded nothing. False: there is none."""
        zombies, self._zombies = self._zombies, []
        for zombie in zombies:
            await zombie.end()
            await zombie.check()
        return bool(zombies)

    def refuse_unhappened(self) -> None:
        """Raises FaultNeverHappened if a fault is left."""
        left = [fault for fault in self.faults if not fault.happened]
        if left:
            raise FaultNeverHappened(left, sorted(self._called))

    # --- one after the other

    def _on_over(self, worker: Worker) -> None:
        if not self._closing and not worker.is_zombie:
            self._change(self._replace(worker))

    def _change(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        change = asyncio.create_task(work)
        self._changes.add(change)
        return change

    async def _replace(self, worker: Worker) -> None:
        await worker.gone()
        if worker.is_dead:
            await self._seize(worker)
        self.present = await self._begin(self, self._on_over)

    async def _seize(self, worker: Worker) -> None:
        # PostgreSQL may still be at work for a dead worker: only it knows when that is done.
        while not await self._lab.seize(worker.id, self._max_takeovers):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    async def _take_over(self, worker: Worker, mark: Mark) -> None:
        await worker.renewed()
        worker.is_zombie = True  # whatever becomes of it, this is its replacement
        claims = await self._lab.claims_of(worker.id)
        await self._seize(worker)
        written = await self._lab.written_in(claims)
        self._zombies.append(Zombie(worker, mark, self._lab, claims, written))
        self.present = await self._begin(self, self._on_over)

    # --- what happens in workers (Watcher)

    async def at(self, worker: Worker, when: When, marks: Sequence[Mark]) -> bool:
        """A worker is at a moment of its life; True kills it there."""
        for zombie in self._zombies:
            if zombie.worker is worker:
                await zombie.at(when, marks)
                return False
            zombie.see(when, marks)
        if when is When.CALLING:
            self._called.update(mark.name for mark in marks)
        for watcher in self.watchers:
            if await watcher.at(worker, when, marks):
                return True
        for fault in self.faults:
            if fault.is_at(when, marks):
                if fault.kind is Kind.HANG:
                    raise Hangs
                if fault.kind is not Kind.TAKEOVER:
                    return True
                # In a task of our own: the worker that is in this step may hear of it meanwhile, in
                # another run, and drop everything.
                await asyncio.shield(self._change(self._take_over(worker, marks[0])))
        return False

    def claimed(self, worker: Worker, marks: Sequence[Mark]) -> bool:
        """A worker has claimed runs; True kills it there."""
        return any(watcher.claimed(worker, marks) for watcher in self.watchers)
