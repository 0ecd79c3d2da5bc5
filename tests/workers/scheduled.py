"""An app whose runs are started by the calendar; several codes of it, by CODE."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime

from rowlock import App

app = App("clock")
CODE = os.environ.get("CODE", "")


@app.workflow
async def strike(tick: datetime, hold: float = 0.0) -> str:
    if hold:
        await app.sleep(hold)
    return tick.isoformat()


@app.workflow
async def ring(what: str) -> str:
    return what


@app.step
async def dwell(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.workflow
async def linger(seconds: float) -> None:
    await dwell(seconds)


if CODE == "each second":
    app.schedule("* * * * * *", name="seconds", catch_up="all")(strike)
elif CODE == "hourly":
    app.schedule("0 * * * *", name="hours")(strike)
    app.schedule("30 3 * * *", name="nights", timezone="Europe/Berlin", args={"what": "bell"})(ring)
elif CODE == "daily":
    app.schedule("0 3 * * *", name="hours")(strike)
