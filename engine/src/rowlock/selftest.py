"""The app of `helm test`: one workflow of one step, to show that an installation works.

When `ping` gives "pong", everything on the way did its part: the operator migrated the database
and started a worker, the worker claimed the run, recorded its step, and the result came back.

    rowlock worker rowlock.selftest:app
    rowlock start ping --app rowlock-selftest --wait
"""

from __future__ import annotations

from rowlock.app import App

app = App("rowlock-selftest")


@app.step
async def answer() -> str:
    return "pong"


@app.workflow
async def ping() -> str:
    return await answer()
