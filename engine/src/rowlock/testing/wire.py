"""The wire between one worker and PostgreSQL, which a test can cut.

A worker whose wire is cut is, to the database, a process that was killed: all its connections end
at once, what it had not sent never arrives, and it can't come back. Everything happens in the
worker's own event loop, so a cut takes effect between two statements of the code that cuts.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import cast


class Wire:
    """Forwards a port of this machine to a server. ``host``: a name, or the folder of a socket."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._listening: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self.is_cut = False

    async def open(self) -> int:
        """Listen; gives the port."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Near(self), "127.0.0.1", 0)
        return int(self._listening.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """End all connections now, and let no new ones in."""
        self.is_cut = True
        if self._listening is not None:
            # In the loop's next turn: asyncio forgets a connection that it has just accepted and
            # not yet begun when the server is closed between the two, and leaves its socket open.
            self._listening.get_loop().call_soon(self._listening.close)
        for task in self._connecting:
            task.cancel()
        for end in list(self._ends):
            end.abort()

    def _begin(self, near: _Near) -> None:
        if self.is_cut:
            near.abort()
            return
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, near: _Near) -> None:
        loop = asyncio.get_running_loop()
        far = _End(self)
        try:
            if self._host.startswith("/"):
                await loop.create_unix_connection(
                    lambda: far, f"{self._host}/.s.PGSQL.{self._port}"
                )
            else:
                await loop.create_connection(lambda: far, self._host, self._port)
        except OSError:
            near.abort()
            return
        except asyncio.CancelledError:
            far.abort()
            near.abort()
            raise
        near.join(far)
        far.join(near)
        near.begin()


class _End(asyncio.Protocol):
    """One end of a connection: what comes in here goes out at the other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._transport: asyncio.Transport | None = None
        self._other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._wire._ends.add(self)

    def join(self, other: _End) -> None:
        self._other = other

    def data_received(self, data: bytes) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.write(data)

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        self._read_at_other(False)

    def resume_writing(self) -> None:
        self._read_at_other(True)

    def _read_at_other(self, reading: bool) -> None:
        transport = self._other._transport if self._other is not None else None
        if transport is not None and not transport.is_closing():
            with suppress(RuntimeError):
                transport.resume_reading() if reading else transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._wire._ends.discard(self)
        if self._other is not None and self._other._transport is not None:
            self._other._transport.close()
        self._transport = self._other = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Near(_End):
    """The worker's end: nothing is read before the server's end is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast("asyncio.Transport", transport).pause_reading()
        self._wire._begin(self)

    def begin(self) -> None:
        """The server's end is there."""
        if self._transport is not None:
            self._transport.resume_reading()
        elif self._other is not None:  # the worker has gone away meanwhile
            self._other.abort()
