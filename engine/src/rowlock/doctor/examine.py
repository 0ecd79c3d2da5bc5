"""All checks, in the order in which they explain each other.

Each asks for itself: what can't be answered, for want of a right or in time, is one finding that
says so, and the others go on. What needs the schema is left out where there is none.

Reads: store's examination.py.  Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

from rowlock.doctor import fleet, schema, server, upkeep
from rowlock.doctor.finding import Finding, failure, unseen
from rowlock.errors import Disconnected, RowlockError
from rowlock.settings import Settings
from rowlock.store import examination as ask
from rowlock.store import migrate
from rowlock.store.examination import Examiner, ServerFacts
from rowlock.store.reports import PAUSES
from rowlock.store.statements import RETAIN_PLAN

Clock = Callable[[], datetime]

LONG_S = 300.0
TICKS = 5


def _now() -> datetime:
    return datetime.now(UTC)


def examine(
    settings: Settings, *, long_s: float = LONG_S, clock: Clock = _now
) -> Iterator[Finding]:
    """Look at everything, and give a finding for each check as it is made. Changes nothing.

    ``long_s``: transactions and requests that are older are worth telling. ``clock``: this
    machine's, for the comparison with the server's. Raises ConfigurationError when the settings
    name no database.
    """
    with ExitStack() as stack:
        try:
            examiner = stack.enter_context(Examiner(settings))
            facts = examiner.one(ask.SERVER)
        except RowlockError as error:
            if not isinstance(error, Disconnected):
                raise
            yield failure(
                "server",
                f"can't be reached: {error}",
                "Check ROWLOCK_DATABASE_URL, the network and the server's log.",
            )
            return
        yield from _Checks(settings, examiner, facts, long_s, clock).all()


class _Checks:
    """The questions of each check."""

    def __init__(
        self,
        settings: Settings,
        examiner: Examiner,
        facts: ServerFacts,
        long_s: float,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._ask = examiner
        self._facts = facts
        self._long_s = long_s
        self._clock = clock

    def all(self) -> Iterator[Finding]:
        """Every check that makes sense here."""
        yield server.server(self._facts)
        yield server.tls(self._ask.link)
        for name, check in (
            ("pooler", self.pooler),
            ("clock", self.clock),
            ("encoding", partial(server.encoding, self._facts)),
            ("durability", self.durability),
            ("idle timeout", self.idle_timeout),
            ("transactions", self.transactions),
            ("prepared", self.prepared),
            ("slots", self.slots),
        ):
            yield self._made(name, check)
        found = self._made("schema", self.schema)
        yield found
        if found.facts.get("level") == 0:
            return
        if found.facts.get("level") == found.facts.get("needed"):
            yield self._made("completeness", self.completeness)
        for name, check in (
            ("indexes", self.indexes),
            ("rights", self.rights),
            ("autovacuum", self.autovacuum),
            ("dead rows", self.dead_rows),
            ("locks", self.locks),
            ("connections", self.connections),
            ("workers", self.workers),
            ("unserved", self.unserved),
            ("pauses", self.pauses),
            ("blocked", self.blocked),
            ("cancels", self.cancels),
            ("retention", self.retention),
        ):
            yield self._made(name, check)

    def _made(self, name: str, check: Callable[[], Finding]) -> Finding:
        try:
            return check()
        except RowlockError as error:
            return unseen(name, f"could not be seen: {error}")

    # --- the server

    def pooler(self) -> Finding:
        refused = None
        is_shared = False
        try:
            with Examiner(self._settings, as_workers=True) as second:
                second_pid = second.one(ask.PID)
                is_shared = second_pid == self._ask.one(ask.PID)
        except Disconnected as error:
            if "startup parameter" not in str(error):
                raise
            refused = str(error)
        is_pooled = self._ask.link.key_pid != self._ask.one(ask.PID)
        said = self._settings.pgbouncer
        return server.pooler(server.Pooling(is_pooled, is_shared, refused, said))

    def clock(self) -> Finding:
        ticks = []
        for _ in range(TICKS):
            sent = self._clock()
            told = self._ask.one(ask.CLOCK)
            ticks.append(server.Tick(sent, self._clock(), told))
        return server.clock(ticks)

    def durability(self) -> Finding:
        return server.durability(self._values())

    def idle_timeout(self) -> Finding:
        return upkeep.idle_timeout(self._values())

    def _values(self) -> dict[str, str]:
        found = self._ask.rows(ask.SETTINGS, names=list(server.SETTINGS))
        return {one.name: one.value for one in found}

    def transactions(self) -> Finding:
        old = self._ask.rows(ask.TRANSACTIONS, seconds=self._long_s, limit=ask.MOST_ROWS)
        hidden = 0 if self._facts.sees_all else self._ask.one(ask.HIDDEN_SESSIONS)
        tracked = self._values().get("track_activities", "on")
        return upkeep.transactions(old, hidden, self._facts.role, tracked, self._long_s)

    def prepared(self) -> Finding:
        found = self._ask.rows(ask.PREPARED, seconds=self._long_s, limit=ask.MOST_ROWS)
        return upkeep.prepared(found)

    def slots(self) -> Finding:
        return upkeep.slots(self._ask.rows(ask.SLOTS, limit=ask.MOST_ROWS))

    # --- the schema

    def schema(self) -> Finding:
        nothing = ask.SchemaFacts(0, 0, None)
        found = self._ask.one(ask.SCHEMA) if self._ask.one(ask.HAS_SCHEMA) else nothing
        return schema.schema(found, migrate.LEVEL, migrate.functions().checksum)

    def completeness(self) -> Finding:
        functions = migrate.functions().sql
        relations = schema.relation_names([one.sql for one in migrate.steps()], functions)
        return schema.completeness(
            self._ask.rows(ask.MISSING_FUNCTIONS, names=schema.function_names(functions)),
            self._ask.rows(ask.MISSING_RELATIONS, names=relations),
        )

    def indexes(self) -> Finding:
        return schema.indexes(self._ask.rows(ask.INVALID_INDEXES))

    def rights(self) -> Finding:
        found = self._ask.one(ask.RIGHTS, names=schema.PROBED)
        apps = self._ask.one(ask.MY_APPS) if found.schema and found.allowed else []
        return schema.rights(self._facts.role, found, apps)

    # --- upkeep

    def autovacuum(self) -> Finding:
        return upkeep.autovacuum(self._values(), self._ask.rows(ask.TABLES))

    def dead_rows(self) -> Finding:
        return upkeep.dead_rows(self._ask.rows(ask.TABLES), self._ask.one(ask.CLOCK))

    def locks(self) -> Finding:
        strong = self._ask.rows(ask.STRONG_LOCKS, limit=ask.MOST_ROWS)
        old = self._ask.rows(ask.OLD_LOCKS, seconds=self._long_s, limit=ask.MOST_ROWS)
        return upkeep.locks(strong, old, self._long_s)

    def connections(self) -> Finding:
        alive = sum(one.lease_seconds > 0 for one in self._ask.rows(ask.LEASES))
        return upkeep.connections(self._ask.one(ask.CONNECTIONS), alive, self._settings)

    # --- the fleet

    def workers(self) -> Finding:
        return fleet.workers(self._ask.rows(ask.LEASES), self._settings.lease_seconds)

    def unserved(self) -> Finding:
        demands = self._ask.rows(ask.DEMAND)
        return fleet.unserved(demands, self._ask.rows(ask.LEASES), self._settings.lease_seconds)

    def pauses(self) -> Finding:
        return fleet.pauses(self._ask.rows(PAUSES, app=None), self._ask.one(ask.CLOCK))

    def blocked(self) -> Finding:
        found = self._ask.rows(ask.BLOCKED, limit=ask.MOST_COUNTED)
        return fleet.blocked(found, ask.MOST_COUNTED)

    def cancels(self) -> Finding:
        found = self._ask.rows(ask.OLD_CANCELS, seconds=self._long_s, limit=ask.MOST_ROWS)
        return fleet.cancels(found)

    def retention(self) -> Finding:
        return fleet.retention(self._ask.rows(RETAIN_PLAN, app=None), self._ask.one(ask.CLOCK))
