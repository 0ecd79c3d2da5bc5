"""What happens to an order, step by step, however long it takes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import close_old_connections
from psycopg import Connection

from orders.models import Order
from rowlock import App, Retry
from rowlock.errors import ReceiveTimeout

app = App("django-shop")


@app.step(retry=Retry(attempts=5))
def charge(order_id: int, cents: int) -> str:
    return f"receipt-{order_id}-{cents}"  # imagine a payment service, which may fail


@app.step(retry=Retry(attempts=5))
def mark(order_id: int, status: str) -> None:
    """By the ORM, in a transaction of Django's: it may happen twice, which changes nothing."""
    close_old_connections()  # this thread's own may have been lost since it was used
    Order.objects.filter(pk=order_id).update(status=status)


@app.transaction
def restock(tx: Connection[Any], order_id: int) -> None:
    """In the step's own transaction, and so exactly once: adding twice would not be the same."""
    tx.execute(
        "update orders_stock as s set pieces = pieces + 1"
        "  from orders_order as o where o.id = %s and s.item = o.item",
        [order_id],
    )


@app.workflow
def fulfil(order_id: int, cents: int) -> str:
    charge(order_id, cents)
    mark(order_id, "charged")
    try:
        parcel = app.receive("shipped", str, timeout=timedelta(days=7)).wait()
    except ReceiveTimeout:
        parcel = "lost"
    if parcel == "lost":
        restock(order_id)
        mark(order_id, "lost")
        return "lost"
    mark(order_id, f"shipped as {parcel}")
    return parcel
