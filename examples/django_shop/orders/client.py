"""The one client of this process, opened when it is first needed: after a server's fork."""

from __future__ import annotations

import atexit
import functools

from orders.flows import app
from rowlock import BlockingClient


@functools.cache
def client() -> BlockingClient:
    opened = app.blocking_client().open()
    atexit.register(opened.close)
    return opened
