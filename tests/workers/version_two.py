"""The app of version_one.py with another second step, and a workflow that the first has not."""

from __future__ import annotations

from rowlock import App
from workers.sample import note

app = App("changing")


@app.workflow
async def order(run: str) -> str:
    await note(run, "reserve")
    await app.uuid()
    await app.receive("go", bool)
    return await note(run, "ship")


@app.workflow
async def only_in_two() -> str:
    return "two"
