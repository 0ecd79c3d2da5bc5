"""A shop whose orders are placed, approved and cancelled by programs in other languages.

Run it with ``rowlock dev examples/languages/shop.py``; the programs are in the folders beside this
file. What they pass, send and read is JSON of the classes below (docs/languages.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from rowlock import App


class SoldOut(Exception):
    """There is none left."""


app = App("shop", errors=[SoldOut])

PRICES = {"cup": Decimal("19.90"), "saucer": Decimal("4.50")}
PATIENCE = timedelta(days=7)


@dataclass
class Line:
    sku: str
    pieces: int


@dataclass
class Order:
    number: int
    customer: str
    deliver_on: date
    lines: list[Line]


@dataclass
class Quote:
    """The event ``quote`` of a run."""

    total: Decimal
    valid_until: datetime


@dataclass
class Approval:
    """The message on topic ``approval``."""

    by: str
    at: datetime


@dataclass
class Delivery:
    """What a run returns."""

    parcel: str
    total: Decimal
    approved_by: str


@app.step
async def price(lines: list[Line]) -> Decimal:
    for line in lines:
        if line.sku not in PRICES:
            raise SoldOut(f"{line.sku} is sold out")
    return sum((line.pieces * PRICES[line.sku] for line in lines), Decimal(0))


@app.step
async def ship(order: Order) -> str:
    return f"parcel-{order.number}-{order.deliver_on:%d%m}"


@app.workflow
async def fulfil(order: Order) -> Delivery:
    total = await price(order.lines)
    await app.set_event("quote", Quote(total, await app.now() + PATIENCE))
    approval = await app.receive("approval", Approval, timeout=PATIENCE)
    return Delivery(await ship(order), total, approval.by)
