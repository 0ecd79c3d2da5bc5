"""The same claims by the ways that come to mind first, on a table of their own.

Each takes ``batch`` jobs in order and ends them in a second transaction, as Rowlock's workers do.
What is left out is all that makes them less than Rowlock: epochs, takeover, priorities. They should
be faster for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from rowlock_loadtest.contention.results import Check
from rowlock_loadtest.contention.seat import Seat

SCHEMA = "rowlock_loadtest"
LIMIT = 1_000_000
"""A limit that never binds: what is measured is what it costs to keep it."""

MAKE = f"""
create schema if not exists {SCHEMA};
create table if not exists {SCHEMA}.job (
    id bigint primary key, state text not null, claims int not null default 0);
create index if not exists job_ready on {SCHEMA}.job (id) where state = 'ready';
create index if not exists job_running on {SCHEMA}.job (id) where state = 'running'
"""
FILL = f"""
truncate {SCHEMA}.job;
insert into {SCHEMA}.job (id, state) select n, 'ready' from generate_series(1, %s) as n
"""  # noqa: S608
STANDING = f"select count(*), sum((state = 'done')::int), max(claims) from {SCHEMA}.job"  # noqa: S608
DROP = f"drop schema if exists {SCHEMA} cascade"

_CLAIM = f"""
update {SCHEMA}.job set state = 'running', claims = claims + 1
 where state = 'ready' and id = any (array(
       select id from {SCHEMA}.job where state = 'ready' {{}} order by id limit %s {{}}))
returning id
"""  # noqa: S608
WAYS = {
    "skip locked": _CLAIM.format("", "for update skip locked"),
    "for update": _CLAIM.format("", "for update"),
    "advisory locks": _CLAIM.format("and pg_try_advisory_xact_lock(id)", ""),
    "serializable count": _CLAIM.format(
        f"and (select count(*) from {SCHEMA}.job where state = 'running') < {LIMIT}",  # noqa: S608
        "",
    ),
}
TOLD = {
    "skip locked": "FOR UPDATE SKIP LOCKED alone: no limits, no takeover, no epochs.",
    "for update": "FOR UPDATE without SKIP LOCKED: all want the same first rows, and wait in line.",
    "advisory locks": "pg_try_advisory_xact_lock in the WHERE: each tries the others' rows first.",
    "serializable count": "SERIALIZABLE with a count of what runs, as an exact limit wants it: "
    "whoever loses is rolled back and tries again.",
}
END = f"update {SCHEMA}.job set state = 'done' where id = any (%s)"  # noqa: S608


@dataclass(frozen=True, slots=True)
class NaiveClaimer:
    """Claims and ends jobs, as fast as it can."""

    way: str
    batch: int

    def run(self, seat: Seat) -> None:
        connection = seat.connection
        if self.way == "serializable count":
            connection.execute("set default_transaction_isolation = 'serializable'")
        for at in seat.moments(None):
            rows = seat.timed("claim", at, WAYS[self.way], [self.batch])
            if rows is None:
                continue  # rolled back, and counted
            if not rows:
                seat.count("claims that found nothing")
                seat.rest(0.005)
                continue
            ids = [row[0] for row in rows]
            while seat.timed("journal", None, END, [ids]) is None:
                pass
            seat.done(len(ids))


def make(connection: psycopg.Connection[Any], jobs: int) -> None:
    """The table, with so many jobs."""
    for statement in MAKE.split(";"):
        connection.execute(statement.encode())
    truncate, insert = FILL.split(";")
    connection.execute(truncate.encode())
    connection.execute(insert.encode(), [jobs])
    connection.execute(f"vacuum analyze {SCHEMA}.job".encode())


def drop(connection: psycopg.Connection[Any]) -> None:
    connection.execute(DROP.encode())


def checked(connection: psycopg.Connection[Any], jobs: int, ended: int) -> list[Check]:
    """That the comparison is fair: they too lose and double nothing."""
    row = connection.execute(STANDING.encode()).fetchone()
    assert row is not None
    return [
        Check(
            "nothing is lost or doubled",
            row[0] == jobs and (row[1] or 0) == ended and (row[2] or 0) <= 1,
            f"{row[0]:,} jobs of {jobs:,}; {row[1]:,} done, {ended:,} acknowledged; claimed at most"
            f" {row[2]} times",
        )
    ]
