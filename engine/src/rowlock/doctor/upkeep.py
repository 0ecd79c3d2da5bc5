"""What a database needs to stay fast: room for connections, no old transactions, vacuum. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from rowlock.doctor.finding import Finding, age, counted, failure, fine, listed, unseen, warning
from rowlock.settings import Settings
from rowlock.store.examination import Connections, Lock, Prepared, Slot, Table, Transaction

CONNECTIONS_OF_A_WORKER = 3
"""Of each process: journal, control, listening."""
MUCH = 0.8
FEW_DEAD = 10_000
OFTEN = 10
"""A table with so many times the dead rows at which autovacuum comes is not being vacuumed."""
OLD_XMIN = 1_000_000
MUCH_WAL = 1 << 30

SEE_ALL = 'To have it seen: grant pg_monitor to "{role}".'


def connections(found: Connections, workers: int, settings: Settings) -> Finding:
    """Whether what the live workers may open fits into what there is.

    Each process holds three connections, and for transaction steps up to
    ROWLOCK_TRANSACTION_CONNECTIONS more (of this environment: theirs is not known).
    """
    each = CONNECTIONS_OF_A_WORKER + settings.transaction_connections
    limits = {"max_connections": (found.most, found.used)}
    if found.database_limit >= 0:
        limits["the database's limit"] = (found.database_limit, found.database_used)
    if found.role_limit >= 0:
        limits["the role's limit"] = (found.role_limit, found.role_used)
    name, (most, used) = min(limits.items(), key=lambda item: item[1][0] - item[1][1])
    others = max(0, used - found.ours)
    least = others + workers * CONNECTIONS_OF_A_WORKER
    full = others + workers * each
    facts = {
        "most": most,
        "used": used,
        "ours": found.ours,
        "workers": workers,
        "needed_at_most": full,
    }
    said = f"{used:,} of {most:,} in use ({name})"
    remedy = (
        "Raise max_connections, run fewer worker processes with more slots, or lower "
        "ROWLOCK_TRANSACTION_CONNECTIONS."
    )
    if least > most or used >= most:
        return failure(
            "connections",
            f"{said}; the processes of {counted(workers, 'worker')} and the others need {least:,}",
            remedy,
            **facts,
        )
    if full > most:
        return warning(
            "connections",
            f"{said}; with all transaction steps at work {workers:,} x {each} of workers and "
            f"{others:,} others would be {full:,}",
            remedy,
            **facts,
        )
    if used > MUCH * most:
        return warning("connections", said, remedy, **facts)
    return fine("connections", f"{said}; workers may take it to {full:,}", **facts)


def idle_timeout(settings: Mapping[str, str]) -> Finding:
    """Whether a transaction that somebody forgets to end ends by itself."""
    value = int(settings.get("idle_in_transaction_session_timeout", "0"))
    if value:
        return fine(
            "idle timeout", f"forgotten transactions end after {age(value / 1000)}", ms=value
        )
    return warning(
        "idle timeout",
        "idle_in_transaction_session_timeout is 0: a transaction that is forgotten stays open for "
        "ever, and vacuum has to leave what was deleted since",
        "alter database … set idle_in_transaction_session_timeout = '10min'. Rowlock's own "
        "sessions have theirs.",
        ms=0,
    )


def transactions(
    old: Sequence[Transaction], hidden: int, role: str, track_activities: str, long_s: float
) -> Finding:
    """Whether somebody's open transaction keeps vacuum from its work, and whose."""
    named = [
        f"pid {one.pid} ({_who(one.role, one.application_name)}, {one.state}) for "
        f"{age(one.seconds)}"
        for one in old
        if one.holds_back
    ]
    facts = {
        "transactions": [
            {
                "pid": one.pid,
                "role": one.role,
                "application_name": one.application_name,
                "state": one.state,
                "seconds": one.seconds,
                "holds_back": one.holds_back,
            }
            for one in old
        ],
        "hidden": hidden,
    }
    if named:
        worst = max(one.seconds for one in old if one.holds_back)
        say = failure if worst > 12 * max(long_s, 60.0) else warning
        return say(
            "transactions",
            f"vacuum has to leave what was deleted since they began: {listed(named)}",
            "End them: select pg_terminate_backend(PID). Then find out why they stay open; "
            "idle_in_transaction_session_timeout ends those that are forgotten.",
            **facts,
        )
    if hidden:
        return unseen(
            "transactions",
            f"{counted(hidden, 'session')} of other roles can't be seen",
            SEE_ALL.format(role=role),
            **facts,
        )
    if track_activities == "off":
        return unseen(
            "transactions",
            "track_activities is off: nobody can see what sessions do",
            "alter system set track_activities = on, and reload.",
            **facts,
        )
    return fine("transactions", f"none has been open for more than {age(long_s)}", **facts)


def prepared(old: Sequence[Prepared]) -> Finding:
    """Whether two-phase commits were left half-way."""
    facts = {"prepared": [{"name": p.name, "role": p.role, "seconds": p.seconds} for p in old]}
    if old:
        return failure(
            "prepared",
            "prepared transactions hold their locks and keep vacuum from its work, also over a "
            "restart: "
            + listed(f"{one.name!r} of {one.role} for {age(one.seconds)}" for one in old),
            "commit prepared '…' or rollback prepared '…', whichever its coordinator meant.",
            **facts,
        )
    return fine("prepared", "no prepared transaction was left", **facts)


def slots(unused: Sequence[Slot]) -> Finding:
    """Whether replication slots that nobody reads hold the log, or vacuum, back."""
    facts = {
        "slots": [
            {"name": s.name, "kind": s.kind, "xmin_age": s.xmin_age, "wal_bytes": s.wal_bytes}
            for s in unused
        ]
    }
    if not unused:
        return fine("slots", "no replication slot is without a reader", **facts)
    named = [
        f"{one.name!r}"
        + (f" keeps {one.wal_bytes / (1 << 20):,.0f} MB of the log" if one.wal_bytes else "")
        + (f", holds vacuum back by {one.xmin_age:,} transactions" if one.xmin_age else "")
        for one in unused
    ]
    bad = any((s.xmin_age or 0) > OLD_XMIN or (s.wal_bytes or 0) > MUCH_WAL for s in unused)
    return (failure if bad else warning)(
        "slots",
        f"replication slots that nobody reads: {listed(named)}",
        "Start their readers, or select pg_drop_replication_slot('…'): a full disk stops all.",
        **facts,
    )


def autovacuum(settings: Mapping[str, str], tables: Sequence[Table]) -> Finding:
    """Whether autovacuum may do its work: tasks churn, and without it every claim gets slower."""
    off = [name for name in ("autovacuum", "track_counts") if settings.get(name) == "off"]
    barred = [table.name for table in tables if not table.autovacuum]
    facts = {"off": off, "barred": barred}
    if off:
        return failure(
            "autovacuum",
            f"{' and '.join(off)} off: no table is vacuumed, and every claim gets slower",
            f"alter system set {off[0]} = on, and reload.",
            **facts,
        )
    if barred:
        return failure(
            "autovacuum",
            f"switched off for {listed(barred)}",
            "; ".join(f"alter table rowlock.{name} reset (autovacuum_enabled)" for name in barred)
            + ".",
            **facts,
        )
    return fine("autovacuum", "on", **facts)


def dead_rows(tables: Sequence[Table], now: datetime) -> Finding:
    """Whether vacuum keeps up."""
    bad = [one for one in tables if one.dead > max(FEW_DEAD, OFTEN * one.vacuum_at)]
    facts = {
        "tables": [
            {"name": t.name, "live": t.live, "dead": t.dead, "last_vacuum": t.last_vacuum}
            for t in tables
        ]
    }
    if bad:
        named = [
            f"{one.name}: {one.dead:,} dead beside {one.live:,} live, vacuumed "
            + (
                f"{age((now - one.last_vacuum).total_seconds())} ago"
                if one.last_vacuum
                else "never"
            )
            for one in bad
        ]
        return warning(
            "dead rows",
            listed(named),
            "If `transactions`, `prepared` and `slots` are fine: "
            + "; ".join(f"vacuum rowlock.{one.name}" for one in bad)
            + ". If it comes back: more autovacuum_max_workers.",
            **facts,
        )
    task = next((one for one in tables if one.name == "task"), None)
    said = "" if task is None else f"; task: {task.dead:,} dead beside {task.live:,} live"
    return fine("dead rows", f"vacuum keeps up{said}", **facts)


def locks(strong: Sequence[Lock], old: Sequence[Lock], long_s: float) -> Finding:
    """Whether somebody keeps everybody from writing, or runs from going on."""
    facts = {
        "strong": [_lock_facts(one) for one in strong],
        "old": [_lock_facts(one) for one in old],
    }
    if strong:
        named = [
            f"pid {one.pid} ({_who(one.role, one.application_name)}) "
            f"{'holds' if one.granted else 'waits for'} {one.mode} on {one.table}"
            + (f", open for {age(one.seconds)}" if one.seconds is not None else "")
            for one in strong
        ]
        return failure(
            "locks",
            f"workers wait for whole tables: {listed(named)}",
            "Wait for its end, or end it: select pg_terminate_backend(PID).",
            **facts,
        )
    if old:
        named = [
            f"pid {one.pid} ({_who(one.role, one.application_name)}) in {one.table} for "
            f"{age(one.seconds or 0.0)}"
            for one in old
        ]
        return warning(
            "locks",
            f"transactions that have touched Rowlock's tables stay open: {listed(named)}. The runs "
            "and keys they touched wait for them; no others do",
            "End them: commit, roll back, or select pg_terminate_backend(PID).",
            **facts,
        )
    return fine("locks", f"nobody has held any for more than {age(long_s)}", **facts)


def _lock_facts(lock: Lock) -> dict[str, object]:
    return {
        "pid": lock.pid,
        "role": lock.role,
        "application_name": lock.application_name,
        "table": lock.table,
        "mode": lock.mode,
        "granted": lock.granted,
        "seconds": lock.seconds,
    }


def _who(role: str | None, application_name: str | None) -> str:
    return ", ".join(filter(None, (role, application_name))) or "unknown"
