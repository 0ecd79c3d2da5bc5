"""A worker in this process to try workflows on, and what must hold when it has gone.

``async with bench(app) as work:`` serves an app defined in the test. `Way` says how a run lives:
loaded from start to end, unloaded at every timer and replayed, or handed back at random moments.
Scenarios end in ``keep``-style steps, so that what the live code saw is held against what a
replay saw.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import pytest

from rowlock import App, Client, Run, Settings
from rowlock.errors import RunFailed
from rowlock.runtime import execution
from rowlock.runtime.process import WorkerProcess
from rowlock.runtime.tenure import WorkerOptions
from rowlock.workflow import WorkflowCall
from workers import checks
from workers.until import Sql

R = TypeVar("R")

DEADLINE_S = 25.0
MOST_HAND_BACKS = 8
THREAD_NAME = "rowlock-workflow"


class Way(StrEnum):
    """How a run lives through its timers."""

    LOADED = "loaded"  # timers wait in memory: the live code runs from start to end
    UNLOADED = "unloaded"  # every timer unloads the run: replayed after each
    HANDED_BACK = "handed back"  # besides that, taken away at random moments


@dataclass
class Bench:
    """What a test holds while the worker works."""

    app: App
    client: Client
    process: WorkerProcess
    sql: Sql
    patch: pytest.MonkeyPatch
    handed_back: int = 0
    leftovers: set[str] = field(default_factory=set)
    """What may remain at the end, such as ``task`` for a blocked run."""

    def live(self, way: Way) -> None:
        """From now on runs live this way."""
        self.wait_in_memory(3600.0 if way is Way.LOADED else 0.002)

    def wait_in_memory(self, seconds: float) -> None:
        """From now on timers up to this long are waited for in memory."""
        assert self.process.tenure is not None
        self.process.tenure.in_memory_s = seconds

    async def start(self, call: WorkflowCall[R], **options: Any) -> Run[R]:
        return await self.client.start(call, **options)

    async def result(self, call: WorkflowCall[R]) -> R:
        """Start it and give its result."""
        return await (await self.start(call)).result(DEADLINE_S)

    async def error(self, call: WorkflowCall[Any]) -> BaseException:
        """Start it and give the error it failed with."""
        return await self.error_of(await self.start(call))

    async def error_of(self, run: Run[Any]) -> BaseException:
        with pytest.raises(RunFailed) as caught:
            await run.result(DEADLINE_S)
        assert caught.value.status == "failed"
        assert caught.value.__cause__ is not None
        return caught.value.__cause__

    async def every_way(self, call: Callable[[], WorkflowCall[R]]) -> R:
        """Run it in every way; the result, which must be the same in all."""
        results = {way: await self.result_when(way, call()) for way in Way}
        first = results[Way.LOADED]
        assert all(result == first for result in results.values()), results
        return first

    async def result_when(self, way: Way, call: WorkflowCall[R]) -> R:
        """Run it in one way; afterwards live as before."""
        async with self.living(way):
            return await self.result(call)

    @asynccontextmanager
    async def living(self, way: Way) -> AsyncIterator[None]:
        """Runs live this way; afterwards as before."""
        assert self.process.tenure is not None
        before = self.process.tenure.in_memory_s
        self.live(way)
        handing = asyncio.create_task(self._hand_back()) if way is Way.HANDED_BACK else None
        try:
            yield
        finally:
            if handing is not None:
                handing.cancel()
                with suppress(asyncio.CancelledError):
                    await handing
            self.wait_in_memory(before)

    async def _hand_back(self) -> None:
        for _ in range(MOST_HAND_BACKS):
            await asyncio.sleep(random.uniform(0.001, 0.03))
            for one in self.loaded():
                self.handed_back += 1
                one.release()

    def loaded(self) -> list[execution.Execution]:
        tenure = self.process.tenure
        return [] if tenure is None else list(tenure._executions.values())

    async def places(self, run: Run[Any]) -> list[str]:
        """What it recorded, as ``place kind name``, in the order of recording."""
        return [f"{s.place} {s.kind} {s.name or ''}".rstrip() for s in await run.steps()]

    async def status(self, run: Run[Any], wanted: str) -> None:
        """Wait until the run has this status."""
        async with asyncio.timeout(DEADLINE_S):
            while (found := await run.status()) != wanted:
                assert found not in ("failed", "succeeded", "dead", "cancelled"), found
                await asyncio.sleep(0.01)


async def until(what: Callable[[], object], deadline_s: float = 10.0) -> None:
    """Wait for something in this process to become true."""
    async with asyncio.timeout(deadline_s):
        while not what():
            await asyncio.sleep(0.005)


def workflow_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == THREAD_NAME}


Open = Callable[..., AbstractAsyncContextManager[Bench]]


@asynccontextmanager
async def opened(
    database: str,
    patch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    app: App,
    *,
    slots: int = 20,
    way: Way | None = Way.UNLOADED,
    noise: tuple[str, ...] = (),
    stuck_threads: int = 0,
    **options: Any,
) -> AsyncIterator[Bench]:
    """Serve ``app``; at the end nothing may be left, and nothing logged but ``noise``."""
    threads_before = workflow_threads()
    settings = Settings(database_url=database, poll_seconds=0.5, **options)
    process = WorkerProcess(settings, app.code, WorkerOptions(slots=slots, grace_s=2.0))
    working = asyncio.create_task(process.run(signals=False))
    sql = Sql(database)
    try:
        async with app.client(settings) as client:
            work = Bench(app, client, process, sql, patch)
            await until(lambda: process.tenure is not None)
            if way is not None:
                work.live(way)
            yield work
            async with asyncio.timeout(5):
                while work.loaded():
                    await asyncio.sleep(0.005)
            # Notes and requests are cleared by the next round of tending.
            async with asyncio.timeout(DEADLINE_S):
                for table in {"wait", "wake", "task", "cancel_request"} - work.leftovers:
                    while left := sql(f"select * from rowlock.{table}"):
                        assert table in ("wake", "cancel_request"), (table, left)
                        await asyncio.sleep(0.02)
        process.drain()
        async with asyncio.timeout(20):
            await working
        assert not work.loaded()
        assert checks.broken(database) == {}
    finally:
        sql.close()
        if not working.done():
            working.cancel()
            with suppress(BaseException):
                await working
    await until(lambda: len(workflow_threads() - threads_before) <= stuck_threads)
    heard = [
        f"{r.name}: {r.getMessage()}"
        for r in caplog.records
        if r.levelno >= logging.WARNING
        and not r.name.startswith("psycopg")  # as logs.set_up does
        and not (r.name == "rowlock.run" and " failed: " in r.getMessage())  # as a run should
        and "the event loop was blocked" not in r.getMessage()  # by a machine that others use
    ]
    assert [line for line in heard if not any(known in line for known in noise)] == []
