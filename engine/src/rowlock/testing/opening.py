"""What the fixture ``rowlock_harness`` gives: harnesses on databases of the session's server."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rowlock.app import App
from rowlock.testing.blocking import BlockingHarness
from rowlock.testing.databases import Databases
from rowlock.testing.harness import Harness


class Opening:
    """A harness that is not open yet: ``async with`` opens the async one, ``with`` the blocking."""

    def __init__(self, app: App, options: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        self._harness: Harness
        self._blocking: BlockingHarness

    async def __aenter__(self) -> Harness:
        self._harness = Harness(self._app, **self._options)
        return await self._harness.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._harness.__aexit__(kind)

    def __enter__(self) -> BlockingHarness:
        self._blocking = BlockingHarness(self._app, **self._options)
        return self._blocking.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocking.__exit__(kind)


class OpenHarness:
    """``rowlock_harness(app)``: a harness on a fresh database, to be opened by ``(async) with``."""

    def __init__(self, databases: Databases) -> None:
        self._databases = databases

    def __call__(self, app: App, **options: Any) -> Opening:
        """``options``: those of :class:`~rowlock.testing.Harness`."""
        return Opening(app, {"databases": self._databases} | options)
