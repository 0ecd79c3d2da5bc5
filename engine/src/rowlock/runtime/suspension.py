"""Puts a run that only waits to sleep, and copes with every answer.

Between the sending of a suspend and its answer nobody knows whether the run is still ours. What
happens meanwhile (a timer fires, an outcome is seen) is held: it is dropped when the run sleeps,
for whoever wakes it finds it again, and done when it does not.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from rowlock.runtime.journal import AGAIN, LOOK, LOST, REFUSED

FORCE_AFTER_S = 0.3
"""Passed by for so long, a suspend goes without the lock on what it watches, for a second."""

Send = Callable[[bool, Callable[[str, Any], None]], None]
"""Send the suspend (forced or not) and tell the verdict to the given function."""


class Suspension:
    """One attempt after the other to sleep; at most one is under way."""

    __slots__ = ("_clock", "_held", "_on_asleep", "_on_awake", "_on_lost", "_send", "_since")

    def __init__(
        self,
        send: Send,
        *,
        on_asleep: Callable[[], None],
        on_awake: Callable[[bool, Any], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._clock = asyncio.get_running_loop()
        self._send = send
        self._on_asleep = on_asleep
        self._on_awake = on_awake
        self._on_lost = on_lost
        self._since: float | None = None
        self._held: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        """Whether the run may be asleep already."""
        return self._since is not None

    def begin(self) -> None:
        self._since = self._clock.time()
        self._try()

    def hold_or_do(self, event: Callable[..., None], *arguments: Any) -> None:
        """Do it now; but while the run may be asleep, keep it until that is known."""
        if self._since is not None:
            self._held.append(partial(event, *arguments))
        else:
            event(*arguments)

    def forget(self) -> None:
        """The run is unloaded: let go of it."""
        self._held.clear()
        self._send = self._on_asleep = self._on_awake = self._on_lost = _nothing

    def _try(self) -> None:
        if self._since is not None:
            forced = self._clock.time() - self._since > FORCE_AFTER_S
            self._send(forced, self._on_answer)

    def _on_answer(self, verdict: str, detail: Any) -> None:
        if verdict in (LOST, REFUSED):
            self._on_lost()
        elif verdict == AGAIN and not self._held:
            self._clock.call_later(random.uniform(0.005, 0.05), self._try)
        elif verdict in (AGAIN, LOOK):
            self._since = None
            held, self._held = self._held, []
            for event in held:
                event()
            self._on_awake(verdict == LOOK, detail)
        else:
            self._on_asleep()


def _nothing(*_: object) -> None:
    return None
