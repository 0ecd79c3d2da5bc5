"""Reads what the database and the machine say of themselves: before, during and after a load.

All of it from the catalog and statistics views that any role may read; what this role may not see,
or a server that is not on this machine can't tell, is left out and never guessed.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from rowlock_loadtest.bench import cpu_s
from rowlock_loadtest.contention import truth
from rowlock_loadtest.contention.results import Sample
from rowlock_loadtest.contention.seat import APPLICATION

EVERY_S = 0.1
"""Between two looks while a load runs."""
CLIENTS_LEAVE_S = 10.0

BUSY = """
select coalesce(wait_event_type, 'CPU'), coalesce(wait_event, ''), count(*)
  from pg_stat_activity
 where application_name = %(application)s and state = 'active' and datname = current_database()
 group by 1, 2
"""
LOCKS = """
select count(*), count(*) filter (where not l.granted),
       (select coalesce(max(greatest(age(a.backend_xmin), age(a.backend_xid))), 0)
          from pg_stat_activity as a)
  from pg_locks as l where l.pid <> pg_backend_pid()
"""
TABLE = """
select n_dead_tup, n_tup_upd, n_tup_hot_upd from pg_stat_user_tables
 where relid = to_regclass(%(table)s)
"""
DATABASE = """
select xact_commit, xact_rollback, deadlocks, pg_current_wal_insert_lsn() - '0/0'::pg_lsn
  from pg_stat_database where datname = current_database()
"""
CLIENTS = """
select count(*) from pg_stat_activity
 where application_name = %(application)s and datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment."""

    at: float
    commits: int
    rollbacks: int
    deadlocks: int
    wal_bytes: int
    updates: int
    hot_updates: int
    dead_tuples: int
    server_cpu_s: float | None
    machine: tuple[float, float] | None
    """CPU time of this machine: (idle, all)."""


class Meters:
    """Reads one database. ``table``: whose dead tuples and updates are told."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.postmaster = postmaster_of(connection)

    def read(self, table: str) -> Reading:
        """Sessions tell their counters when they end at the latest: wait until ours have."""
        wait_for_clients(self._connection)
        time.sleep(0.05)  # for their processes to be gone too, and their CPU time to be summed up
        row = self._connection.execute(DATABASE.encode()).fetchone()
        assert row is not None
        counters = self._connection.execute(TABLE.encode(), {"table": table}).fetchone()
        dead, updates, hot = counters or (0, 0, 0)
        return Reading(
            at=time.monotonic(),
            commits=int(row[0]),
            rollbacks=int(row[1]),
            deadlocks=int(row[2]),
            wal_bytes=int(row[3]),
            updates=int(updates or 0),
            hot_updates=int(hot or 0),
            dead_tuples=int(dead or 0),
            server_cpu_s=cpu_s(self.postmaster) if self.postmaster else None,
            machine=machine_cpu(),
        )


class Sampler:
    """Looks at the database every EVERY_S while a load runs, on a connection of its own."""

    def __init__(self, url: str, begin: float, table: str, watched_app: str | None) -> None:
        self._url = url
        self._begin = begin
        self._table = table
        self._watched_app = watched_app
        self._stop = threading.Event()
        self.samples: list[Sample] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> list[Sample]:
        self._stop.set()
        self._thread.join()
        return self.samples

    def _run(self) -> None:
        try:
            with psycopg.connect(
                self._url, autocommit=True, application_name="rowlock loadtest meter"
            ) as connection:
                connection.execute("set stats_fetch_consistency = 'none'")
                while not self._stop.wait(EVERY_S):
                    self.samples.append(self._look(connection))
        except psycopg.Error as error:
            self.error = error

    def _look(self, connection: psycopg.Connection[Any]) -> Sample:
        at = time.monotonic() - self._begin
        waits: Counter[str] = Counter()
        for kind, event, number in connection.execute(
            BUSY.encode(), {"application": APPLICATION}
        ).fetchall():
            waits[f"{kind}: {event}" if event else kind] += number
        locks = connection.execute(LOCKS.encode()).fetchone()
        table = connection.execute(TABLE.encode(), {"table": self._table}).fetchone()
        assert locks is not None
        running = None
        if self._watched_app is not None:
            running = truth.number(connection, truth.RUNNING, app=self._watched_app)
        return Sample(
            at=at,
            waits=dict(waits),
            locks=int(locks[0]),
            locks_waited_for=int(locks[1]),
            dead_tuples=int(table[0] or 0) if table else 0,
            xmin_age=int(locks[2]),
            running=running,
        )


def wait_for_clients(connection: psycopg.Connection[Any]) -> None:
    """Until no session of ours is left in this database, for some seconds at most."""
    until = time.monotonic() + CLIENTS_LEAVE_S
    while time.monotonic() < until and truth.number(connection, CLIENTS, application=APPLICATION):
        time.sleep(0.01)


def postmaster_of(connection: psycopg.Connection[Any]) -> int | None:
    """The server's first process, if it runs on this machine and can be seen here."""
    row = connection.execute(
        "select coalesce(inet_server_addr() = inet_client_addr(), true), pg_backend_pid()"
    ).fetchone()
    if not row or not row[0]:
        return None
    try:
        stat = Path(f"/proc/{row[1]}/stat").read_text()
    except OSError:
        return None
    name, fields = stat.partition("(")[2].rpartition(")")[::2]
    return int(fields.split()[1]) if name.startswith("postgres") else None


def machine_cpu() -> tuple[float, float] | None:
    """CPU seconds of this machine since it was started: (idle, all). None: not on Linux."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    ticks = [int(field) / os.sysconf("SC_CLK_TCK") for field in line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def own_share(before: Reading, after: Reading, client_s: float) -> float | None:
    """Of the CPU of this machine that was used, the share that the load and its server used."""
    if before.machine is None or after.machine is None:
        return None
    if before.server_cpu_s is None or after.server_cpu_s is None:
        return None
    idle, every = (then - now for now, then in zip(before.machine, after.machine, strict=True))
    own = client_s + after.server_cpu_s - before.server_cpu_s
    return min(1.0, own / (every - idle)) if every > idle else None


def idle_between(before: Reading, after: Reading) -> float | None:
    """The share of this machine's CPU that nobody used between two readings."""
    if before.machine is None or after.machine is None:
        return None
    passed = after.machine[1] - before.machine[1]
    return (after.machine[0] - before.machine[0]) / passed if passed > 0 else None
