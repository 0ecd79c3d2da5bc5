"""A worker that has lost its runs and does not know: it must record nothing.

Reads: the worker's moments, the steps under its claims.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from rowlock.store.laboratory import Laboratory
from rowlock.testing.moments import Mark, When
from rowlock.testing.worker import LOOK_S, Worker


class Zombie:
    """``mark``: the step it was in when its runs were taken. ``claims``: which, in which epochs.

    What it has to tell of that step is held back until the new owner has recorded his own.
    """

    def __init__(
        self,
        worker: Worker,
        mark: Mark,
        lab: Laboratory,
        claims: list[tuple[UUID, int]],
        written: int,
    ) -> None:
        self.worker = worker
        self._mark = mark
        self._lab = lab
        self._claims = claims
        self._written = written
        self._released = asyncio.Event()

    async def at(self, when: When, marks: Sequence[Mark]) -> None:
        """The zombie itself is at a moment."""
        if when is When.CALLED and self._mark in marks:
            await self._released.wait()

    def see(self, when: When, marks: Sequence[Mark]) -> None:
        """Another worker is at a moment."""
        if when is When.WRITTEN and self._mark in marks:
            self._released.set()

    async def end(self) -> None:
        """Let it tell what it has to tell, then clear it away."""
        self._released.set()
        # Its last word is a commit that is refused, or an answer that ends it: no event of ours.
        run_id = self._mark.run_id
        while not self.worker.is_over and self.worker.has_loaded(run_id):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        self.worker.kill()
        with suppress(Exception):
            await self.worker.gone()

    async def check(self) -> None:
        """Raises AssertionError if it has recorded anything."""
        late = await self._lab.written_in(self._claims) - self._written
        if late:
            raise AssertionError(
                f"worker {self.worker.id} lost its runs while it was in {self._mark}, and recorded "
                f"{late} steps or outcomes after that: two owners have written one history. This "
                "is a bug in Rowlock; please report it."
            )
