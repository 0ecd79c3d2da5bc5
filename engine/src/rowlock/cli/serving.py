"""A small HTTP server for probes and for Prometheus: GET and HEAD, one request a connection.

Probes and scrapes open a connection each time, a few a minute; nothing more is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from rowlock.errors import ConfigurationError

REQUEST_S = 10.0
"""From connecting to the last byte: as long as Prometheus waits."""
MOST_HEADERS = 100
REASONS = {200: "OK", 404: "Not Found", 501: "Not Implemented", 503: "Service Unavailable"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    code: int
    content_type: str
    body: bytes

    @classmethod
    def json(cls, code: int, facts: Any) -> Answer:
        return cls(code, "application/json", msgspec.json.encode(facts))

    @classmethod
    def text(cls, code: int, text: str) -> Answer:
        return cls(code, "text/plain; charset=utf-8", text.encode() + b"\n")


Page = Callable[[str], Awaitable[Answer]]
"""Gets the request's Accept header."""


@asynccontextmanager
async def serving(pages: Mapping[str, Page], port: int, name: str) -> AsyncIterator[None]:
    """Answer on ``port`` of all addresses: who asks comes from outside the pod.

    Raises ConfigurationError when the port can't be used; ``name`` is what the port is called, and
    the option that sets it.
    """

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Cancelled: the process ends. Python 3.11 logs a traceback for a conversation that says so.
        with suppress(OSError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
            async with asyncio.timeout(REQUEST_S):
                first, accept = await _request(reader)
                writer.write(await _answer(pages, first, accept))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(converse, host=None, port=port)
    except OSError as error:
        raise ConfigurationError(
            f"the {name} {port} can't be used: {error.strerror}. Choose another with "
            f"--{name.replace(' ', '-')}."
        ) from None
    try:
        yield
    finally:
        server.close()


async def _request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """The request's first line and its Accept header, all headers read to the end."""
    first = (await reader.readline()).decode("latin-1").strip()
    accept = ""
    for _ in range(MOST_HEADERS):
        line = (await reader.readline()).decode("latin-1").strip()
        if not line:
            return first, accept
        name, _, value = line.partition(":")
        if name.strip().lower() == "accept":
            accept = value.strip()
    raise ValueError("too many headers")


async def _answer(pages: Mapping[str, Page], first: str, accept: str) -> bytes:
    method, _, rest = first.partition(" ")
    page = pages.get(rest.partition(" ")[0].partition("?")[0])
    if method in ("GET", "HEAD") and page is not None:
        answer = await page(accept)
    else:
        *others, last = pages
        there = f"there are {', '.join(others)} and {last} only"
        answer = Answer.json(404, {"status": there})
    lines = (
        f"HTTP/1.1 {answer.code} {REASONS[answer.code]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    )
    head = ("\r\n".join(lines) + "\r\n\r\n").encode()
    return head if method == "HEAD" else head + answer.body
