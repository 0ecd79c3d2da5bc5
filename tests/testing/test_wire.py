"""The wire of a worker in a test: what a cut leaves behind."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress

import pytest

from rowlock.testing.wire import Wire


async def test_a_cut_in_the_moment_of_an_accept_leaves_no_socket_open() -> None:
    """A socket that is left open is an error here (pytest's filters), whenever it is collected."""
    wire = Wire("127.0.0.1", 1)
    port = await wire.open()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        await asyncio.sleep(0)  # seen by the loop
        await asyncio.sleep(0)  # accepted; what begins it is the loop's next step
        wire.cut()
        await asyncio.sleep(0)
        gc.collect()
        loop = asyncio.get_running_loop()
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(loop.sock_recv(client, 1), 10) == b""


async def test_nobody_is_let_in_after_a_cut() -> None:
    wire = Wire("127.0.0.1", 1)
    port = await wire.open()
    wire.cut()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
