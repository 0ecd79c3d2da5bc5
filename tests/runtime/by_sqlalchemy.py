"""The transactions of test_transactions.py, as functions that are handed SQLAlchemy's sessions."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from rowlock import App, Retry
from runtime.transacting import RELEASE, Workflows, tried

app = App("transactions")
BROKEN_RULE = "sqlalchemy.exc.IntegrityError"
ABORTED = "or its session did when it could not flush"


class Base(orm.DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "ledger"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


class Account(Base):
    __tablename__ = "account"
    name: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]


class Lazy(AsyncSession):
    """A kind of the user's own."""

    def __init__(self, bind: Any, **options: Any) -> None:
        super().__init__(bind, autoflush=False, **options)


# Whatever they add and don't flush is flushed before the step is recorded.


@app.transaction
async def book(tx: AsyncSession, n: int) -> int:
    tx.add(Entry(n=n))
    return n


@app.transaction
def book_sync(tx: Session, n: int) -> int:
    tx.add(Entry(n=n))
    return n


@app.transaction
async def commits(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.commit()


@app.transaction
def rolls_back(tx: Session) -> None:
    tx.execute(sa.text("rollback"))


@app.transaction
async def raises(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.flush()
    raise ValueError("after the write")


@app.transaction
def raises_sync(tx: Session) -> None:
    tx.add(Entry(n=1))
    tx.flush()
    raise StopIteration("after the write")


@app.transaction
async def savepoints(tx: AsyncSession) -> str:
    tx.add(Entry(n=1))
    try:
        async with tx.begin_nested():
            tx.add(Entry(n=2))
            tx.add(Account(name="a", n=1))
    except IntegrityError:
        tx.add(Entry(n=3))
    return "saved"


@app.transaction
async def breaks_a_rule(tx: AsyncSession) -> None:
    """It is told at the flush, which is Rowlock's."""
    tx.add(Account(name="a", n=1))


@app.transaction
async def breaks_a_deferred_rule(tx: AsyncSession) -> None:
    await tx.execute(sa.text("insert into step values (1), (1)"))


@app.transaction
async def swallows_a_broken_rule(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    tx.add(Account(name="a", n=1))
    with suppress(IntegrityError):
        await tx.flush()


@app.transaction
async def closes(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.close()


@app.transaction(retry=Retry(attempts=3, first_delay=timedelta(milliseconds=10)))
async def lucky(tx: AsyncSession) -> int:
    tx.add(Entry(n=1))
    await tx.flush()
    tried.append("lucky")
    if len(tried) < 3:
        raise OSError
    return len(tried)


@app.transaction(isolation="serializable")
async def transfer(tx: AsyncSession, one: str, other: str) -> int:
    read = (await tx.get_one(Account, one)).n
    await asyncio.sleep(0.02)
    (await tx.get_one(Account, other)).n += 1
    return read


@app.transaction(timeout=0.1)
async def too_slow(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.flush()
    await tx.execute(sa.text("select pg_sleep(30)"))


@app.transaction(timeout=0.1)
def too_slow_sync(tx: Session) -> None:
    tx.add(Entry(n=1))
    tx.flush()
    RELEASE.wait(10)
    tx.add(Entry(n=666))
    tx.flush()
    tried.append("written")


@app.transaction
def slow_sync(tx: Session, n: int) -> int:
    tx.add(Entry(n=n))
    tx.flush()
    time.sleep(0.005)
    return n


@app.transaction
async def isolation_of(tx: AsyncSession) -> str:
    return str(await tx.scalar(sa.text("show transaction_isolation")))


@app.transaction
async def returns_nonsense(tx: AsyncSession) -> int:
    tx.add(Entry(n=1))
    return "x"  # type: ignore[return-value]


# --- what only a session can do


@app.transaction
async def rolls_its_session_back(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.rollback()


@app.transaction
async def begins(tx: AsyncSession) -> None:
    async with tx.begin():
        tx.add(Entry(n=1))


@app.transaction
async def commits_its_connection(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.flush()
    await (await tx.connection()).commit()


@app.transaction
async def rolls_its_connection_back(tx: AsyncSession) -> None:
    tx.add(Entry(n=1))
    await tx.flush()
    await (await tx.connection()).rollback()


@app.transaction
async def leaves_it(tx: AsyncSession) -> None:
    async with tx:
        tx.add(Entry(n=1))


@app.transaction
async def commits_inside(tx: AsyncSession) -> None:
    await tx.run_sync(lambda session: session.commit())


@app.transaction
def commits_sync(tx: Session) -> None:
    tx.add(Entry(n=1))
    tx.commit()


@app.transaction
def closes_sync(tx: Session) -> None:
    with tx:
        tx.add(Entry(n=1))


@app.transaction
async def swallows_a_stale_row(tx: AsyncSession) -> None:
    """The flush fails, but PostgreSQL knows of no error: it would commit half of the work."""
    tx.add(Entry(n=1))
    account = await tx.get_one(Account, "a")
    await tx.execute(sa.delete(Account).execution_options(synchronize_session=False))
    account.n = 7
    with suppress(StaleDataError):
        await tx.flush()


@app.transaction
async def of_a_kind(tx: Annotated[Lazy, "mine"], n: int) -> str:
    tx.add(Entry(n=n))
    found = (await tx.scalars(sa.select(Entry.n))).all()
    return f"{type(tx).__name__} {found} {type(tx.sync_session).__name__}"


ENDS_ITSELF = (
    *(rolls_its_session_back, begins, commits_its_connection, rolls_its_connection_back),
    *(leaves_it, commits_inside),
)
ENDS_ITSELF_PLAIN = (commits_sync, closes_sync)

WORKFLOWS = Workflows(
    app,
    (book, book_sync, slow_sync, transfer),
    (
        *(commits, raises, savepoints, breaks_a_rule, breaks_a_deferred_rule, lucky, closes),
        *(swallows_a_broken_rule, too_slow, isolation_of, returns_nonsense),
        *(*ENDS_ITSELF, swallows_a_stale_row),
    ),
    (rolls_back, raises_sync, too_slow_sync, *ENDS_ITSELF_PLAIN),
)


@app.workflow
async def lazy(n: int) -> str:
    return await of_a_kind(n)
