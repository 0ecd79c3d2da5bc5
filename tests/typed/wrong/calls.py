"""What a type checker finds: the marked lines, by mypy's name, and no other."""

from __future__ import annotations

import asyncio
from typing import Any

from psycopg import AsyncConnection

from rowlock import App, Batch, Client, Debounce, Dedup, Retry, Run

app = App("wrong")


@app.step
async def charge(order: int, cents: int = 0) -> str:
    return f"{order} {cents}"


@app.step
def weigh(order: int) -> float:
    return float(order)


@app.transaction
async def book(tx: AsyncConnection[Any], order: int) -> int:
    return order


@app.workflow
async def fulfil(order: int, gift: bool = False) -> str:
    await charge("7")  # error: arg-type
    await charge(order, pence=7)  # error: call-arg
    await charge()  # error: call-arg
    count: int = await charge(order)  # error: assignment
    await weigh(order)  # error: misc
    await book(None, order)  # error: call-arg arg-type
    wide: list[int] = await asyncio.gather(charge(order))  # error: assignment
    flag: str = await app.receive("approval", bool)  # error: arg-type
    await app.receive("approval", 7)  # error: call-overload
    await app.map([charge(order)])  # error: arg-type
    await app.start_child(charge(order))  # error: arg-type
    app.compensate(charge, "7")  # error: arg-type
    await app.run_step("weigh", weigh.function, "7")  # error: call-overload
    fulfil.continue_as_new("7")  # error: arg-type
    return f"{count} {wide} {flag}"


@app.workflow
def plain(order: int) -> float:
    weight: str = weigh(order)  # error: assignment
    charge.blocking("7")  # error: arg-type
    length: int = fulfil(order).wait()  # error: assignment
    return float(weight) + length


@app.step(retries=5)  # error: call-overload untyped-decorator
async def declared_wrongly() -> None: ...


@app.step(retry=5)  # error: call-overload untyped-decorator
async def retried_wrongly() -> None: ...


@app.workflow(queue=7)  # error: call-overload untyped-decorator
async def queued_wrongly() -> None: ...


@app.transaction  # error: arg-type
async def without_a_connection() -> None: ...


async def starts(client: Client, run: Run[str]) -> None:
    await client.start(fulfil("7"))  # error: arg-type
    await client.start(fulfil)  # error: arg-type
    await client.start(charge(7))  # error: arg-type
    await client.start(fulfil(7), keys="order-7")  # error: call-arg
    await client.start(fulfil(7), priority="high")  # error: arg-type
    await client.start(fulfil(7), delay="1 hour")  # error: arg-type
    await client.start(fulfil(7), attributes=[1])  # error: arg-type
    await client.start(fulfil(7), start_before=60)  # error: arg-type
    await client.start(fulfil(7), dedup=Dedup("k", "queue"))  # error: arg-type
    await client.start(fulfil(7), debounce="k")  # error: arg-type
    await client.start(fulfil(7), debounce=Debounce("k"))  # error: call-arg
    await client.start(fulfil(7), batch=Batch("k", size="10"))  # error: arg-type
    other: Run[int] = await client.start(fulfil(7))  # error: arg-type
    number: int = await (await client.start(fulfil(7))).result()  # error: assignment
    await client.start_many(fulfil(7))  # error: arg-type
    await client.start_many([fulfil(7)], key="k")  # error: call-arg
    await client.create_schedule("s", 15, fulfil)  # error: arg-type
    await client.create_schedule("s", "0 3 * * *", fulfil, overlap="x")  # error: arg-type
    app.schedule("0 3 * * *", catch_up="some")  # error: arg-type
    await client.runs(state="failed")  # error: call-arg
    await run.send()  # error: call-arg
    percent: str = await run.event("progress", int)  # error: arg-type
    client.run(run.id, charge)  # error: call-overload
    await run.cancel(30)  # error: call-arg
    fulfil(7).sql(style="qmark")  # error: arg-type
    async with app.worker(threads=4):  # error: call-arg
        pass
    with app.blocking_client() as blocking:
        await blocking.start(fulfil(7))  # error: misc
        also: int = blocking.start(fulfil(7)).result()  # error: assignment
    print(other, number, also, percent, Retry(attempts="3"))  # error: arg-type
