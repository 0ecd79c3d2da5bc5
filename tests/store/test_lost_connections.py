"""What a lost connection looks like, whichever way psycopg tells of it."""

from __future__ import annotations

import psycopg
import pytest

from rowlock import Settings
from rowlock.errors import Disconnected
from rowlock.store.connection import Poisoned, Session, Statement, refusal

ONE = Statement("one", "select 1", int)


def test_no_answer_at_all_is_a_lost_connection() -> None:
    """psycopg may say so before libpq knows that the connection is gone."""
    assert isinstance(refusal(psycopg.InternalError("got no result from the query")), Disconnected)
    assert isinstance(refusal(psycopg.DataError("a text can't contain NUL")), Poisoned)


async def test_a_session_without_an_answer_goes_on_with_a_new_connection(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(Settings(database_url=database), "control")
    assert await session.one(ONE, {}) == 1

    async def unanswered(*_: object) -> None:
        raise psycopg.InternalError("got no result from the query")

    with monkeypatch.context() as patch:
        patch.setattr(session, "_execute", unanswered)
        with pytest.raises(Disconnected):
            await session.one(ONE, {})
    assert await session.one(ONE, {}) == 1
    await session.close()
