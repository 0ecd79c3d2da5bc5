"""The sample app and, on top, transactions that are handed sessions of SQLAlchemy.

A module of its own, so that other tests' workers don't wait for SQLAlchemy.
"""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from workers.sample import app, die_once


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "ledger"
    run: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)


@app.transaction
async def book_by_session(tx: AsyncSession, run: str, n: int) -> int:
    tx.add(Entry(run=run, n=n))
    return n


@app.transaction
async def book_by_session_and_die(tx: AsyncSession, run: str, n: int) -> int:
    """Killed after its writes and before its commit."""
    tx.add(Entry(run=run, n=n))
    await tx.flush()
    await asyncio.to_thread(die_once, f"{run} book {n}")
    return n


@app.transaction
def book_by_plain_session(tx: Session, run: str, n: int) -> int:
    tx.add(Entry(run=run, n=n))
    return n


@app.workflow
async def killed_in_a_session(run: str) -> int:
    await book_by_session(run, 1)
    await book_by_session_and_die(run, 2)
    return await book_by_plain_session.in_thread(run, 3)
