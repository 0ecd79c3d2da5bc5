"""An app as it was first: version_two.py changes a workflow under the feet of its runs."""

from __future__ import annotations

from rowlock import App
from workers.sample import note, slow_note

app = App("changing")


@app.workflow
async def order(run: str) -> str:
    await note(run, "reserve")
    await slow_note(run, "charge", 0.5)
    await app.receive("go", bool)
    return await note(run, "ship")
