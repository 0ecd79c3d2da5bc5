"""Connections that end in the middle of a load: how they are told from errors, and what is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from rowlock.errors import Disconnected
from rowlock.store.connection import describe, is_unanswered


class Lost(Disconnected):
    """The server, or what is between, ended connections of the load."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(
            f"the load lost its connections to the database: {why.rstrip('.')}. The load that was"
            " under way tells nothing. Was the server restarted, did it fail over, did somebody"
            " end its sessions? Its log says so; run this again when it is back."
        )


class LeftBehind(Disconnected):
    """What the suite made could not be removed, as the database can't be reached any more."""

    def __init__(self, what: str, why: str, remedy: str) -> None:
        self.what = what
        super().__init__(f"{what} could not be removed, and is left: {why}. {remedy}")


def is_loss(error: psycopg.Error) -> bool:
    """Whether the connection has ended, and not just the statement.

    Of class 57 those are 57P01 to 57P05; 57014 is a statement that took too long.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) or is_unanswered(error)
    return error.sqlstate.startswith(("08", "57P"))


@contextmanager
def losses_told() -> Iterator[None]:
    """Raise Lost for what psycopg says of connections that have ended."""
    try:
        yield
    except psycopg.Error as error:
        if not is_loss(error):
            raise
        raise Lost(describe(error)) from error
