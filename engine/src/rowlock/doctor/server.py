"""The connection and the server: version, TLS, pooler, clock, encoding, settings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rowlock.doctor.finding import Finding, age, failure, fine, warning
from rowlock.store.examination import Link, ServerFacts

OLDEST, NEWEST = 15, 18
"""The major versions of PostgreSQL that are tested."""
MOST_SKEW_S = 1.0

SETTINGS = (
    "synchronous_commit",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "idle_in_transaction_session_timeout",
    "autovacuum",
    "track_counts",
    "track_activities",
)
"""What the checks here and in upkeep.py want to know."""


def server(facts: ServerFacts) -> Finding:
    """Whether it is a server that Rowlock can write to, of a version that is tested."""
    major = facts.version_number // 10_000
    seen = {"version": facts.version, "database": facts.database, "role": facts.role}
    found = f"PostgreSQL {facts.version}, database {facts.database}, as {facts.role}"
    if facts.is_standby:
        return failure(
            "server",
            f"{found}: a standby, which can't be written to",
            "Let ROWLOCK_DATABASE_URL name the primary; with several hosts in it, add "
            "target_session_attrs=read-write.",
            **seen,
        )
    if facts.is_read_only:
        return failure(
            "server",
            f"{found}: transactions are read-only by default here",
            f'alter database "{facts.database}" reset default_transaction_read_only, and the same '
            f'of the role "{facts.role}".',
            **seen,
        )
    if major < OLDEST:
        return failure(
            "server", f"{found}: too old", f"Upgrade to PostgreSQL {OLDEST} to {NEWEST}.", **seen
        )
    if major > NEWEST:
        return warning(
            "server",
            f"{found}: newer than what this version of Rowlock is tested with",
            f"Upgrade rowlock, or use PostgreSQL {OLDEST} to {NEWEST}.",
            **seen,
        )
    return fine("server", found, **seen)


def tls(link: Link) -> Finding:
    """Whether what is sent can be read on the way."""
    if link.tls:
        return fine("tls", "the connection is encrypted", tls=True)
    if link.is_local:
        return fine("tls", "not encrypted, on this machine", tls=False)
    return warning(
        "tls",
        "the connection is not encrypted: values and passwords can be read on the way",
        "Add sslmode=verify-full (and sslrootcert=…) to ROWLOCK_DATABASE_URL; see TLS in "
        "docs/operations.md.",
        tls=False,
    )


@dataclass(frozen=True, slots=True)
class Pooling:
    """What two connections show of a pooler between us and the server."""

    is_pooled: bool
    """The process that let us in is not the one that answers."""
    is_shared: bool
    """Two open connections were answered by one process: it is given away between transactions."""
    refused: str | None
    """Why a connection with the session settings of a worker was refused; None: it was not."""
    is_said: bool
    """Whether ROWLOCK_PGBOUNCER says that there is one."""


def pooler(seen: Pooling) -> Finding:
    """Whether ROWLOCK_PGBOUNCER is what it should be.

    Sound where it says that a pooler shares its connections; one in transaction mode that happens
    to give each of ours a connection of its own looks like one in session mode.
    """
    facts = {"pooled": seen.is_pooled, "shared": seen.is_shared, "set": seen.is_said}
    if seen.is_said and not (seen.is_pooled or seen.is_shared):
        return warning(
            "pooler",
            "ROWLOCK_PGBOUNCER is set, but the URL leads straight to PostgreSQL: workers poll "
            "where they could be told, and prepare nothing",
            "Unset ROWLOCK_PGBOUNCER.",
            **facts,
        )
    if seen.is_said:
        return fine("pooler", "a pooler, as ROWLOCK_PGBOUNCER says", **facts)
    if seen.refused is not None:
        return failure(
            "pooler",
            f"a pooler that refuses the settings of Rowlock's sessions: {seen.refused}",
            "Set ROWLOCK_PGBOUNCER=yes for workers and clients, or connect to PostgreSQL itself.",
            **facts,
        )
    if seen.is_shared:
        return failure(
            "pooler",
            "a pooler gives one connection to several sessions: leases, notices and prepared "
            "statements go astray",
            "Set ROWLOCK_PGBOUNCER=yes for workers and clients, or connect to PostgreSQL itself.",
            **facts,
        )
    if seen.is_pooled:
        return warning(
            "pooler",
            "there is a pooler; it gives each session a connection of its own, as far as can be "
            "seen",
            "If it pools by transaction, set ROWLOCK_PGBOUNCER=yes. By session it is of no use to "
            "workers: connect to PostgreSQL itself.",
            **facts,
        )
    return fine("pooler", "none", **facts)


@dataclass(frozen=True, slots=True)
class Tick:
    """The server's time, and when by this machine's clock it was asked and had answered."""

    sent: datetime
    answered: datetime
    server: datetime

    @property
    def round_trip(self) -> timedelta:
        return self.answered - self.sent

    @property
    def skew(self) -> timedelta:
        """How far this machine is ahead, if both ways took as long."""
        return self.sent + self.round_trip / 2 - self.server


def clock(ticks: Sequence[Tick]) -> Finding:
    """This machine's clock against the server's, by the quickest of some answers.

    Leases and timers go by the server's clock alone, so nothing breaks by a skew: what is compared
    with the time here is wrong, such as ``--since``, ``start_at`` and the lines of a log.
    """
    best = min(ticks, key=lambda tick: tick.round_trip)
    skew_s, unsure_s = best.skew.total_seconds(), best.round_trip.total_seconds() / 2
    facts = {"skew_seconds": round(skew_s, 6), "unsure_seconds": round(unsure_s, 6)}
    ahead = "ahead of" if skew_s > 0 else "behind"
    if abs(skew_s) - unsure_s > MOST_SKEW_S:
        return warning(
            "clock",
            f"this machine is {age(abs(skew_s))} {ahead} the database (± {unsure_s * 1000:.0f} ms)",
            "Let both take the time of NTP. Leases and timers go by the database's clock and are "
            "right; start times given by clients, --since and logs are not.",
            **facts,
        )
    return fine(
        "clock",
        f"{abs(skew_s) * 1000:.0f} ms {ahead} the database (± {unsure_s * 1000:.0f} ms)",
        **facts,
    )


def encoding(facts: ServerFacts) -> Finding:
    """Whether every value can be stored."""
    if facts.encoding != "UTF8":
        return failure(
            "encoding",
            f"the database has the encoding {facts.encoding}, which can't hold every value",
            "Use another: create database … encoding 'UTF8' template template0",
            encoding=facts.encoding,
        )
    return fine("encoding", "UTF8", encoding=facts.encoding)


def durability(settings: Mapping[str, str]) -> Finding:
    """Whether what was acknowledged is on a disk (promises 1 and 2)."""
    wrong, remedies = [], []
    if settings.get("fsync") == "off":
        wrong.append(
            "fsync is off: a crash of the machine may lose or destroy everything, runs that were "
            "accepted and steps that were recorded among it"
        )
        remedies.append("alter system set fsync = on, and reload")
    if settings.get("full_page_writes") == "off":
        wrong.append("full_page_writes is off: a crash of the machine may tear pages apart")
        remedies.append("alter system set full_page_writes = on, and reload")
    committed = settings.get("synchronous_commit")
    if committed == "off":
        wrong.append(
            "synchronous_commit is off: a crash of the server may lose the last moments, runs that "
            "were accepted (promise 1) and steps that were recorded and are done again (promise 2)"
        )
        remedies.append("set synchronous_commit = on for this database and role")
    elif committed in ("local", "remote_write") and settings.get("synchronous_standby_names"):
        wrong.append(
            f"synchronous_commit is {committed}: a failover to a synchronous standby may lose what "
            "was acknowledged"
        )
        remedies.append("set synchronous_commit = on for this database and role")
    seen = {name: settings.get(name) for name in SETTINGS[:4]}
    if wrong:
        return warning("durability", "; ".join(wrong), "; ".join(remedies) + ".", **seen)
    return fine("durability", "commits are on disk before they are acknowledged", **seen)
