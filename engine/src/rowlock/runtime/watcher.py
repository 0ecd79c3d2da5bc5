"""Looks for the outcomes of runs that loaded runs wait for.

A run that only waits is asleep and is woken by the finish itself. This is for those that stay
loaded meanwhile, because another of their branches works: one statement for all of them, twice a
second, and at once when a suspend was told that the other has ended.

Reads: store's OUTCOMES, MISSING.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING
from uuid import UUID

from rowlock.store.connection import Backoff, Disconnected, Session
from rowlock.store.statements import MISSING, OUTCOMES

if TYPE_CHECKING:
    from rowlock.runtime.execution import Execution

LOOK_EVERY_S = 0.5


class Watcher:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._watched: dict[UUID, set[Execution]] = defaultdict(set)
        self._urgent: set[UUID] = set()
        self._wanted = asyncio.Event()

    def watch(self, execution: Execution, run_id: UUID, *, now: bool) -> None:
        self._watched[run_id].add(execution)
        if now:
            self._urgent.add(run_id)
            self._wanted.set()

    def unwatch(self, execution: Execution, run_ids: list[UUID]) -> None:
        for run_id in run_ids:
            watchers = self._watched.get(run_id)
            if watchers is not None:
                watchers.discard(execution)
                if not watchers:
                    del self._watched[run_id]

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            urgent, self._urgent = self._urgent & self._watched.keys(), set()
            if not self._watched:
                continue
            try:
                await self._look(urgent)
                backoff.reset()
            except Disconnected:
                self._urgent |= urgent
                await asyncio.sleep(backoff.next_s())
                self._wanted.set()

    async def _look(self, urgent: set[UUID]) -> None:
        asked = list(urgent or self._watched)
        outcomes = {one.run_id: one for one in await self._session.rows(OUTCOMES, {"runs": asked})}
        unanswered = [run_id for run_id in urgent if run_id not in outcomes]
        missing: set[UUID] = set()
        if unanswered:
            missing = set(await self._session.rows(MISSING, {"runs": unanswered}))
        told = {e for run_id in [*outcomes, *missing] for e in self._watched.get(run_id, ())}
        for execution in told:
            execution.on_outcomes(outcomes, missing)
