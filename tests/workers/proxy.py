"""A TCP proxy between workers and PostgreSQL that cuts connections at chosen moments."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Forwards to the database in ``url``; runs in a thread of its own.

    ``cut_commits(share)``: of the messages from a client, this share is forwarded and then the
    connection is cut before the answer comes back: what was asked may have happened.
    """

    def __init__(self, url: str, seed: int = 1) -> None:
        self._parts = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._random = random.Random(seed)
        self._share = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self.cuts = 0
        self.port = 0

    @property
    def url(self) -> str:
        user = f"{self._parts.username}:{self._parts.password or ''}@"
        return urlunsplit(self._parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))

    def cut_commits(self, share: float) -> None:
        self._share = share

    def cut_all(self) -> None:
        """Cut every connection now."""
        asyncio.run_coroutine_threadsafe(self._cut_all(), self._loop).result()

    def refuse(self, refusing: bool) -> None:
        """Accept nothing (or again everything)."""
        self._refusing = refusing
        if refusing:
            self.cut_all()

    async def _cut_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()
            self.cuts += 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(
                self._parts.hostname, self._parts.port
            )
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, up_writer}

        async def from_client() -> None:
            while data := await reader.read(65536):
                up_writer.write(data)
                await up_writer.drain()
                if self._random.random() < self._share:
                    self.cuts += 1
                    await asyncio.sleep(self._random.uniform(0, 0.002))
                    writer.transport.abort()
                    # The server's side is closed in good order, so that it finishes its work.
                    await asyncio.sleep(0.2)
                    return

        async def from_server() -> None:
            while data := await up_reader.read(65536):
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.create_task(from_client()), asyncio.create_task(from_server())]
        with suppress(OSError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in (writer, up_writer):
            self._writers.discard(one)
            one.close()

    def __enter__(self) -> Self:
        self._thread.start()

        async def listen() -> int:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            return int(self._server.sockets[0].getsockname()[1])

        self.port = asyncio.run_coroutine_threadsafe(listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._loop.call_soon(self._server.close)  # not between an accept and its beginning
            await asyncio.sleep(0)
            await self._cut_all()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
