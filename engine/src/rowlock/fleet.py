"""What the database holds, for whoever watches over many workers: the operator, the exporter.

One statement gives all of it, from one snapshot. It reads the task table once and everything
else by key, so it costs what the unfinished runs cost, not what the history does; see
store/functions/fleet.sql for what the numbers mean and how they are bounded.

Reads: store's FLEET.  Writes: store's PROMOTE.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, TypeVar

import msgspec

from rowlock.errors import Refused, SchemaTooNew, SchemaTooOld
from rowlock.settings import Settings
from rowlock.store import migrate
from rowlock.store.connection import Session, Statement
from rowlock.store.statements import FLEET, PROMOTE, FleetRow

R = TypeVar("R")

TIMEOUT_S = 15.0
"""An answer that takes longer is a lost database. PostgreSQL itself gives up before that, at a
third of `lease_seconds` (10 s)."""
_NOT_MIGRATED = ("3F000", "42P01", "42883")  # SQLSTATEs: no such schema, table, function


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many unfinished runs of one kind there are; kinds without runs are left out."""

    app: str
    queue: str
    version: str
    """The code version they are pinned to; empty: not pinned yet."""
    state: str
    """ready, running, waiting, scheduled or blocked; or paused: ready but for a pause."""
    tasks: int
    oldest_due_seconds: float | None
    """ready: for how long the first of them has been due."""
    next_due_seconds: float | None
    """waiting, scheduled: until the first of them falls due; below 0 when it is overdue, as it
    stays while no worker runs. None when all wait for other runs."""


@dataclass(frozen=True, slots=True)
class WorkerState:
    """One worker process."""

    worker_id: int
    app: str
    version: str
    host: str
    """The machine's name; in Kubernetes the pod's."""
    queues: tuple[str, ...] | None
    """None: all queues of its app."""
    slots: int
    running: int
    draining: bool
    alive: bool
    """Whether its lease holds. If not, the next worker that looks takes its runs over."""


@dataclass(frozen=True, slots=True)
class VersionState:
    """A code version that some worker has registered with."""

    app: str
    name: str
    registered_at: datetime
    promoted_at: datetime | None
    is_current: bool
    """Whether it takes the runs that are not pinned yet."""
    unfinished: int = 0
    """Runs pinned to it."""


@dataclass(frozen=True, slots=True)
class RateState:
    """How busy a declared queue is; estimates from bounded samples, see functions/fleet.sql."""

    app: str
    queue: str
    arrivals_per_second: float
    """Runs created, over the last 60 s or as far back as the newest 10,000 runs reach."""
    mean_run_seconds: float | None
    """From start to end, of runs that were claimed once and never waited. None: not known."""


@dataclass(frozen=True, slots=True)
class LimitState:
    """What limits a queue."""

    app: str
    queue: str
    kind: str
    """concurrency, worker_concurrency, rate_per_second, partition_concurrency or
    partition_rate_per_second."""
    value: float


@dataclass(frozen=True, slots=True)
class FleetState:
    """All of it, at one moment of the database's clock."""

    at: datetime
    schema_level: int
    queues: tuple[QueueState, ...]
    workers: tuple[WorkerState, ...]
    versions: tuple[VersionState, ...]
    rates: tuple[RateState, ...]
    """One for every declared queue, also the idle ones."""
    limits: tuple[LimitState, ...] = ()
    """Those that are set."""


class FleetReader:
    """Reads the state of the fleet over one connection, opened when first needed.

    ``async with FleetReader(settings) as fleet: await fleet.read("shop")``
    """

    def __init__(self, settings: Settings | str) -> None:
        self._settings = Settings(database_url=settings) if isinstance(settings, str) else settings
        self._session = Session(self._settings, "fleet", timeout_s=TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; a later call opens another."""
        await self._session.close()

    async def read(self, app: str | None = None) -> FleetState:
        """The state of one app, or of all.

        Raises Disconnected when the database can't be reached or takes too long, SchemaTooOld
        when it must be migrated first, SchemaTooNew when it demands newer code.
        """
        [row] = await self._ask(FLEET, {"app": app})
        if row.minimum_level > migrate.LEVEL:
            raise SchemaTooNew(migrate.LEVEL, row.minimum_level)
        return _state(row)

    async def promote(self, app: str, version: str) -> None:
        """From now on this version takes the app's runs that are not pinned yet.

        Raises Refused (``RLN02``) when no worker has registered with it; else as :meth:`read`.
        """
        await self._ask(PROMOTE, {"app": app, "version": version})

    async def _ask(self, statement: Statement[R], parameters: Mapping[str, Any]) -> list[R]:
        try:
            return await self._session.rows(statement, parameters)
        except Refused as error:
            if error.sqlstate not in _NOT_MIGRATED:
                raise
        # Says more, and more exactly; what it does not find wrong are the functions.
        level = await asyncio.to_thread(migrate.check, self._settings)
        raise SchemaTooOld(level, migrate.LEVEL)


def _state(row: FleetRow) -> FleetState:
    queues = msgspec.json.decode(row.tasks, type=tuple[QueueState, ...])
    pinned: Counter[tuple[str, str]] = Counter()
    for queue in queues:
        pinned[queue.app, queue.version] += queue.tasks
    versions = msgspec.json.decode(row.versions, type=tuple[VersionState, ...])
    return FleetState(
        at=row.at,
        schema_level=row.schema_level,
        queues=queues,
        workers=msgspec.json.decode(row.workers, type=tuple[WorkerState, ...]),
        versions=tuple(replace(v, unfinished=pinned[v.app, v.name]) for v in versions),
        rates=msgspec.json.decode(row.rates, type=tuple[RateState, ...]),
        limits=msgspec.json.decode(row.limits, type=tuple[LimitState, ...]),
    )
