"""What `rowlock doctor` asks a database: PostgreSQL's own catalogs, and Rowlock's tables.

A connection without any of our session settings, so that what it is told is what strangers get;
each question in a read-only transaction of its own that waits for little and gives up soon. No
question needs a superuser; what the role may not see comes as null, or is refused, and the doctor
says so.

Reads: the catalogs, the statistics, the schema.  Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection

from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, Statement, conninfo, describe, refusal

R = TypeVar("R")

STATEMENT_TIMEOUT = "5s"
LOCK_TIMEOUT = "1s"
MOST_ROWS = 20
"""So many culprits are named; more would help nobody."""
MOST_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Link:
    """How the database is reached, as libpq knows it."""

    is_local: bool
    """Over a socket, or the machine's own address."""
    tls: bool
    key_pid: int
    """The backend's process as the server, or a pooler, said when it let us in."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """Which server this is, and what we are to it."""

    pid: int
    version_number: int
    version: str
    is_standby: bool
    is_read_only: bool
    encoding: str
    database: str
    role: str
    sees_all: bool
    """Whether it may read what other users' sessions do."""


SERVER = Statement(
    "doctor_server",
    "select pg_backend_pid() as pid, current_setting('server_version_num')::int as version_number,"
    " current_setting('server_version') as version, pg_is_in_recovery() as is_standby,"
    " current_setting('default_transaction_read_only') = 'on' as is_read_only,"
    " current_setting('server_encoding') as encoding, current_database()::text as database,"
    " current_user::text as role, pg_has_role('pg_read_all_stats', 'usage') as sees_all",
    ServerFacts,
)

PID: Statement[int] = Statement("doctor_pid", "select pg_backend_pid()", int)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as a new session gets it."""

    name: str
    value: str


SETTINGS = Statement(
    "doctor_settings",
    "select name, setting as value from pg_settings where name = any (%(names)s::text[])",
    Setting,
)

CLOCK: Statement[datetime] = Statement(
    "doctor_clock", "select clock_timestamp()", lambda moment: moment
)


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    """How far the schema is; level 0: there is none."""

    level: int
    minimum: int
    functions: str | None
    """The checksum of what was applied."""


HAS_SCHEMA: Statement[bool] = Statement(
    "doctor_has_schema", "select to_regclass('rowlock.migration') is not null", bool
)
SCHEMA = Statement(
    "doctor_schema",
    "select coalesce(max(number), 0) as level, coalesce(max(minimum_level), 0) as minimum,"
    " (select checksum from rowlock.repeatable where name = 'functions') as functions"
    "  from rowlock.migration",
    SchemaFacts,
)

# By pg_class and pg_proc, which anybody may read, whatever his rights on the things themselves.
MISSING_FUNCTIONS: Statement[str] = Statement(
    "doctor_missing_functions",
    "select n.name from unnest(%(names)s::text[]) as n (name)"
    " where not exists (select from pg_proc as p where p.proname = n.name"
    "                    and p.pronamespace = to_regnamespace('rowlock')) order by 1",
    str,
)
MISSING_RELATIONS: Statement[str] = Statement(
    "doctor_missing_relations",
    "select n.name from unnest(%(names)s::text[]) as n (name)"
    " where not exists (select from pg_class as c where c.relname = n.name"
    "                    and c.relnamespace = to_regnamespace('rowlock')) order by 1",
    str,
)
INVALID_INDEXES: Statement[str] = Statement(
    "doctor_invalid_indexes",
    "select c.relname from pg_index as i join pg_class as c on c.oid = i.indexrelid"
    " where c.relnamespace = to_regnamespace('rowlock') and not i.indisvalid order by 1",
    str,
)


@dataclass(frozen=True, slots=True)
class Rights:
    """What the present role may do, by the functions that stand for it."""

    schema: bool
    """Whether it may use the schema at all."""
    allowed: list[str]
    """Of the functions asked for, those that it may call."""


RIGHTS = Statement(
    "doctor_rights",
    "select coalesce(has_schema_privilege(to_regnamespace('rowlock')::oid, 'usage'), false)"
    " as schema,"
    " array(select distinct p.proname::text from pg_proc as p"
    "        where p.pronamespace = to_regnamespace('rowlock')"
    "          and p.proname = any (%(names)s::text[])"
    "          and has_function_privilege(p.oid, 'execute')) as allowed",
    Rights,
)
MY_APPS: Statement[list[str] | None] = Statement(
    "doctor_my_apps", "select rowlock.my_apps()", lambda apps: apps
)


@dataclass(frozen=True, slots=True)
class Connections:
    """How many connections there are, and may be."""

    most: int
    """Of roles without special rights."""
    used: int
    ours: int
    """Of Rowlock's processes, by the name they give themselves."""
    database_limit: int
    """-1: none."""
    database_used: int
    role_limit: int
    role_used: int


CONNECTIONS = Statement(
    "doctor_connections",
    "select current_setting('max_connections')::int"
    "   - current_setting('superuser_reserved_connections')::int"
    "   - coalesce(current_setting('reserved_connections', true), '0')::int as most,"
    " count(*) as used, count(*) filter (where a.application_name like 'rowlock %%') as ours,"
    " (select d.datconnlimit from pg_database as d where d.datname = current_database())"
    " as database_limit,"
    " count(*) filter (where a.datname = current_database()) as database_used,"
    " (select r.rolconnlimit from pg_roles as r where r.rolname = current_user) as role_limit,"
    " count(*) filter (where a.usename = current_user) as role_used"
    "  from pg_stat_activity as a where a.datname is not null",
    Connections,
)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction. What it says is not asked: statements hold values."""

    pid: int
    role: str | None
    application_name: str
    state: str | None
    seconds: float
    holds_back: bool
    """Whether vacuum has to leave what was deleted since."""


TRANSACTIONS = Statement(
    "doctor_transactions",
    "select a.pid, a.usename::text as role, a.application_name, a.state,"
    " extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds,"
    " a.backend_xmin is not null or a.backend_xid is not null as holds_back"
    "  from pg_stat_activity as a"
    " where a.datname = current_database() and a.pid <> pg_backend_pid()"
    "   and a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)"
    "   and a.backend_type in ('client backend', 'parallel worker')"
    " order by a.xact_start limit %(limit)s",
    Transaction,
)
HIDDEN_SESSIONS: Statement[int] = Statement(
    "doctor_hidden_sessions",
    "select count(*) from pg_stat_activity as a where a.datname = current_database()"
    " and a.backend_type is null",
    int,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A transaction that was prepared, and that nobody has ended."""

    name: str
    role: str
    seconds: float


PREPARED = Statement(
    "doctor_prepared",
    "select p.gid as name, p.owner::text as role,"
    " extract(epoch from clock_timestamp() - p.prepared)::float8 as seconds"
    "  from pg_prepared_xacts as p where p.database = current_database()"
    "   and p.prepared < clock_timestamp() - make_interval(secs => %(seconds)s)"
    " order by p.prepared limit %(limit)s",
    Prepared,
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot that somebody made and nobody uses."""

    name: str
    kind: str
    xmin_age: int | None
    """How many transactions it holds vacuum back by."""
    wal_bytes: int | None
    """How much of the log it keeps."""


SLOTS = Statement(
    "doctor_slots",
    "select s.slot_name::text as name, s.slot_type as kind,"
    " greatest(age(s.xmin), age(s.catalog_xmin)) as xmin_age,"
    " case when not pg_is_in_recovery()"
    "      then pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::int8 end as wal_bytes"
    "  from pg_replication_slots as s"
    " where not s.active and (s.database is null or s.database = current_database())"
    " order by 1 limit %(limit)s",
    Slot,
)


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the schema, and how well it is kept."""

    name: str
    live: int
    dead: int
    vacuum_at: int
    """So many dead rows, and autovacuum comes."""
    autovacuum: bool
    """Whether autovacuum may."""
    last_vacuum: datetime | None


TABLES = Statement(
    "doctor_tables",
    "select s.relname::text as name, s.n_live_tup as live, s.n_dead_tup as dead,"
    " (coalesce(o.threshold, current_setting('autovacuum_vacuum_threshold'))::float8"
    "   + coalesce(o.scale, current_setting('autovacuum_vacuum_scale_factor'))::float8"
    "   * greatest(c.reltuples, 0))::int8 as vacuum_at,"
    " coalesce(o.enabled, 'true')::boolean as autovacuum,"
    " greatest(s.last_vacuum, s.last_autovacuum) as last_vacuum"
    "  from pg_stat_user_tables as s"
    "  join pg_class as c on c.oid = s.relid"
    " cross join lateral ("
    "       select max(x.option_value) filter (where x.option_name = 'autovacuum_enabled')"
    "              as enabled,"
    "              max(x.option_value) filter (where x.option_name"
    "                    = 'autovacuum_vacuum_threshold') as threshold,"
    "              max(x.option_value) filter (where x.option_name"
    "                    = 'autovacuum_vacuum_scale_factor') as scale"
    "         from pg_options_to_table(c.reloptions) as x) as o"
    " where s.schemaname = 'rowlock' order by s.n_dead_tup desc, 1",
    Table,
)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock on a table of the schema."""

    pid: int
    role: str | None
    application_name: str | None
    table: str
    mode: str
    granted: bool
    seconds: float | None
    """For how long its transaction has been open; None: hidden."""


# Modes that keep others from writing, autovacuum's own excepted, which makes way.
STRONG_LOCKS = Statement(
    "doctor_strong_locks",
    "select l.pid, a.usename::text as role, a.application_name, c.relname::text as table, l.mode,"
    " l.granted, extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds"
    "  from pg_locks as l"
    "  join pg_class as c on c.oid = l.relation"
    "  left join pg_stat_activity as a on a.pid = l.pid"
    " where l.locktype = 'relation' and l.pid <> pg_backend_pid()"
    "   and l.database = (select d.oid from pg_database as d where d.datname = current_database())"
    "   and c.relnamespace = to_regnamespace('rowlock') and c.relkind in ('r', 'p')"
    "   and l.mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',"
    "                  'AccessExclusiveLock')"
    " order by l.granted desc, a.xact_start limit %(limit)s",
    Lock,
)
OLD_LOCKS = Statement(
    "doctor_old_locks",
    "select distinct on (a.xact_start, l.pid) l.pid, a.usename::text as role, a.application_name,"
    " c.relname::text as table, l.mode, l.granted,"
    " extract(epoch from clock_timestamp() - a.xact_start)::float8 as seconds"
    "  from pg_locks as l"
    "  join pg_class as c on c.oid = l.relation"
    "  join pg_stat_activity as a on a.pid = l.pid"
    " where l.locktype = 'relation' and l.pid <> pg_backend_pid()"
    "   and l.database = (select d.oid from pg_database as d where d.datname = current_database())"
    "   and c.relnamespace = to_regnamespace('rowlock') and c.relkind in ('r', 'p')"
    "   and l.mode in ('RowShareLock', 'RowExclusiveLock')"
    "   and a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)"
    " order by a.xact_start, l.pid, c.relname limit %(limit)s",
    Lock,
)


@dataclass(frozen=True, slots=True)
class WorkerLease:
    """A worker process as its row says."""

    id: int
    app: str
    version: str
    host: str
    pid: int
    queues: list[str] | None
    draining: bool
    lease_seconds: float
    running: int


LEASES = Statement(
    "doctor_leases",
    "select w.id, w.app, w.version, w.host, w.pid, w.queues,"
    " w.draining or exists (select from rowlock.drain_request as d where d.worker_id = w.id)"
    " as draining,"
    " extract(epoch from w.lease_until - clock_timestamp())::float8 as lease_seconds,"
    " (select count(*) from rowlock.task as t where t.worker_id = w.id and t.state = 'running')"
    " as running"
    "  from rowlock.worker as w order by w.id",
    WorkerLease,
)


@dataclass(frozen=True, slots=True)
class Demand:
    """Runs that could be claimed now, of one queue and version; ``current``: the app's version."""

    app: str
    queue: str
    version: str
    current: str | None
    runs: int
    oldest_seconds: float


# What is due and was not promoted is as good as ready: there may be nobody to promote it. What is
# paused needs no worker.
DEMAND = Statement(
    "doctor_demand",
    "select x.app, x.queue, x.version, rowlock.current_version(x.app) as current, x.runs,"
    " extract(epoch from clock_timestamp() - x.oldest)::float8 as oldest_seconds"
    "  from (select t.app, t.queue, t.version, count(*) as runs, min(t.due_at) as oldest"
    "          from rowlock.task as t"
    "         where t.state = 'ready'"
    "            or (t.state in ('scheduled', 'waiting') and t.due_at < statement_timestamp())"
    "         group by 1, 2, 3) as x"
    " where not exists (select from rowlock.pauses as p where p.app = x.app"
    "                    and p.workflow is null and (p.queue is null or p.queue = x.queue))"
    " order by x.oldest",
    Demand,
)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Runs that need a person or other code, of one workflow and one reason."""

    app: str
    workflow: str
    kind: str
    runs: int


# Those set aside for a paused workflow need nobody.
BLOCKED = Statement(
    "doctor_blocked",
    "select x.app, x.workflow, x.kind, count(*) as runs"
    "  from (select t.app, t.workflow, coalesce(t.reason ->> 'kind', 'blocked') as kind"
    "          from rowlock.task as t where t.state = 'blocked' and t.app >= ''"
    "           and t.reason ->> 'kind' is distinct from 'paused' limit %(limit)s) as x"
    " group by 1, 2, 3 order by 4 desc, 1, 2, 3",
    Blocked,
)


@dataclass(frozen=True, slots=True)
class OldCancel:
    """A request to cancel that has not ended its run, longer than its grace."""

    run_id: UUID
    state: str
    seconds: float


OLD_CANCELS = Statement(
    "doctor_old_cancels",
    "select c.run_id, t.state,"
    " extract(epoch from clock_timestamp() - min(c.requested_at))::float8 as seconds"
    "  from rowlock.cancel_request as c join rowlock.task as t on t.run_id = c.run_id"
    " where c.generation = t.generation"
    "   and c.requested_at + make_interval(secs => c.grace_s + %(seconds)s) < clock_timestamp()"
    " group by 1, 2 order by 3 desc limit %(limit)s",
    OldCancel,
)


class Examiner:
    """A connection that only looks. ``with Examiner(settings) as it``.

    ``as_workers``: opened with the settings that Rowlock's own sessions have.
    """

    def __init__(self, settings: Settings, *, as_workers: bool = False) -> None:
        # Without them: as where a pooler would not let them pass.
        self._settings = settings if as_workers else replace(settings, pgbouncer=True)
        self._connection: Connection[Any] | None = None

    def __enter__(self) -> Self:
        """Raises Disconnected, ConfigurationError."""
        try:
            self._connection = psycopg.connect(
                conninfo(self._settings, "doctor"), autocommit=True, prepare_threshold=None
            )
        except psycopg.OperationalError as error:
            raise Disconnected(describe(error)) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    @property
    def link(self) -> Link:
        """How it is connected."""
        connection = self._open()
        info = connection.info
        host = info.hostaddr or info.host
        return Link(
            is_local=host.startswith("/") or host in ("127.0.0.1", "::1", "localhost"),
            tls=connection.pgconn.ssl_in_use,
            key_pid=connection.pgconn.backend_pid,
        )

    def rows(self, statement: Statement[R], **parameters: Any) -> list[R]:
        """Raises Disconnected, also when it had to wait too long; Poisoned, Refused."""
        return self._rows(statement, parameters)

    def one(self, statement: Statement[R], **parameters: Any) -> R:
        """The row of a statement that always gives one."""
        return self._rows(statement, parameters)[0]

    def _rows(self, statement: Statement[R], parameters: Mapping[str, Any]) -> list[R]:
        connection = self._open()
        try:
            with connection.transaction():
                connection.execute("set transaction isolation level read committed, read only")
                connection.execute(
                    "select set_config('statement_timeout', %s, true),"
                    " set_config('lock_timeout', %s, true)",
                    [STATEMENT_TIMEOUT, LOCK_TIMEOUT],
                )
                cursor = connection.execute(statement.sql.encode(), parameters)
                return [statement.row(*row) for row in cursor.fetchall()]
        except psycopg.Error as error:
            if connection.closed:
                raise Disconnected(describe(error)) from None
            raise refusal(error) from None

    def _open(self) -> Connection[Any]:
        assert self._connection is not None, "the examiner is not open"
        return self._connection
