"""Whether a worker waits for a caller's open transaction, however fast the machine is.

Callers hold their transactions open in ``pg_sleep``. A worker that PostgreSQL says is blocked by a
session that sleeps so waits for somebody's open transaction; one that is blocked by a statement at
work only waits its turn, as the heartbeat of a worker that is declared dead does.
"""

from __future__ import annotations

from store.races.sessions import Session

PATIENCE = "30 s"
"""Of a worker, for any lock: more than a slow machine needs, less than for ever."""

SLEEPING = """
select pid, query_start from pg_stat_activity
 where application_name = 'caller' and wait_event = 'PgSleep' and datname = current_database()
"""

BLOCKED = """
select w.query, b.pid from pg_stat_activity as w
 cross join lateral unnest(pg_blocking_pids(w.pid)) as b (pid)
 where w.application_name = 'worker' and w.wait_event_type = 'Lock'
   and w.datname = current_database()
"""


def is_worker(session: Session) -> None:
    session.run(f"set application_name = 'worker'; set lock_timeout = '{PATIENCE}'")


def is_caller(session: Session) -> None:
    session.run("set application_name = 'caller'")


def waiting_for_callers(watcher: Session) -> set[str]:
    """What workers are at, right now, that waits for a transaction which a caller holds open."""
    before = set(watcher.run(SLEEPING))
    blocked = watcher.run(BLOCKED) if before else []
    # The same sleep before and after: so it was one when the worker was blocked.
    asleep = {pid for pid, _ in before & set(watcher.run(SLEEPING))} if blocked else set()
    return {query for query, by in blocked if by in asleep}
