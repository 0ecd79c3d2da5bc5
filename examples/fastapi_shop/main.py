"""A shop: orders are written and their workflows started in one transaction.

The workflows run in the web server's own process; see README.md for the other way.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from fastapi_shop.flows import app, fulfil
from fastapi_shop.models import Base, Order, Stock, make_engine
from rowlock import Client
from rowlock.errors import Refused


@asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncGenerator[None, None]:
    engine = make_engine()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with app.client() as client, app.worker(slots=20) as worker:
        api.state.client, api.state.worker, api.state.engine = client, worker, engine
        yield
    await engine.dispose()


api = FastAPI(lifespan=lifespan)


def rowlock_client(request: Request) -> Client:
    client: Client = request.app.state.client
    return client


async def new_session(request: Request) -> AsyncGenerator[AsyncSession, None]:
    async with AsyncSession(request.app.state.engine, expire_on_commit=False) as session:
        yield session


Rowlock = Annotated[Client, Depends(rowlock_client)]
Session = Annotated[AsyncSession, Depends(new_session)]


class NewOrder(BaseModel):
    item: str
    cents: int


class Delivery(BaseModel):
    id: str
    order_id: int
    parcel: str


@api.post("/orders", status_code=201)
async def create_order(new: NewOrder, session: Session, client: Rowlock) -> dict[str, str | int]:
    async with session.begin():
        order = Order(item=new.item, cents=new.cents)
        session.add(order)
        await session.flush()  # now it has an id
        run = await client.start(
            fulfil(order.id, order.cents), key=f"order-{order.id}", connection=session
        )
        taken = await session.execute(
            update(Stock)
            .where(Stock.item == new.item, Stock.pieces > 0)
            .values(pieces=Stock.pieces - 1)
            .returning(Stock.item)
        )
        if taken.first() is None:  # rolls back: there is no order, and there is no run
            raise HTTPException(409, f"{new.item} is sold out")
    return {"order": order.id, "run": str(run.id)}


@api.get("/orders/{order_id}")
async def show_order(order_id: int, session: Session, client: Rowlock) -> dict[str, str]:
    order = await session.get(Order, order_id)
    runs = await client.runs(key=f"order-{order_id}")
    if order is None or not runs:
        raise HTTPException(404)
    return {"item": order.item, "order": order.status, "run": runs[0].status}


@api.post("/webhooks/parcel", status_code=202)
async def parcel_sent(delivery: Delivery, client: Rowlock) -> None:
    """The carrier calls this, perhaps twice: the message's key makes it one."""
    runs = await client.runs(key=f"order-{delivery.order_id}")
    if not runs:
        raise HTTPException(404)
    try:
        await client.run(runs[0].id).send("shipped", delivery.parcel, key=delivery.id)
    except Refused as error:
        raise HTTPException(409, str(error)) from None


@api.get("/ready")
async def ready(request: Request) -> None:
    if not request.app.state.worker.is_ready:
        raise HTTPException(503)
