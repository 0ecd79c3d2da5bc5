"""What stands in Rowlock's tables: the suite's one place with SQL of its own to them.

Filling queues faster than `rowlock.start_many` could, counting, the invariants, and leaving no
trace.

Reads and writes: rowlock.run, task and outcome of the suite's own app; nothing of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from rowlock_loadtest.contention.results import Check

Connection = psycopg.Connection[Any]
Claim = tuple[str, int]
"""A run and the epoch of one claim of it."""

WORKFLOW = "contended"

# The columns are those of level 6; what came later is null for who does not use it.
FILL = """
with made as materialized (
    select rowlock.uuidv7() as id, clock_timestamp() as at,
           (%(queues)s::text[])[1 + (n - 1) %% cardinality(%(queues)s::text[])] as queue
      from generate_series(1, %(count)s) as n),
runs as (
    insert into rowlock.run (id, created_at, priority, app, workflow, queue, input)
    select id, at, 50, %(app)s, %(workflow)s, queue, '{}' from made)
insert into rowlock.task (run_id, due_at, priority, state, app, queue, workflow)
select id, at + %(delay)s * interval '1 second', %(priority)s,
       case when %(delay)s > 0 then 'scheduled' else 'ready' end, %(app)s, queue, %(workflow)s
  from made
"""

# Of a queue with partitions: run n waits in partition n modulo their number.
PARTITION = """
update rowlock.task as t set partition = 'tenant-' || (x.n %% %(partitions)s)
  from (select y.run_id, row_number() over (order by y.run_id) as n
          from rowlock.task as y where y.app = %(app)s and y.queue = %(queue)s) as x
 where t.run_id = x.run_id
"""

STANDING = """
select (select count(*) from rowlock.run where app = %(app)s) as runs,
       (select count(*) from rowlock.task where app = %(app)s) as tasks,
       (select count(*) from rowlock.task where app = %(app)s and state = 'running') as running,
       (select count(*) from rowlock.outcome where app = %(app)s) as outcomes,
       (select count(distinct run_id) from rowlock.outcome where app = %(app)s) as ended,
       (select count(*) from rowlock.outcome as o join rowlock.task as t using (run_id)
         where o.app = %(app)s) as both_,
       (select count(*) from rowlock.run as r where r.app = %(app)s
           and not exists (select from rowlock.task as t where t.run_id = r.id)
           and not exists (select from rowlock.outcome as o where o.run_id = r.id)) as neither
"""

MISSING = """
select count(*) from unnest(%(runs)s::uuid[], %(epochs)s::int[]) as a (run_id, epoch)
 where not exists (select from rowlock.outcome as o
                    where o.run_id = a.run_id and o.epoch = a.epoch)
"""

# From claim to finish, by the database's clock. Who is claimed because another finished is claimed
# later than that: so this never sees too many, and it looks at all instants, not at some.
MOST_AT_ONCE = """
select coalesce(max(held), 0)
  from (select sum(step) over (order by at, step rows unbounded preceding) as held
          from (select started_at as at, 1 as step from rowlock.outcome
                 where app = %(app)s and queue = %(queue)s and started_at is not null
                union all
                select finished_at, -1 from rowlock.outcome
                 where app = %(app)s and queue = %(queue)s and started_at is not null
               ) as edges) as x
"""

MOST_AT_ONCE_OF_A_PARTITION = """
select coalesce(max(held), 0)
  from (select sum(step) over (partition by part order by at, step rows unbounded preceding) as held
          from (select r.partition as part, o.started_at as at, 1 as step
                  from rowlock.outcome as o join rowlock.run as r on r.id = o.run_id
                 where o.app = %(app)s and o.queue = %(queue)s and o.started_at is not null
                union all
                select r.partition, o.finished_at, -1
                  from rowlock.outcome as o join rowlock.run as r on r.id = o.run_id
                 where o.app = %(app)s and o.queue = %(queue)s
                   and o.started_at is not null) as edges) as x
"""

# First claims in any window of that length, wherever it begins; its two ends are not both in it.
MOST_IN_A_SECOND = """
select coalesce(max(n), 0)
  from (select count(*) over (order by started_at range between interval '999.999 ms' preceding
                                                        and current row) as n
          from rowlock.outcome
         where app = %(app)s and queue = %(queue)s and started_at is not null) as x
"""

RUNNING = "select count(*) from rowlock.task where app = %(app)s and state = 'running'"

# Where it is: an index-only look for a single row, however many there are.
HOLDS_RUNS = "select exists (select from rowlock.run)"

OWN_TABLES = """
select c.relname,
       exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'app'
                  and not a.attisdropped) as has_app,
       exists (select from pg_attribute as a where a.attrelid = c.oid and a.attname = 'run_id'
                  and not a.attisdropped) as has_run
  from pg_class as c
 where c.relnamespace = to_regnamespace('rowlock') and c.relkind = 'r'
 order by c.relname <> 'run' desc, c.relname
"""


def number(connection: Connection, query: str, **parameters: Any) -> int:
    """The one number that a query gives."""
    row = connection.execute(query.encode(), parameters or None).fetchone()
    assert row is not None
    return int(row[0])


def holds_runs(connection: Connection) -> bool:
    """Whether this database has runs of somebody's."""
    there = connection.execute("select to_regclass('rowlock.run') is not null").fetchone()
    return bool(there and there[0] and number(connection, HOLDS_RUNS))


def may_fill(connection: Connection) -> bool:
    """Whether this user may write what no public function would: the schema's owner may."""
    row = connection.execute(
        "select pg_has_role(current_user, nspowner, 'usage')"
        " from pg_namespace where nspname = 'rowlock'"
    ).fetchone()
    return bool(row and row[0])


def fill(
    connection: Connection,
    app: str,
    queues: Sequence[str],
    count: int,
    *,
    delay_s: float = 0,
    priority: int = 50,
) -> None:
    """So many runs at once, dealt to the queues in turn; one that is named twice gets two."""
    if count > 0:
        connection.execute(
            FILL.encode(),
            {
                "app": app,
                "queues": list(queues),
                "count": count,
                "delay": delay_s,
                "priority": priority,
                "workflow": WORKFLOW,
            },
        )


def deal_to_partitions(connection: Connection, app: str, queue: str, partitions: int) -> None:
    """Let the waiting runs of a queue wait in so many partitions of it."""
    parameters = {"app": app, "queue": queue, "partitions": partitions}
    connection.execute(PARTITION.encode(), parameters)
    connection.execute(
        b"update rowlock.run as r set partition = t.partition from rowlock.task as t"
        b" where t.run_id = r.id and r.app = %(app)s and r.queue = %(queue)s",
        parameters,
    )


def deal_behind(connection: Connection, app: str, queue: str, partitions: int) -> None:
    """Let the runs that wait in no partition yet wait in so many others."""
    connection.execute(
        b"update rowlock.task as t set partition = 'other-' || (x.n %% %(partitions)s)"
        b" from (select y.run_id, row_number() over (order by y.run_id) as n from rowlock.task as y"
        b" where y.app = %(app)s and y.queue = %(queue)s and y.partition is null) as x"
        b" where t.run_id = x.run_id",
        {"app": app, "queue": queue, "partitions": partitions},
    )


def clear(connection: Connection, app: str, *, alone: bool) -> None:
    """Forget all runs of the app. ``alone``: the database is ours, so all are."""
    rows = connection.execute(OWN_TABLES.encode()).fetchall()
    kept = {"migration", "repeatable", "queue", "queue_gate", "workflow", "worker"}
    chosen = [row for row in rows if (row[1] or row[2]) and row[0] not in kept]
    if alone:
        names = SQL(", ").join(SQL("rowlock.{}").format(Identifier(name)) for name, *_ in chosen)
        connection.execute(SQL("truncate {}").format(names))
        return
    _delete(connection, app, chosen)


def forget(connection: Connection, app: str) -> None:
    """Leave no trace of the app, in any table."""
    _delete(connection, app, connection.execute(OWN_TABLES.encode()).fetchall())


def _delete(connection: Connection, app: str, tables: list[Any]) -> None:
    for name, has_app, has_run in tables:  # the last is run, which the others are found by
        if has_app:
            where = SQL("app = %(app)s")
        elif has_run:
            where = SQL("run_id in (select id from rowlock.run where app = %(app)s)")
        else:
            continue
        connection.execute(
            SQL("delete from rowlock.{} where {}").format(Identifier(name), where), {"app": app}
        )


def checked(
    connection: Connection, app: str, *, accepted: int, claims: list[Claim], finishes: list[Claim]
) -> list[Check]:
    """Nothing lost, nothing doubled. All clients have left.

    ``accepted``: how many runs were started; ``claims``: all that any client was given;
    ``finishes``: all that were acknowledged.
    """
    row = connection.execute(STANDING.encode(), {"app": app}).fetchone()
    assert row is not None
    runs, tasks, running, outcomes, ended, both, neither = row
    missing = number(
        connection,
        MISSING,
        runs=[run for run, _ in finishes],
        epochs=[epoch for _, epoch in finishes],
    )
    twice = len(claims) - len(set(claims))
    return [
        Check(
            "nothing is lost",
            runs == accepted and neither == 0 and ended + tasks == runs,
            f"{accepted:,} accepted, {runs:,} there; {tasks:,} unfinished, {ended:,} ended,"
            f" {neither:,} neither",
        ),
        Check(
            "nothing is doubled",
            twice == 0 and outcomes == ended and both == 0,
            f"{twice:,} of {len(claims):,} claims were given twice; {outcomes - ended:,} outcomes"
            f" too many, {both:,} runs both ended and unfinished",
        ),
        Check(
            "what was acknowledged is there",
            missing == 0,
            f"{missing:,} of {len(finishes):,} acknowledged finishes have no outcome of their"
            " epoch",
        ),
        Check("no claim is left behind", running == 0, f"{running:,} tasks run for nobody"),
    ]


def most_at_once(connection: Connection, app: str, queue: str, *, partition: bool = False) -> int:
    """The most ended runs of a queue (or of one partition of it) that ran at one instant."""
    query = MOST_AT_ONCE_OF_A_PARTITION if partition else MOST_AT_ONCE
    return number(connection, query, app=app, queue=queue)


def most_in_a_second(connection: Connection, app: str, queue: str) -> int:
    """The most first claims of a queue's ended runs within any one second."""
    return number(connection, MOST_IN_A_SECOND, app=app, queue=queue)


def limits_known(connection: Connection) -> frozenset[str]:
    """The arguments of rowlock.set_limit; none: this Rowlock has no limits yet."""
    row = connection.execute(
        "select p.proargnames from pg_proc as p"
        " where p.pronamespace = to_regnamespace('rowlock') and p.proname = 'set_limit'"
        " order by p.pronargs desc limit 1"
    ).fetchone()
    return frozenset(row[0] or ()) if row else frozenset()


def set_limit(connection: Connection, app: str, queue: str, limits: dict[str, Any]) -> None:
    """Limits of a queue by the names of rowlock.set_limit's arguments, such as ``concurrency``."""
    given = SQL(", ").join(SQL("{} => %s").format(Identifier(name)) for name in limits)
    connection.execute(
        SQL("select rowlock.set_limit(%s, {}, app => %s)").format(given),
        [queue, *limits.values(), app],
    )
