"""The harness for tests that are plain functions.

One implementation: the async harness, in a loop of its own in a thread; each method here hands its
call over and waits. While the test does something else, the worker works on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar, Unpack

from rowlock.app import App
from rowlock.aside import LoopAside
from rowlock.blocking import BlockingClient, BlockingRun
from rowlock.client import Run
from rowlock.errors import MisplacedCall
from rowlock.settings import Settings
from rowlock.starting import StartOptions
from rowlock.store.connection import Connection
from rowlock.testing.crashes import CrashReport
from rowlock.testing.databases import Databases
from rowlock.testing.faults import Step
from rowlock.testing.harness import A_YEAR, SETTINGS, SLOTS, Harness
from rowlock.workflow import WorkflowCall

R = TypeVar("R")
T = TypeVar("T")

CLOSED = "the harness is not open: use `with BlockingHarness(app) as harness:`"


class BlockingHarness:
    """``with BlockingHarness(app) as harness:``; see :class:`rowlock.testing.Harness`."""

    def __init__(
        self,
        app: App,
        database_url: str | None = None,
        *,
        databases: Databases | None = None,
        schedules: bool = False,
        slots: int = SLOTS,
        settings: Settings = SETTINGS,
    ) -> None:
        self.app = app
        self._harness = Harness(
            app,
            database_url,
            databases=databases,
            schedules=schedules,
            slots=slots,
            settings=settings,
        )
        self._settings = settings
        self._client: BlockingClient | None = None
        self._aside = LoopAside("rowlock-harness", CLOSED)

    def __enter__(self) -> Self:
        self._aside.open()
        try:
            self._wait(self._harness.__aenter__())
            settings = self._settings.with_(database_url=self.database_url)
            self._client = self.app.blocking_client(settings).__enter__()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._aside.is_open:
            return
        try:
            if self._client is not None:
                self._client.__exit__()
                self._client = None
            if self._harness.is_open:
                self._wait(self._harness.__aexit__(kind))
        finally:
            self._aside.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._aside.wait(work)

    @property
    def database_url(self) -> str:
        """Where the test's data is, for connections of your own."""
        return self._harness.database_url

    @property
    def client(self) -> BlockingClient:
        """A client of the app: to send, cancel, list and whatever else clients do."""
        if self._client is None:
            raise MisplacedCall(CLOSED)
        return self._client

    def start(
        self,
        call: WorkflowCall[R],
        *,
        key: str | None = None,
        connection: Connection[Any] | None = None,
        **options: Unpack[StartOptions],
    ) -> BlockingRun[R]:
        """Start a run; see :meth:`rowlock.client.Client.start`."""
        return self.client.start(call, key=key, connection=connection, **options)

    def run(self, call: WorkflowCall[R], *, within: timedelta = A_YEAR) -> R:
        """Start a run and give its result; see :meth:`Harness.run`."""
        return self._wait(self._harness.run(call, within=within))

    def result(self, run: BlockingRun[R], *, within: timedelta = A_YEAR) -> R:
        """The result of a run; see :meth:`Harness.result`."""
        same = Run[R](self._harness.client, run.id, run._run._shape)
        return self._wait(self._harness.result(same, within=within))

    def run_until_idle(self) -> None:
        """Let everything happen that can happen without time passing."""
        self._wait(self._harness.run_until_idle())

    def run_until_done(self, *, within: timedelta = A_YEAR) -> None:
        """Let time pass until no run waits for a timer any more."""
        self._wait(self._harness.run_until_done(within=within))

    def advance(self, by: timedelta) -> None:
        """Let so much time pass; see :meth:`Harness.advance`."""
        self._wait(self._harness.advance(by))

    def now(self) -> datetime:
        """What time it is for workflows."""
        return self._wait(self._harness.now())

    def crash_after(self, step: Step, *, nth: int = 1) -> None:
        """See :meth:`Harness.crash_after`."""
        self._harness.crash_after(step, nth=nth)

    def crash_before_record(self, step: Step, *, nth: int = 1) -> None:
        """See :meth:`Harness.crash_before_record`."""
        self._harness.crash_before_record(step, nth=nth)

    def takeover(self, step: Step, *, nth: int = 1) -> None:
        """See :meth:`Harness.takeover`."""
        self._harness.takeover(step, nth=nth)

    def hang(self, step: Step, *, nth: int = 1) -> None:
        """See :meth:`Harness.hang`."""
        self._harness.hang(step, nth=nth)

    def crash(self) -> None:
        """Kill the worker now; see :meth:`Harness.crash`."""
        self._wait(self._harness.crash())

    def exhaust_crashes(
        self,
        call: Callable[[], WorkflowCall[Any]],
        *,
        prepare: Callable[[Harness], Awaitable[object] | object] | None = None,
        drive: Callable[[Harness, Run[Any]], Awaitable[object]] | None = None,
        effects: Callable[[Harness], Awaitable[object] | object] | None = None,
        history: bool = True,
        at_once: int = 1,
    ) -> CrashReport:
        """See :meth:`Harness.exhaust_crashes`. The functions get an async harness."""
        return self._wait(
            self._harness.exhaust_crashes(
                call,
                prepare=prepare,
                drive=drive,
                effects=effects,
                history=history,
                at_once=at_once,
            )
        )
