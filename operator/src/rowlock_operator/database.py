"""The one file that speaks to the database: reads the fleet, promotes versions.

One connection for each database, however many apps are kept in it.
"""

from __future__ import annotations

import asyncio

from rowlock.errors import RowlockError, SchemaTooNew, SchemaTooOld
from rowlock.fleet import FleetReader
from rowlock.settings import Settings
from rowlock_operator.observed import Database


class Databases:
    """Readers by the settings they connect with."""

    def __init__(self) -> None:
        self._readers: dict[Settings, FleetReader] = {}
        self._locks: dict[Settings, asyncio.Lock] = {}

    async def look(self, where: Settings, app: str) -> Database:
        """The state of one app."""
        try:
            async with self._lock(where):
                return Database(fleet=await self._reader(where).read(app))
        except SchemaTooOld:
            return Database(needs_migration=True)
        except SchemaTooNew as error:
            trouble = f"{error} The operator itself must be upgraded."
            return Database(reachable=False, reason="OperatorOutdated", trouble=trouble)
        except RowlockError as error:
            return Database(reachable=False, reason="ConnectionFailed", trouble=str(error))

    async def promote(self, where: Settings, app: str, version: str) -> None:
        """Let a version take all runs that are not pinned yet."""
        async with self._lock(where):
            await self._reader(where).promote(app, version)

    async def keep_only(self, used: set[Settings]) -> None:
        """Close the connections to all other databases."""
        for where in self._readers.keys() - used:
            async with self._lock(where):
                reader = self._readers.pop(where, None)
                if reader is not None:
                    await reader.close()
            self._locks.pop(where, None)

    async def close(self) -> None:
        await self.keep_only(set())

    def _reader(self, where: Settings) -> FleetReader:
        if where not in self._readers:
            self._readers[where] = FleetReader(where)
        return self._readers[where]

    def _lock(self, where: Settings) -> asyncio.Lock:
        return self._locks.setdefault(where, asyncio.Lock())
