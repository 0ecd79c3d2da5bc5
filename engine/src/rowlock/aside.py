"""An event loop in a thread of its own, for faces that are not async: they hand work over and wait.

Imports nothing of Rowlock but its errors.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from rowlock.errors import MisplacedCall

T = TypeVar("T")


class LoopAside:
    """See the module's text. ``closed``: what to say to who hands over work while it is closed."""

    def __init__(self, name: str, closed: str) -> None:
        self._name = name
        self._closed = closed
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        return self._loop is not None

    def open(self) -> None:
        """Begin to run."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=self._name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was handed over must have ended."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do this in the loop and give what it gives. Raises MisplacedCall while it is closed."""
        if self._loop is None:
            work.close()
            raise MisplacedCall(self._closed)
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # such as Ctrl-C: nobody waits for it any more
            raise
