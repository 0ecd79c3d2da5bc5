"""An app whose steps say what they did, for tests of the harness."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

from rowlock import App, Retry
from rowlock.errors import ReceiveTimeout

app = App("testing-shop")

DONE: list[str] = []
"""What the steps did, in order. Tests clear it."""

DAY = timedelta(days=1)


@app.step
async def charge(order: int) -> str:
    DONE.append(f"charge {order}")
    return f"receipt-{order}"


@app.step
async def ship(order: int) -> str:
    DONE.append(f"ship {order}")
    return f"parcel-{order}"


@app.step
def label(order: int) -> str:
    DONE.append(f"label {order}")
    return f"label-{order}"


A_QUARTER = timedelta(hours=6)


@app.step(retry=Retry(attempts=3, first_delay=A_QUARTER, max_delay=DAY, factor=2, jitter=0))
async def knock(_order: int) -> int:
    DONE.append("knock")
    if DONE.count("knock") < 3:
        raise ConnectionError("nobody is there")
    return DONE.count("knock")


@app.step(timeout=timedelta(hours=1))
async def asks(_order: int) -> str:
    return "answer"


@app.transaction
async def book(tx: Any, order: int) -> int:
    await tx.execute("insert into ledger (entry) values (%s)", [f"book {order}"])
    DONE.append(f"book {order}")
    return order


@app.transaction
def book_plain(tx: Any, order: int) -> int:
    tx.execute("insert into ledger (entry) values (%s)", [f"plain {order}"])
    return order


LEDGER = "create table if not exists ledger (id int generated always as identity, entry text)"


@app.workflow
async def fulfil(order: int) -> list[str]:
    receipt = await charge(order)
    await app.sleep(30 * DAY)
    return [receipt, await ship(order)]


@app.workflow
async def pays(order: int) -> list[Any]:
    first = await charge(order)
    return [first, await book(order), await ship(order)]


@app.workflow
def pays_in_a_thread(order: int) -> list[Any]:
    first = label(order)
    app.sleep(DAY).wait()
    return [first, book_plain(order), charge.blocking(order)]


@app.workflow
async def times(steps: int) -> list[datetime]:
    seen = [await app.now()]
    for _ in range(steps):
        await app.sleep(DAY)
        seen.append(await app.now())
    return seen


@app.workflow
async def visits(order: int) -> int:
    return await knock(order)


@app.workflow
async def loses_patience(order: int) -> str:
    try:
        async with app.timeout(timedelta(minutes=5)):
            return await charge(order)
    except TimeoutError:
        return "too slow"


@app.workflow
async def asks_once(order: int) -> str:
    return await asks(order)


@app.workflow
async def refuses(order: int) -> None:
    raise ValueError(f"no order {order}")


@app.workflow
async def rings(name: str, days: int) -> None:
    await app.sleep(days * DAY)
    DONE.append(f"{name} on {(await app.now()).isoformat()}")


@app.workflow
async def asks_the_boss(order: int) -> str:
    try:
        approved = await app.receive("approval", bool, timeout=7 * DAY)
    except ReceiveTimeout:
        return "nobody answered"
    return "approved" if approved else "refused"


@app.workflow
async def waits_for_a_word(order: int) -> str:
    receipt = await charge(order)
    word = await app.receive("word", str)
    return f"{receipt} {word}"


@app.workflow
async def cleans_up(order: int) -> str:
    try:
        return await charge(order)
    finally:
        await app.sleep(10)
        await ship(order)


@app.workflow
async def for_ever() -> None:
    while True:
        await app.sleep(DAY)


@app.workflow
async def rich(order: int) -> dict[str, Any]:
    """A bit of everything."""
    receipt = await charge(order)
    entry = await book(order)
    fast, slow, parcel = await asyncio.gather(label.in_thread(order), fulfil(order), ship(order))
    handle = await app.start_child(pays_in_a_thread(order), key=f"pays-{order}")
    late = None
    try:
        async with app.timeout(DAY):
            await app.sleep(2 * DAY)
    except TimeoutError:
        late = "timeout"
    return {
        "receipt": receipt,
        "entry": entry,
        "gathered": [fast, slow, parcel],
        "late": late,
        "paid": await handle.result(),
    }
