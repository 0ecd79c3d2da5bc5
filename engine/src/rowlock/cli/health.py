"""/livez and /readyz, for Kubernetes and whoever else asks over HTTP.

    /livez    200 while no process has been silent for long: the rest mends itself
    /readyz   200 when every process holds a lease and takes work; 503 while draining

Answers a small JSON that says why. One request a connection: probes open a new one each time.

Reads: runtime/supervisor.py's processes.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec

from rowlock.errors import ConfigurationError
from rowlock.runtime.supervisor import Supervisor

SILENT_S = 60.0
"""A process says something twice a second; importing the user's code may take a while."""
REQUEST_S = 5.0
MOST_HEADERS = 100
REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


@asynccontextmanager
async def health_server(supervisor: Supervisor, port: int) -> AsyncIterator[None]:
    """Answer on ``port`` of all addresses (probes come from outside the pod); 0: don't."""
    if port == 0:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(REQUEST_S):
                writer.write(_response(await _request(reader), supervisor))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, host=None, port=port)
    except OSError as error:
        raise ConfigurationError(
            f"the health port {port} can't be used: {error.strerror}. Choose another with "
            "--health-port, or 0 for none."
        ) from None
    try:
        yield
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> str:
    """The request's first line, its headers read to the end."""
    first = (await reader.readline()).decode("latin-1").strip()
    for _ in range(MOST_HEADERS):
        if not (await reader.readline()).strip():
            return first
    raise ValueError("too many headers")


def _response(request: str, supervisor: Supervisor) -> bytes:
    method, _, rest = request.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if method in ("GET", "HEAD") and path in ("/livez", "/readyz"):
        code, facts = health(supervisor, path)
    else:
        code, facts = 404, {"status": "there are /livez and /readyz only"}
    body = msgspec.json.encode(facts)
    head = (
        f"HTTP/1.1 {code} {REASONS[code]}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    ).encode()
    return head if method == "HEAD" else head + body


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
