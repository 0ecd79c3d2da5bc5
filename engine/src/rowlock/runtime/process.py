"""One worker process from start to exit: signals, threads, tenures one after the other.

SIGTERM drains: it stops claiming, lets its runs finish within the grace, hands back the rest and
exits 0. A second one stops at once. When the lease is lost a new tenure begins; nothing of the old
one is kept. A process with too many abandoned steps drains by itself: whoever started it starts
another in its place.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable

from rowlock.model.code import Code
from rowlock.runtime.step_threads import StepThreads
from rowlock.runtime.tenure import Tenure, WorkerOptions
from rowlock.settings import Settings
from rowlock.telemetry.observer import Observer

log = logging.getLogger("rowlock.worker")

TICK_S = 0.5
BLOCKED_S = 1.0
"""A loop that stands still for longer is worth a line in the log."""

OnStatus = Callable[[str, int], None]
"""Told ``starting``, ``ready``, ``lost`` or ``draining``, and how many runs are loaded."""


class WorkerProcess:
    """See the module's text."""

    def __init__(
        self,
        settings: Settings,
        code: Code,
        options: WorkerOptions,
        *,
        on_status: OnStatus = lambda _status, _loaded: None,
        on_registered: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
    ) -> None:
        self._settings = settings
        self._code = code
        self._options = options
        self._on_status = on_status
        self._on_registered = on_registered
        self._observer = observer or Observer()
        self._draining = asyncio.Event()
        self._stopping = asyncio.Event()
        self._was_told = False
        self.is_used_up = False
        """It drains, or has drained, because of its abandoned steps: start another."""
        self._tenure: Tenure | None = None

    def drain(self) -> None:
        """Finish what runs, take nothing new; called again: stop now."""
        if self._was_told:
            self._stopping.set()
        self._was_told = True
        self._draining.set()

    @property
    def tenure(self) -> Tenure | None:
        """The present registration, if there is one."""
        return self._tenure

    async def run(self, *, signals: bool = True) -> None:
        """Work until drained."""
        clock = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                clock.add_signal_handler(number, self.drain)
        threads = StepThreads(
            self._options.slots,
            most_abandoned=self._settings.abandoned_steps,
            connections=self._settings.transaction_connections,
        )
        ticking = asyncio.create_task(self._tick(threads))
        draining = asyncio.create_task(self._draining.wait())
        try:
            while not self._draining.is_set():
                beginning = asyncio.create_task(
                    Tenure.begin(self._settings, self._code, self._options, threads, self._observer)
                )
                await asyncio.wait([beginning, draining], return_when=asyncio.FIRST_COMPLETED)
                if not beginning.done():
                    beginning.cancel()
                    break
                self._tenure = await beginning
                self._on_registered()
                await self._tenure.serve(self._draining, self._stopping)
        finally:
            ticking.cancel()
            draining.cancel()
            threads.close()

    def _retire(self, threads: StepThreads) -> None:
        """Drain, because the threads of this process are lost to steps that nobody waits for."""
        self.is_used_up = True
        self._draining.set()
        names = (f"{step} ({n} times)" for step, n in threads.abandoned.most_common(10))
        log.warning(
            "this process is used up and drains, another takes its place: %d abandoned steps are "
            "still at work in its threads (ROWLOCK_ABANDONED_STEPS is %d): %s. Make them end by "
            "themselves: time limits for what they wait for, or app.cancelled() in their loops.",
            threads.abandoned.total(),
            self._settings.abandoned_steps,
            ", ".join(names),
        )

    async def _tick(self, threads: StepThreads) -> None:
        """Report the state, and notice when the loop was blocked: the lease hangs on it."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            late_s = now - last - TICK_S
            last = now
            tenure = self._tenure
            if late_s > min(BLOCKED_S, self._settings.lease_seconds / 6):
                log.warning(
                    "the event loop was blocked for %.1f s (lease %.0f s): workflow code or a step "
                    "holds the interpreter. Running: %s",
                    late_s,
                    self._settings.lease_seconds,
                    "; ".join(tenure.steps.running()) if tenure else "nothing",
                )
            if threads.are_used_up and not self._draining.is_set():
                self._retire(threads)
            if self._draining.is_set():
                status = "draining"
            elif tenure is None:
                status = "starting"
            else:
                status = "ready" if tenure.is_trusted else "lost"
            loaded = tenure.loaded if tenure else 0
            self._on_status(status, loaded)
            self._observer.slots(loaded, self._options.slots)
