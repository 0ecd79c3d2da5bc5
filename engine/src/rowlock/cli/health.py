"""/livez, /readyz and /metrics of a worker, for Kubernetes, Prometheus and whoever else asks.

    /livez    200 while no process has been silent for long: the rest mends itself
    /readyz   200 when every process holds a lease and takes work; 503 while draining
    /metrics  what all processes have counted, added up; 501 without prometheus_client

Probes are answered by a small JSON that says why.

Reads: runtime/supervisor.py's processes.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from rowlock.cli.serving import Answer, Page, serving
from rowlock.runtime.supervisor import Supervisor

SILENT_S = 60.0
"""A process says something twice a second; importing the user's code may take a while."""


@asynccontextmanager
async def health_server(supervisor: Supervisor, port: int) -> AsyncIterator[None]:
    """Answer on ``port`` of all addresses (probes come from outside the pod); 0: don't."""
    if port == 0:
        yield
        return

    def probe(path: str) -> Page:
        async def answer(_accept: str) -> Answer:
            return Answer.json(*health(supervisor, path))

        return answer

    async def metrics(accept: str) -> Answer:
        return await metrics_of(supervisor, accept)

    pages = {"/livez": probe("/livez"), "/readyz": probe("/readyz"), "/metrics": metrics}
    async with serving(pages, port, "health port"):
        yield


async def metrics_of(supervisor: Supervisor, accept: str) -> Answer:
    """The page of all processes."""
    try:
        exposition = importlib.import_module("rowlock.telemetry.exposition")
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        return Answer.text(
            501,
            "metrics need prometheus_client, which is not installed. Run: "
            "pip install 'rowlock[metrics]'",
        )
    page = await supervisor.page()
    return Answer(200, *await asyncio.to_thread(exposition.shown, page, accept))


def health(supervisor: Supervisor, path: str) -> tuple[int, dict[str, Any]]:
    """The HTTP status and what the body says."""
    now = asyncio.get_running_loop().time()
    processes = []
    silent = False
    for process in supervisor.processes:
        silence_s = None if process.heard_at is None else round(now - process.heard_at, 1)
        silent = silent or (silence_s or 0.0) > SILENT_S
        processes.append(
            {
                "number": process.number,
                "pid": process.pid,
                "status": process.status,
                "loaded": process.loaded,
                "silent_seconds": silence_s,
            }
        )
    if path == "/livez":
        fine, word = not silent, "silent" if silent else "alive"
    elif supervisor.draining.is_set():
        fine, word = False, "draining"
    else:
        fine = all(process.status == "ready" for process in supervisor.processes)
        word = "ready" if fine else "not ready"
    return 200 if fine else 503, {"status": word, "processes": processes}
