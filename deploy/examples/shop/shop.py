"""A shop's workflows: what the guide to Kubernetes deploys, and what tests on a cluster run.

    rowlock start fulfil --app shop --arg order=7 --arg seconds=2 --key order-7
    rowlock start sleepy --app shop --arg seconds=60

An order ends as one row of `shop_orders`. Its column `writes` would show it if an order were ever
written twice.
"""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import AsyncConnection

from rowlock import App, Retry

app = App("shop")


@app.workflow
async def fulfil(order: int, seconds: float = 0.1) -> str:
    """Charge, pack and write down one order; two of the steps take ``seconds`` each."""
    await create_table()
    receipt = await charge(order, seconds)
    parcel = await pack(order, seconds)
    await save(order, receipt, parcel)
    return parcel


@app.workflow
async def sleepy(seconds: float) -> str:
    """Wait without a worker: while it sleeps, a run is a row and nothing else."""
    await app.sleep(seconds)
    return "awake"


@app.step
async def charge(order: int, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"receipt-{order}"


@app.step
async def pack(order: int, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"parcel-{order}"


@app.transaction(retry=Retry(attempts=5))  # two that create it at once get in each other's way
async def create_table(connection: AsyncConnection[Any]) -> None:
    await connection.execute("""
        create table if not exists shop_orders (
            order_id  bigint primary key,
            receipt   text not null,
            parcel    text not null,
            writes    integer not null default 1,
            saved_at  timestamptz not null default now())""")


@app.transaction
async def save(connection: AsyncConnection[Any], order: int, receipt: str, parcel: str) -> None:
    await connection.execute(
        """
        insert into shop_orders as old (order_id, receipt, parcel)
        values (%s, %s, %s)
        on conflict (order_id) do update set writes = old.writes + 1""",
        [order, receipt, parcel],
    )
