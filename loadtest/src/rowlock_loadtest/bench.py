"""A database and workers for one measurement, and the meters.

Rates on a shared machine are noise; commits, statements and WAL bytes are not: they are counted by
PostgreSQL itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.sql import SQL, Identifier

from rowlock.embedded import Server

DEADLINE_S = 300.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What the database has done so far."""

    at: float
    wal_bytes: int
    transactions: int
    cpu_s: float


class Bench:
    """A fresh database on a server, migrated; workers are started against it."""

    def __init__(self, server: Server, url: str) -> None:
        self.server = server
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)

    def number(self, query: str) -> Any:
        row = self.connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def until(self, query: str, wanted: int, every_s: float = 0.01) -> float:
        """Wait until a query gives a number; the time of that."""
        end = time.monotonic() + DEADLINE_S
        while self.number(query) < wanted:
            if time.monotonic() > end:
                raise SystemExit(
                    f"gave up after {DEADLINE_S:g} s: {query} has not reached {wanted}"
                )
            time.sleep(every_s)
        return time.monotonic()

    def read(self) -> Reading:
        return Reading(
            time.monotonic(),
            int(self.number("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")),
            int(self.number("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")),
            cpu_s(self.server.pid) if self.server.pid else 0.0,
        )

    @contextmanager
    def workers(self, processes: int = 1, slots: int = 64) -> Iterator[subprocess.Popen[bytes]]:
        """A `rowlock worker` with so many processes, ready to claim; drained at the end."""
        worker = subprocess.Popen(
            [
                *(sys.executable, "-m", "rowlock", "worker", "rowlock_loadtest.workflows:app"),
                *("--processes", str(processes), "--slots", str(slots), "--log-level", "error"),
            ],
            env={**os.environ, "ROWLOCK_DATABASE_URL": self.url},
        )
        try:
            self.until("select count(*) from rowlock.worker", processes)
            yield worker
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(60)


@contextmanager
def fresh(server: Server) -> Iterator[Bench]:
    """A migrated database of one measurement's own, dropped afterwards."""
    name = f"loadtest_{uuid4().hex[:12]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
        bench = None
        try:
            url = server.url(name)
            subprocess.run(
                [sys.executable, "-m", "rowlock", "migrate"],
                env={**os.environ, "ROWLOCK_DATABASE_URL": url},
                check=True,
                stdout=subprocess.DEVNULL,
            )
            bench = Bench(server, url)
            yield bench
        finally:
            if bench is not None:
                bench.connection.close()
            admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))


def pgbench(server: Server, clients: int, seconds: int) -> float:
    """Single-row commits a second: what the same server gives to many clients at once."""
    name = f"loadtest_{uuid4().hex[:12]}"
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(SQL("create database {}").format(Identifier(name)))
        try:
            with psycopg.connect(server.url(name), autocommit=True) as connection:
                connection.execute(
                    "create table jobs (id bigint generated always as identity primary key,"
                    " kind text, payload jsonb, state smallint, at timestamptz default now())"
                )
            script = Path(server.data_dir).parent / "insert.sql"
            script.write_text("insert into jobs (kind, payload, state) values ('noop', '{}', 0);\n")
            script.chmod(0o644)
            done = subprocess.run(
                [
                    str(server.bin_dir / "pgbench"),
                    *("-n", "-M", "prepared", "-c", str(clients), "-j", "1"),
                    *("-T", str(seconds), "-f", str(script), server.url(name)),
                ],
                capture_output=True,
                text=True,
                check=True,
            )
        finally:
            admin.execute(SQL("drop database {} with (force)").format(Identifier(name)))
    line = next(one for one in done.stdout.splitlines() if one.startswith("tps"))
    return float(line.split("=")[1].split()[0])


def memory_mb(pid: int) -> float:
    """Resident memory of the children of a process, in MB (Linux)."""
    total = 0
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for line in Path(f"/proc/{child}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                total += int(line.split()[1])
    return total / 1024


def cpu_s(pid: int) -> float:
    """CPU seconds of a process with its children, ended ones included (Linux)."""
    ticks = 0
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for one in [str(pid), *(children.read_text().split() if children.exists() else [])]:
        try:
            stat = Path(f"/proc/{one}/stat").read_text()
        except OSError:
            continue
        ticks += sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])
    return ticks / float(os.sysconf("SC_CLK_TCK"))
