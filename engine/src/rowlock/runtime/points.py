"""The points between doing and recording, where a test may step into a worker.

A worker that is given no Points, as every worker in production, passes them for a look at None.
What it is given may wait at a point for as long as it likes, or never come back: the worker stands
still there, and whoever is served by that task stands still with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rowlock.runtime.request import Request
from rowlock.store.entries import Entry
from rowlock.store.statements import Answer, Claimed


class Points:
    """See the module's text. Nothing happens here; rowlock.testing knows what to do instead."""

    async def writing(self, entries: Sequence[Entry]) -> None:
        """The journal is about to send these as one commit, perhaps not for the first time."""

    async def written(self, entries: Sequence[Entry], answers: Mapping[int, Answer]) -> None:
        """The commit is acknowledged, and nobody was told yet. No answer: it was written."""

    async def calling(self, run: Claimed, request: Request) -> None:
        """A step's function is about to be called, or called again."""

    async def called(self, run: Claimed, request: Request) -> None:
        """A step came to its end, well or badly, and nothing of that has left the worker."""

    async def committing(self, run: Claimed, request: Request) -> None:
        """Something with a connection of its own is about to commit: a transaction step (its
        function has returned), the start of a child with a key."""

    async def committed(self, run: Claimed, request: Request) -> None:
        """It has committed, and nobody was told yet."""
