"""What happens to an order, step by step, however long it takes."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from fastapi_shop.models import Order
from rowlock import App, Retry
from rowlock.errors import ReceiveTimeout

app = App("fastapi-shop")


@app.step(retry=Retry(attempts=5))
async def charge(order_id: int, cents: int) -> str:
    return f"receipt-{order_id}-{cents}"  # imagine a payment service, which may fail


@app.step(retry=Retry(attempts=5))
async def refund(receipt: str) -> None: ...


@app.transaction
async def mark(session: AsyncSession, order_id: int, status: str) -> None:
    """Exactly once: it commits together with the step's record."""
    order = await session.get_one(Order, order_id)
    order.status = status


@app.workflow
async def fulfil(order_id: int, cents: int) -> str:
    receipt = await charge(order_id, cents)
    await mark(order_id, "charged")
    try:
        parcel = await app.receive("shipped", str, timeout=timedelta(days=7))
    except ReceiveTimeout:
        await refund(receipt)
        await mark(order_id, "refunded")
        return "refunded"
    await mark(order_id, f"shipped as {parcel}")
    return parcel
