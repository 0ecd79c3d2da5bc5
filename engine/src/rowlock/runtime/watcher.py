"""Looks for what loaded runs wait for: outcomes, messages, events, groups of children.

A run that only waits is asleep and is woken by whoever brings it about. This is for those that
stay loaded meanwhile, because another of their branches works: one statement a kind for all of
them, twice a second; and at once for a run whose suspend was told that something has happened.

Reads: store's OUTCOMES, MISSING, MAIL, EVENTS, ARRIVED, MEMBERS.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING
from uuid import UUID

from rowlock.store.connection import Backoff, Disconnected, Session
from rowlock.store.statements import (
    ARRIVED,
    EVENTS,
    MAIL,
    MEMBERS,
    MISSING,
    OUTCOMES,
    Ended,
    Told,
)

if TYPE_CHECKING:
    from rowlock.runtime.execution import Execution

LOOK_EVERY_S = 0.5


class Watcher:
    """See the module's text."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._watching: dict[Execution, None] = {}
        self._urgent: dict[Execution, None] = {}
        self._wanted = asyncio.Event()
        self._begun = 0
        self.done = 0
        """How many looks are over."""

    def watch(self, execution: Execution, *, now: bool) -> None:
        """Look for what this run waits for, until it is unloaded."""
        self._watching[execution] = None
        if now:
            self._urgent[execution] = None
            self._wanted.set()

    def unwatch(self, execution: Execution) -> None:
        """It is unloaded."""
        self._watching.pop(execution, None)
        self._urgent.pop(execution, None)

    def look_again(self) -> int:
        """Look for all of them now; what is asked for is found when so many looks are done."""
        self._urgent |= self._watching
        self._wanted.set()
        return self._begun + 1

    async def run(self) -> None:
        """Look until cancelled."""
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            self._begun += 1
            urgent, self._urgent = self._urgent, {}
            if not self._watching:
                self.done = self._begun
                continue
            try:
                if urgent:
                    await self._look(list(urgent), thoroughly=True)
                else:
                    await self._look(list(self._watching), thoroughly=False)
                backoff.reset()
                self.done = self._begun
            except Disconnected:
                self._urgent = urgent | self._urgent
                await asyncio.sleep(backoff.next_s())
                self._wanted.set()

    async def _look(self, executions: list[Execution], *, thoroughly: bool) -> None:
        """``thoroughly``: also whether the runs that are waited for are there at all."""
        asked = {execution: execution.watches() for execution in executions}
        every = [watch for watches in asked.values() for watch in watches]
        runs = list({UUID(watch.on) for watch in every if watch.kind == "run" and watch.on})
        outcomes, missing = await self._outcomes(runs, thoroughly)
        events = await self._events(
            list({(watch.on or "", watch.name or "") for watch in every if watch.kind == "event"})
        )
        mail = await self._mail(
            [
                (execution.run_id, watch.name or "")
                for execution, watches in asked.items()
                for watch in watches
                if watch.kind == "message"
            ]
        )
        for execution, watches in asked.items():
            kinds = {watch.kind for watch in watches}
            if "run" in kinds:
                execution.on_outcomes(outcomes, missing)
            if "event" in kinds:
                execution.on_events(events)
            if topics := mail.get(execution.run_id):
                execution.on_mail(topics)
            for watch in watches:
                if watch.kind == "group":
                    await self._group(execution, watch.name or "", watch.count or 0)

    async def _outcomes(
        self, runs: list[UUID], thoroughly: bool
    ) -> tuple[dict[UUID, Ended], set[UUID]]:
        if not runs:
            return {}, set()
        outcomes = {one.run_id: one for one in await self._session.rows(OUTCOMES, {"runs": runs})}
        unanswered = [run_id for run_id in runs if run_id not in outcomes]
        missing: set[UUID] = set()
        if unanswered and thoroughly:
            missing = set(await self._session.rows(MISSING, {"runs": unanswered}))
        return outcomes, missing

    async def _events(self, asked: list[tuple[str, str]]) -> dict[tuple[UUID, str], Told]:
        if not asked:
            return {}
        told = await self._session.rows(
            EVENTS,
            {"runs": [UUID(run) for run, _ in asked], "names": [name for _, name in asked]},
        )
        return {(one.run_id, one.name): one for one in told}

    async def _mail(self, asked: list[tuple[UUID, str]]) -> dict[UUID, set[str]]:
        found: dict[UUID, set[str]] = defaultdict(set)
        if asked:
            for one in await self._session.rows(
                MAIL, {"runs": [run for run, _ in asked], "topics": [name for _, name in asked]}
            ):
                found[one.run_id].add(one.topic)
        return found

    async def _group(self, execution: Execution, name: str, count: int) -> None:
        [arrived] = await self._session.rows(ARRIVED, {"name": name})
        members = await self._session.rows(MEMBERS, {"name": name}) if arrived >= count else None
        execution.on_group(name, members)
