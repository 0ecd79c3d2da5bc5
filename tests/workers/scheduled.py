"""An app whose runs are started by the calendar; several codes of it, by CODE."""

from __future__ import annotations

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


if CODE == "each second":
    app.schedule("* * * * * *", name="seconds", overlap="allow", catch_up="all")(strike)
elif CODE == "hourly":
    app.schedule("0 * * * *", name="hours")(strike)
    app.schedule("30 3 * * *", name="nights", timezone="Europe/Berlin", args={"what": "bell"})(ring)
elif CODE == "daily":
    app.schedule("0 3 * * *", name="hours")(strike)
