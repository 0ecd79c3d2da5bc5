"""The schema and the rights on it: whether all is there, and who we are to it. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rowlock.doctor.finding import Finding, failure, fine, listed, warning
from rowlock.store.examination import Rights, SchemaFacts

_FUNCTION = re.compile(r"^\s*create or replace function rowlock\.(\w+)", re.MULTILINE)
_VIEW = re.compile(r"^\s*create or replace view rowlock\.(\w+)", re.MULTILINE)
_TABLE = re.compile(r"^\s*create (?:unlogged )?table rowlock\.(\w+)", re.MULTILINE)
_DROPPED = re.compile(r"^\s*drop table (?:if exists )?rowlock\.(\w+)", re.MULTILINE)


def function_names(functions: str) -> list[str]:
    """The functions that the code brings."""
    return sorted(set(_FUNCTION.findall(functions)))


def relation_names(steps: Sequence[str], functions: str) -> list[str]:
    """The tables and views that the code brings, once all steps were taken."""
    tables: set[str] = set()
    for step in steps:
        tables |= set(_TABLE.findall(step))
        tables -= set(_DROPPED.findall(step))
    return sorted(tables | set(_VIEW.findall(functions)))


def schema(found: SchemaFacts, level: int, checksum: str) -> Finding:
    """Whether this code may work with the database, and whether the functions are its own."""
    facts = {"level": found.level, "needed": level}
    if found.minimum > level:
        return failure(
            "schema",
            f"the database demands code of level {found.minimum}, this is of level {level}",
            "Install a newer rowlock.",
            **facts,
        )
    if found.level < level or found.functions is None:
        have = f"level {found.level}" if found.level else "none"
        return failure(
            "schema", f"{have}, this code needs level {level}", "Run `rowlock migrate`.", **facts
        )
    if found.level > level:
        return fine("schema", f"level {found.level}, newer than this code's {level}", **facts)
    if found.functions != checksum:
        return warning(
            "schema",
            f"level {found.level}, but with the functions of another version of Rowlock",
            "If this is the newest version in use here: run `rowlock migrate`.",
            **facts,
        )
    return fine("schema", f"level {found.level}, with this version's functions", **facts)


def completeness(functions: Sequence[str], relations: Sequence[str]) -> Finding:
    """Whether somebody has dropped what the migrations brought."""
    facts = {"missing_functions": list(functions), "missing_relations": list(relations)}
    if relations:
        return failure(
            "completeness",
            f"tables or views are missing: {listed(relations)}",
            "Restore them from a backup of the database; a missing view comes back as functions "
            "do: `delete from rowlock.repeatable`, then `rowlock migrate`.",
            **facts,
        )
    if functions:
        return failure(
            "completeness",
            f"functions are missing: {listed(functions)}",
            "Have them made again: `delete from rowlock.repeatable`, then `rowlock migrate`.",
            **facts,
        )
    return fine("completeness", "every table, view and function is there", **facts)


def indexes(invalid: Sequence[str]) -> Finding:
    """Whether every index is used: one whose building was cut off costs and serves nobody."""
    if invalid:
        return failure(
            "indexes",
            f"invalid, and so of no use: {listed(invalid)}",
            "; ".join(f'reindex index concurrently rowlock."{name}"' for name in invalid)
            + ". One that is not Rowlock's: drop it.",
            invalid=list(invalid),
        )
    return fine("indexes", "all are valid", invalid=[])


JOBS = {
    "start runs": ("client", ("start", "send", "set_event", "cancel", "explain")),
    "work": ("worker", ("register_worker", "heartbeat", "claim", "journal", "tend", "leave")),
    "look": ("reader", ("explain", "fleet_tasks", "fleet_workers")),
    "administer": ("admin", ("resume", "retry", "rewind", "fork", "pause", "move", "promote")),
}
"""What a role may be there for: the role of Rowlock that lets it, and the functions it needs."""
PROBED = sorted({name for _, names in JOBS.values() for name in names})


def rights(role: str, found: Rights, apps: list[str] | None) -> Finding:
    """What the role may do; whether it lacks a part of what it is there for, or all of it."""
    can = [job for job, (_, names) in JOBS.items() if set(names) <= set(found.allowed)]
    halves = {
        job: [name for name in names if name not in found.allowed]
        for job, (_, names) in JOBS.items()
        # What several jobs have in common says nothing of this one.
        if job not in can and set(_own(job)) & set(found.allowed)
    }
    facts = {"role": role, "may": can, "apps": apps}
    if not found.schema or not can:
        return failure(
            "rights",
            f"role {role} may do nothing with Rowlock here",
            f"`rowlock migrate --roles` as the owner, then for example: grant rowlock_client to "
            f'"{role}".',
            **facts,
        )
    if halves:
        lacks = listed(f"to {job}: {', '.join(names)}" for job, names in halves.items())
        grants = ", ".join(f"rowlock_{JOBS[job][0]}" for job in halves)
        return failure(
            "rights",
            f"role {role} lacks the right to call, {lacks}",
            f'`rowlock migrate --roles` as the owner, then: grant {grants} to "{role}".',
            **facts,
        )
    if apps is not None and not apps:
        return warning(
            "rights",
            f"role {role} may {', '.join(can)}, but in no app",
            f"As one of rowlock_admin: select rowlock.grant_app('{role}', 'the app').",
            **facts,
        )
    where = "every app" if apps is None else f"of app {', '.join(apps)}"
    return fine("rights", f"role {role} may {', '.join(can)}, {where}", **facts)


def _own(job: str) -> tuple[str, ...]:
    """What only this job needs."""
    others = {name for one, (_, names) in JOBS.items() if one != job for name in names}
    return tuple(name for name in JOBS[job][1] if name not in others)
