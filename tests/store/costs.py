"""What a call costs, in buffers touched: no busy machine can change that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from store.races.sessions import Session

SHALLOW, DEEP = 1_000, int(os.environ.get("ROWLOCK_PLANS_ROWS", "100000"))
"""Rows that a call meets, and must not feel (ROWLOCK_PLANS_ROWS=1000000, with --timeout 1400)."""


@dataclass(frozen=True, slots=True)
class Cost:
    buffers: int
    scanned: set[str]
    """Tables that were read from end to end."""


def cost_of(session: Session, sql: str, given: dict[str, Any]) -> Cost:
    """What a statement costs when its plans are made; nothing of it remains."""
    with _undone(session):
        session.connection.execute(sql.encode(), given)
    with _undone(session):
        before = _scans(session)
        [plan] = session.connection.execute(
            b"explain (analyze, buffers, format json) " + sql.encode(), given
        ).fetchone() or [None]
        after = _scans(session)
    top = plan[0]["Plan"]
    buffers = sum(
        top[f"{kind} {what} Blocks"]
        for kind in ("Shared", "Local", "Temp")
        for what in (("Hit", "Read") if kind == "Shared" else ("Read", "Written"))
        if f"{kind} {what} Blocks" in top
    )
    return Cost(buffers, {name for name in after if after[name] > before.get(name, 0)})


def _scans(session: Session) -> dict[str, int]:
    rows = session.run(
        "select relname, seq_scan from pg_stat_xact_user_tables where schemaname = 'rowlock'"
    )
    return {str(name): int(count or 0) for name, count in rows}


@contextmanager
def _undone(session: Session) -> Iterator[None]:
    session.begin()
    try:
        yield
    finally:
        session.rollback()
