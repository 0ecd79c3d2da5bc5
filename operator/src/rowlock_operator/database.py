"""The one file that speaks to the database: reads the fleet, promotes versions.

One connection for each database, however many apps are kept in it.
"""

from __future__ import annotations

import asyncio
import logging

from rowlock.errors import Disconnected, RowlockError, SchemaTooNew, SchemaTooOld
from rowlock.fleet import FleetReader
from rowlock.settings import Settings
from rowlock_operator.observed import Database

log = logging.getLogger("rowlock.operator")


class Databases:
    """Readers by URL."""

    def __init__(self) -> None:
        self._readers: dict[str, FleetReader] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def look(self, url: str, app: str, *, pgbouncer: bool) -> Database:
        """The state of one app."""
        try:
            async with self._lock(url):
                return Database(fleet=await self._reader(url, pgbouncer).read(app))
        except SchemaTooOld:
            return Database(needs_migration=True)
        except SchemaTooNew as error:
            trouble = f"{error} The operator itself must be upgraded."
            return Database(reachable=False, reason="OperatorOutdated", trouble=trouble)
        except Disconnected as error:
            return Database(reachable=False, reason="ConnectionFailed", trouble=str(error))
        except RowlockError as error:
            return Database(reachable=False, reason="ConnectionFailed", trouble=str(error))

    async def promote(self, url: str, app: str, version: str) -> None:
        """Let a version take all runs that are not pinned yet."""
        async with self._lock(url):
            await self._reader(url, False).promote(app, version)

    async def keep_only(self, urls: set[str]) -> None:
        """Close the connections to all other databases."""
        for url in list(self._readers.keys() - urls):
            async with self._lock(url):
                reader = self._readers.pop(url, None)
                if reader is not None:
                    await reader.close()
            self._locks.pop(url, None)

    async def close(self) -> None:
        await self.keep_only(set())

    def _reader(self, url: str, pgbouncer: bool) -> FleetReader:
        if url not in self._readers:
            self._readers[url] = FleetReader(Settings(database_url=url, pgbouncer=pgbouncer))
        return self._readers[url]

    def _lock(self, url: str) -> asyncio.Lock:
        return self._locks.setdefault(url, asyncio.Lock())
