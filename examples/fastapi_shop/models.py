"""The shop's own tables, in the database that Rowlock uses."""

from __future__ import annotations

import os

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase): ...


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    cents: Mapped[int]
    status: Mapped[str] = mapped_column(default="new")


class Stock(Base):
    __tablename__ = "shop_stock"
    item: Mapped[str] = mapped_column(primary_key=True)
    pieces: Mapped[int]


def make_engine() -> AsyncEngine:
    url = make_url(os.environ["ROWLOCK_DATABASE_URL"])
    return create_async_engine(url.set(drivername="postgresql+psycopg"))
