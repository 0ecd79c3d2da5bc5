"""Make the four roles that share out the rights on Rowlock, and give them theirs in this database.

Roles belong to the whole server, rights to one database: whoever comes second finds the roles and
only gives the rights. What each may do stands in ``functions/zz_rights.sql``, and is applied again
with every change of the functions.

Reads and writes: the server's roles, and the rights on schema ``rowlock``.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import Connection
from psycopg.sql import SQL, Identifier

from rowlock.errors import ConfigurationError, SchemaTooOld
from rowlock.settings import Settings
from rowlock.store.connection import Disconnected, conninfo, describe, refusal
from rowlock.store.migrate import LEVEL, LOCK

ROLES = ("rowlock_client", "rowlock_worker", "rowlock_reader", "rowlock_admin")
"""What login roles are made members of; see docs/operations.md."""


def make_roles(where: Settings | str) -> tuple[str, ...]:
    """Make those of the roles that are missing, and give all of them their rights here.

    Safe to run again, and from many databases at once. Needs the owner of the schema; and the right
    to create roles, where one is missing. Returns the names of those that were made.
    Raises ConfigurationError without those rights, SchemaTooOld before ``rowlock migrate``.
    """
    settings = Settings(database_url=where) if isinstance(where, str) else where
    try:
        with psycopg.connect(
            conninfo(settings, "migrate"), autocommit=True, prepare_threshold=None
        ) as connection:
            _require_functions(connection)
            made = tuple(role for role in ROLES if _make(connection, role))
            with connection.transaction():
                # Two who grant the same at once would fail each other.
                connection.execute("select pg_advisory_xact_lock(%s)", [LOCK])
                connection.execute("select rowlock.grant_rights()")
            return made
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"{error.diag.message_primary}: who makes roles must own schema rowlock (as who ran "
            "`rowlock migrate` does) and may need the right to create roles. Let an administrator "
            f"run `alter role … createrole`, or make them by hand: {', '.join(ROLES)}, all with "
            "nologin."
        ) from None
    except psycopg.OperationalError as error:
        raise Disconnected(f"can't reach the database: {describe(error)}") from None
    except psycopg.Error as error:
        raise refusal(error) from None


def _require_functions(connection: Connection[Any]) -> None:
    found = connection.execute(
        "select to_regprocedure('rowlock.grant_rights()') is not null"
    ).fetchone()
    if not found or not found[0]:
        raise SchemaTooOld(0, LEVEL)


def _make(connection: Connection[Any], role: str) -> bool:
    """Whether it was missing. Another database may be making it at the same moment."""
    there = connection.execute("select 1 from pg_catalog.pg_roles where rolname = %s", [role])
    if there.fetchone():
        return False
    try:
        connection.execute(SQL("create role {} nologin").format(Identifier(role)))
    except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        return False
    return True
