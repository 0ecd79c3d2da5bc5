"""What tests do to a database that nobody does in production: let time pass, declare workers dead.

Time passes by moving every time in the database back. So the functions under test are those that
ship, they keep asking the server's own clock, and what is due in a week becomes due now. Which
columns are times is asked of the catalog: a table that comes later is moved too. Leases stay: they
are about processes, which live in real time.

Reads and writes: all tables of the schema.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.sql import SQL, Composed, Identifier, Literal

from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, conninfo
from rowlock.store.migrate import functions

LOCK_TIMEOUT_MS = 100
MOST_TRIES = 100

_REAL = ["worker", "migration", "repeatable"]
"""Tables whose times are real: leases, and what was applied when."""

_TIMES = """
select c.relname as table, array_agg(a.attname::text order by a.attnum) as columns
  from pg_class as c
  join pg_attribute as a on a.attrelid = c.oid
 where c.relnamespace = 'rowlock'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
   and a.atttypid = 'timestamptz'::regtype and a.attnum > 0 and not a.attisdropped
   and not c.relname = any (%s)
 group by c.relname
 order by c.relname"""

_LOOK = """
select coalesce((extract(epoch from clock_timestamp()) * 1e6)::bigint, 0) as now_us,
       count(*) filter (where t.state = 'running') as running,
       count(*) filter (where t.state = 'ready') as ready,
       (select count(*) from rowlock.wake) as wakes,
       (extract(epoch from min(t.due_at) filter (
            where t.state in ('scheduled', 'waiting') and t.due_at < 'infinity')
            - clock_timestamp()) * 1e6)::bigint as next_due_us,
       (select (extract(epoch from min(s.due_at) - clock_timestamp()) * 1e6)::bigint
          from rowlock.schedule as s
         where s.app = %(app)s and s.due_at < 'infinity'
           and not (s.overlap = 'queue' and s.next_tick <= clock_timestamp()
                    and rowlock.unfinished_of(s.app, s.name) <> '{}')) as next_tick_us,
       (select count(*) from rowlock.schedule_backfill as b
         where b.app = %(app)s and b.ended_at is null) as backfills,
       not exists (select from rowlock.task as x where x.run_id = %(run)s)
           and exists (select from rowlock.outcome as x where x.run_id = %(run)s) as finished
  from rowlock.task as t
 where t.app = %(app)s"""

_UNFINISHED = """
select t.run_id, t.app, t.workflow, t.queue, t.state, t.reason ->> 'message' as reason,
       case when t.due_at < 'infinity' then t.due_at end as due_at,
       coalesce((select jsonb_agg(to_jsonb(w) order by w.place) from rowlock.wait as w
                  where w.run_id = t.run_id and w.generation = t.generation), '[]') as waits
  from rowlock.task as t
 order by t.run_id
 limit 20"""

_ORIGINS = """
select r.id, r.parent_id, r.parent_place::text, r.workflow from rowlock.run as r
 where r.id = any (%s)"""

_STEPS = """
select s.run_id, s.generation, s.place::text, s.kind, s.name, s.error is null as succeeded
  from rowlock.step as s"""

_ENDS = """
select r.run_id, r.status, r.output::text, r.error ->> 'type' as error_type,
       r.error ->> 'message' as error_message
  from rowlock.runs as r"""

# In one transaction: a worker that is alive would renew its lease in between.
_SEIZE = """
do $do$ begin
    update rowlock.worker set lease_until = clock_timestamp() - interval '1 second' where id = {};
    perform rowlock.tend(1000, {});
end $do$"""

_WRITTEN = """
with claims as (select * from unnest(%(runs)s::uuid[], %(epochs)s::int[]))
select (select count(*) from rowlock.step as s where (s.run_id, s.epoch) in (table claims))
     + (select count(*) from rowlock.outcome as o where (o.run_id, o.epoch) in (table claims))"""


@dataclass(frozen=True, slots=True)
class Look:
    """What there is to do, at one moment."""

    now_us: int
    running: int
    ready: int
    wakes: int
    next_due_us: int | None
    """Until the next timer falls due; 0 or less: it is due already. None: there is none."""
    next_tick_us: int | None
    """Until the next tick of a schedule; 0 or less: it is due. None: there is none."""
    backfills: int
    """How many are not done."""
    finished: bool
    """Whether the run that was asked about has ended."""

    @property
    def has_ticks(self) -> bool:
        """Whether ticks are to be taken now."""
        is_due = self.next_tick_us is not None and self.next_tick_us <= 0
        return is_due or self.backfills > 0


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run without an outcome, and what it waits for."""

    run_id: UUID
    app: str
    workflow: str
    queue: str
    state: str
    reason: str | None
    due_at: datetime | None
    waits: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose child a run is."""

    id: UUID
    parent_id: UUID | None
    parent_place: str | None
    workflow: str


@dataclass(frozen=True, slots=True)
class StepMade:
    """A recorded step, without what differs from try to try."""

    run_id: UUID
    generation: int
    place: str
    kind: str
    name: str
    succeeded: bool


@dataclass(frozen=True, slots=True)
class End:
    """How a run stands."""

    run_id: UUID
    status: str
    output: str | None
    error_type: str | None
    error_message: str | None


class Laboratory:
    """A connection of the test's own. ``async with`` opens and closes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._connection: AsyncConnection[Any]
        self._times: list[tuple[str, list[str]]] = []
        self._name = ""
        self.offset = timedelta()
        """How much time has passed that did not pass in the world."""

    async def open(self) -> None:
        try:
            self._connection = await AsyncConnection.connect(
                conninfo(self._settings, "test"), autocommit=True
            )
        except psycopg.OperationalError as error:
            raise Disconnected(f"can't reach the test's database: {error}") from None
        told = await self._value("select nullif(current_setting('rowlock.test_offset', true), '')")
        self.offset = timedelta(microseconds=int(told.split()[0])) if told else timedelta()

    async def close(self) -> None:
        with suppress(psycopg.Error):
            await self._connection.close()

    @property
    def address(self) -> tuple[str, int]:
        """Host (or the folder of its socket) and port that the server was reached at."""
        info = self._connection.info
        return info.host, info.port

    async def is_migrated(self) -> bool:
        """Whether it holds the schema of this very code."""
        there = await self._value("select to_regclass('rowlock.repeatable') is not null")
        if not there:
            return False
        applied = "select checksum from rowlock.repeatable where name = 'functions'"
        return bool(await self._value(applied) == functions().checksum)

    # --- time

    async def now(self) -> datetime:
        """What time it is, with the time that the test has let pass."""
        real: datetime = await self._value("select clock_timestamp()")
        return real + self.offset

    async def pass_time(self, by: timedelta) -> None:
        """Move all times back by this much, at once."""
        microseconds = by // timedelta(microseconds=1)
        if not self._times:
            self._times = await self._rows(_TIMES, [_REAL])
            self._name = await self._value("select current_database()")
        moves = [
            SQL("moved_{} as (update rowlock.{} set {})").format(
                SQL(str(number)),
                Identifier(table),
                SQL(", ").join(
                    SQL("{0} = {0} - {1} * interval '1 microsecond'").format(
                        Identifier(column), Literal(microseconds)
                    )
                    for column in columns
                ),
            )
            for number, (table, columns) in enumerate(self._times)
        ]
        after = self.offset + by
        move = SQL("with {} select").format(SQL(", ").join(moves))
        tell = SQL("alter database {} set rowlock.test_offset = {}").format(
            Identifier(self._name), Literal(offset_text(after))
        )
        for tries in range(MOST_TRIES, 0, -1):
            try:
                await self._move(move, tell)
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
                if tries == 1:
                    raise Disconnected(
                        "time can't pass: a transaction is open that has written to Rowlock's "
                        f"tables. End it before the test waits ({str(error).splitlines()[0]})."
                    ) from None
        self.offset = after

    async def _move(self, move: Composed, tell: Composed) -> None:
        # Others lock rows in an order of their own, and never expect who takes all of them. So it
        # is this one that gives up, before PostgreSQL looks for a deadlock and chooses a victim.
        async with self._lock, self._connection.transaction():
            await self._connection.execute(f"set local lock_timeout = {LOCK_TIMEOUT_MS}")
            await self._connection.execute(move)
            await self._connection.execute(tell)

    # --- looking

    async def look(self, app: str, run: UUID | None) -> Look:
        found: list[Look] = await self._made(Look, _LOOK, {"app": app, "run": run})
        return found[0]

    async def unfinished(self) -> list[Unfinished]:
        """Runs that have not ended, twenty at most."""
        return await self._made(Unfinished, _UNFINISHED, None)

    async def origins(self, run_ids: Sequence[UUID]) -> list[Origin]:
        return await self._made(Origin, _ORIGINS, [list(run_ids)])

    async def steps(self) -> list[StepMade]:
        """All recorded steps of all runs."""
        return await self._made(StepMade, _STEPS, None)

    async def ends(self) -> list[End]:
        """How all runs stand."""
        return await self._made(End, _ENDS, None)

    async def written_in(self, claims: Sequence[tuple[UUID, int]]) -> int:
        """How many steps and outcomes were recorded under these claims (run, epoch)."""
        runs, epochs = [run for run, _ in claims], [epoch for _, epoch in claims]
        found = await self._rows(_WRITTEN, {"runs": runs, "epochs": epochs})
        return int(found[0][0])

    # --- dead workers

    async def claims_of(self, worker_id: int) -> list[tuple[UUID, int]]:
        """The runs that a worker owns, with their epochs."""
        asked = "select run_id, epoch from rowlock.task where state = 'running' and worker_id = %s"
        return [(run, epoch) for run, epoch in await self._rows(asked, [worker_id])]

    async def seize(self, worker_id: int, max_takeovers: int) -> bool:
        """Let a worker's lease end, and take its runs over. False: it still has some; ask again.

        Its last statement may be under way on the server, as after the death of a process.
        """
        query = SQL(_SEIZE).format(Literal(worker_id), Literal(max_takeovers))
        async with self._lock:
            await self._connection.execute(query)
        asked = "select not exists (select from rowlock.worker where id = %s)"
        return bool(await self._value(asked, [worker_id]))

    # --- asking

    async def _rows(self, query: str, parameters: Any = None) -> list[Any]:
        async with self._lock:
            cursor = await self._connection.execute(query.encode(), parameters)
            return await cursor.fetchall()

    async def _value(self, query: str, parameters: Any = None) -> Any:
        rows = await self._rows(query, parameters)
        return rows[0][0] if rows else None

    async def _made(self, kind: Any, query: str, parameters: Any) -> list[Any]:
        async with self._lock, self._connection.cursor(row_factory=class_row(kind)) as cursor:
            await cursor.execute(query.encode(), parameters)
            return await cursor.fetchall()


def offset_text(offset: timedelta) -> str:
    """What ``rowlock.test_offset`` is set to."""
    return f"{offset // timedelta(microseconds=1)} microseconds"
