"""All that there is to see of one run, read with bounds.

A run may have ten thousand steps, a million children and any number of messages: each list is cut,
and says how many there are (counted to a limit as well).

Reads: store's RUN and reports.py.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from rowlock.client import RunInfo
from rowlock.errors import Refused, UnknownRun
from rowlock.settings import Settings
from rowlock.store.connection import Session, Statement
from rowlock.store.reports import (
    ASIDE,
    CANCEL_REQUEST,
    CHILDREN,
    FAMILIES,
    GENERATIONS,
    LAST_STEPS,
    MESSAGES,
    TOTALS,
    WAITS,
    Aside,
    CancelRow,
    ChildRow,
    GenerationRow,
    MessageRow,
    Totals,
    WaitRow,
)
from rowlock.store.statements import RUN, StepRow

R = TypeVar("R")

MOST_COUNTED = 100_000
MOST_SEARCHED = 10_000
"""Children that are sorted to find the first of them; they come nearly in order anyway."""
MOST_PARENTS = 200
FORBIDDEN = "42501"
"""The SQLSTATE of a right that is missing."""


class Doing(msgspec.Struct, frozen=True):
    """A step that had been running for long when its worker was last heard of."""

    run: UUID
    place: str
    name: str
    attempt: int
    since: datetime


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is read of each."""

    steps: int
    waits: int
    messages: int
    children: int
    """Of each run."""
    depth: int
    """How many levels of children."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """A run as it was found."""

    info: RunInfo
    aside: Aside
    cancel: CancelRow | None
    steps: Sequence[StepRow]
    """The last of its present generation, in the order of recording."""
    waits: Sequence[WaitRow]
    doing: Sequence[Doing]
    messages: Sequence[MessageRow]
    """The last."""
    totals: Totals
    children: Mapping[UUID, Sequence[ChildRow]]
    """By parent: its own, and theirs."""
    families: Mapping[UUID, int]
    """How many children each of these has."""
    hidden: Sequence[str]
    """What the present role may not read."""

    @property
    def now(self) -> datetime:
        """The database's time when it was looked at."""
        return self.aside.now


def read_portrait(settings: Settings, run_id: UUID, bounds: Bounds) -> Portrait:
    """Look at a run. Raises UnknownRun, Disconnected."""
    return asyncio.run(_Reader(settings).portrait(run_id, bounds))


def read_generations(settings: Settings, run_id: UUID, most: int) -> list[GenerationRow]:
    """The last histories of a run, the oldest first. Raises UnknownRun, Disconnected."""
    return asyncio.run(_Reader(settings).generations(run_id, most))


class _Reader:
    def __init__(self, settings: Settings) -> None:
        self._session = Session(settings, "client")
        self._hidden: list[str] = []

    async def portrait(self, run_id: UUID, bounds: Bounds) -> Portrait:
        try:
            rows = await self._ask(RUN, run=run_id)
            asides = await self._ask(ASIDE, run=run_id)
            if not rows or not asides:
                raise UnknownRun(run_id)
            info, [aside] = RunInfo.of(rows[0]), asides
            this = {"run": run_id, "generation": info.generation}
            steps = await self._ask(LAST_STEPS, **this, limit=bounds.steps)
            cancel = await self._ask_if_allowed(CANCEL_REQUEST, run=run_id)
            waits = await self._ask_if_allowed(WAITS, **this, limit=bounds.waits)
            messages = await self._ask(MESSAGES, run=run_id, limit=bounds.messages)
            [totals] = await self._ask(TOTALS, **this, limit=MOST_COUNTED)
            children, families = await self._children(run_id, bounds)
        finally:
            await self._session.close()
        doing = msgspec.json.decode(aside.doing or "[]", type=list[Doing])
        return Portrait(
            info,
            aside,
            next(iter(cancel), None),
            steps,
            waits,
            doing,
            messages,
            totals,
            children,
            families,
            self._hidden,
        )

    async def _children(
        self, run_id: UUID, bounds: Bounds
    ) -> tuple[dict[UUID, list[ChildRow]], dict[UUID, int]]:
        children: dict[UUID, list[ChildRow]] = {}
        families: dict[UUID, int] = {}
        parents = [run_id]
        for level in range(bounds.depth + 1):
            counted = await self._ask(FAMILIES, parents=parents, limit=MOST_COUNTED)
            families |= {one.parent_id: one.children for one in counted}
            parents = [one.parent_id for one in counted][:MOST_PARENTS]
            if not parents or level == bounds.depth:
                break
            found = await self._ask(
                CHILDREN, parents=parents, limit=bounds.children, look=MOST_SEARCHED
            )
            for child in found:
                children.setdefault(child.parent_id, []).append(child)
            parents = [child.id for child in found]
        return children, families

    async def generations(self, run_id: UUID, most: int) -> list[GenerationRow]:
        try:
            found = await self._ask(GENERATIONS, run=run_id, limit=most)
        finally:
            await self._session.close()
        if not found:
            raise UnknownRun(run_id)
        return found

    async def _ask_if_allowed(self, statement: Statement[R], **parameters: Any) -> list[R]:
        """Nothing where the role may not read it: rowlock_client sees no waits."""
        try:
            return await self._ask(statement, **parameters)
        except Refused as error:
            if error.sqlstate != FORBIDDEN:
                raise
            self._hidden.append(statement.name)
            return []

    async def _ask(self, statement: Statement[R], **parameters: Any) -> list[R]:
        return await self._session.rows(statement, parameters)
