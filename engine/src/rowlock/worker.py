"""A worker in the user's own process: a web app, a notebook, a test.

It works in the event loop that enters it, as `rowlock worker` does in processes of its own, except
for what belongs to the process: it handles no signals, sets up no logging, and ends with its block.

Reads: the database's level.  Writes: what a worker writes, see runtime/.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from types import TracebackType
from typing import Self

from rowlock.aside import LoopAside
from rowlock.errors import Disconnected, MisplacedCall, WorkerFailed
from rowlock.model.code import Code
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.tenure import WorkerOptions
from rowlock.settings import Settings
from rowlock.store import migrate
from rowlock.store.connection import Backoff
from rowlock.telemetry.setup import observers

log = logging.getLogger("rowlock.worker")


class Worker:
    """``async with app.worker(slots=20):`` runs the app's workflows until the block ends."""

    def __init__(self, settings: Settings, code: Code, options: WorkerOptions) -> None:
        settings.require_database_url()
        self._settings = settings
        self._code = code
        self._options = options
        self._process: WorkerProcess | None = None
        self._working: asyncio.Task[None] | None = None
        self._draining = False

    @property
    def is_ready(self) -> bool:
        """Whether it works: it is registered and holds its lease. For health checks.

        May be asked from any thread.
        """
        if self._working is None or self._working.done() or self._process is None:
            return False
        tenure = self._process.tenure
        return tenure is not None and tenure.trusted_until > self._working.get_loop().time()

    async def __aenter__(self) -> Self:
        if self._working is not None:
            raise MisplacedCall("this worker was begun before: make another with app.worker(…)")
        within_s = self._settings.connect_timeout_seconds
        await self._check_schema(within_s)
        self._registered = asyncio.Event()
        # Not the caller's context: a request's or a test's would be that of every step.
        self._working = asyncio.create_task(
            self._work(), name="rowlock-worker", context=contextvars.Context()
        )
        registering = asyncio.create_task(self._registered.wait())
        try:
            await asyncio.wait(
                [registering, self._working],
                timeout=within_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._working.done():
                self._working.result()
            if not self._registered.is_set():
                raise Disconnected(
                    f"the worker could not register within {within_s:g} s "
                    "(ROWLOCK_CONNECT_TIMEOUT_SECONDS); the log says why"
                )
        except BaseException:
            await self._stop()
            raise
        finally:
            registering.cancel()
        self._working.add_done_callback(self._on_end)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._working is not None
        self._drain()
        try:
            await asyncio.wait([self._working])
        except asyncio.CancelledError:
            await self._stop()
            raise
        ended = None if self._working.cancelled() else self._working.exception()
        if ended is not None and error is None:
            raise WorkerFailed(_first(ended)) from ended

    async def _check_schema(self, within_s: float) -> None:
        """Raises SchemaTooOld, SchemaTooNew; Disconnected when the database can't be reached."""
        clock = asyncio.get_running_loop()
        until = clock.time() + within_s
        backoff = Backoff()
        while True:
            try:
                await asyncio.to_thread(migrate.check, self._settings)
            except Disconnected as error:
                pause_s = backoff.next_s()
                if clock.time() + pause_s > until:
                    raise
                log.info("%s; again in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)
            else:
                return

    async def _work(self) -> None:
        observer = observers(self._code.app, self._settings.version)
        try:
            while not self._draining:
                self._process = WorkerProcess(
                    self._settings,
                    self._code,
                    self._options,
                    on_registered=self._registered.set,
                    observer=observer,
                )
                await self._process.run(signals=False)
        finally:
            await asyncio.to_thread(observer.close)

    def _drain(self) -> None:
        self._draining = True
        if self._process is not None:
            self._process.drain()

    async def _stop(self) -> None:
        """End at once: hand back what there is."""
        assert self._working is not None
        self._drain()
        self._drain()
        try:
            await asyncio.wait([self._working], timeout=self._settings.lease_seconds)
        finally:
            self._working.cancel()

    def _on_end(self, working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (error := working.exception()) is not None:
            log.error("the worker failed:\n%s", "".join(traceback.format_exception(error)).strip())


def _first(error: BaseException) -> BaseException:
    """Of those that services of a worker ended with, one."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class BlockingWorker:
    """The same for code that is not async, in a thread of its own."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._aside = LoopAside("rowlock-worker", "the worker is not there: use it in `with`")

    @property
    def is_ready(self) -> bool:
        """Whether it works: it is registered and holds its lease. For health checks."""
        return self._worker.is_ready

    def __enter__(self) -> Self:
        self._aside.open()
        try:
            self._aside.wait(self._worker.__aenter__())
        except BaseException:
            self._aside.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._aside.wait(self._worker.__aexit__(kind, error, trace))
        finally:
            self._aside.close()
