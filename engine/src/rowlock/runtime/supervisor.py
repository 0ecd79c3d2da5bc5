"""Keeps worker processes running: starts, hears, restarts and stops them.

The user's code is loaded by the children alone; whatever it does, this process keeps answering
and keeps them in number. Each child has one socket with us:

    child -> us    a line of JSON each tick: {"pid", "status", "loaded"}; or, when it can't be
                   started as it is configured, {"pid", "status": "broken", "message"}
    us -> child    the line "metrics": it answers, from a thread, with one line more that has
                   {"page"}: all it has counted. That says nothing of its event loop: only the
                   ticks do. We ask again when it has answered.
                   Its end of the socket closes when we are gone, however we went, and
                   the child then drains: no worker is left behind without a parent.

Reads: store's migrate.check.  Writes: signals.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from rowlock.errors import ConfigurationError, Disconnected
from rowlock.settings import Settings
from rowlock.store import migrate
from rowlock.store.connection import Backoff
from rowlock.telemetry.pages import Page, merged, of_the_dead

log = logging.getLogger("rowlock.supervisor")

BROKEN_CODE = 2
"""A child that can't run as it is configured exits with this; another try would end the same."""
USED_UP_CODE = 10
"""A child that has drained because of its abandoned steps exits with this: no failure."""
FIRST_PAUSE_S = 0.2
MOST_PAUSE_S = 10.0
YOUNG_S = 30.0
"""Who lives longer than this starts the next life without a longer pause."""
STOP_MARGIN_S = 15.0
"""What a draining child needs beyond its grace: the journal's last batch, leaving."""
STOP_NOW_S = 5.0
PAGE_S = 1.0
"""So long a child that is asked what it has counted may take; then its last answer counts."""
LONGEST_LINE = 16 * 1024 * 1024


class Line(msgspec.Struct, frozen=True):
    """What a child says; the module's text has the protocol."""

    pid: int
    status: str
    loaded: int = 0
    message: str = ""
    page: Page | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What to run: ``command`` gets the number of its socket as a last argument."""

    command: Sequence[str]
    environment: Mapping[str, str]
    processes: int
    grace_s: float  # as the command was given it
    waits_for_mending: bool = False
    """A child that can't start as configured waits for a reload (`rowlock dev`)."""


class Process:
    """One of N places: a child and, when it dies, the child after it."""

    def __init__(self, number: int, fleet: Fleet) -> None:
        self.number = number
        self.pid: int | None = None
        self.status = "starting"
        self.loaded = 0
        self.heard_at: float | None = None
        """The loop's time of its last line, or of its start; None while no child runs."""
        self._fleet = fleet
        self._ending = False
        self._complaint: str | None = None
        self._socket: asyncio.StreamWriter | None = None
        self._asked: asyncio.Future[None] | None = None
        """Done when the child has answered, or has ended."""
        self._page = Page()
        """What the living child said last of what it counted."""
        self._before = Page()
        """What those before it did; counters never go down."""
        self._child: asyncio.subprocess.Process | None = None
        self._called_for = asyncio.Event()
        """Set when it is to start again now, or to end."""
        self._patience_s = fleet.grace_s + STOP_MARGIN_S
        self._deadlines: list[asyncio.TimerHandle] = []

    async def keep(self) -> None:
        """Run children one after the other until told to end. Raises ConfigurationError."""
        clock = asyncio.get_running_loop()
        pauses = 0
        while not self._ending:
            self._called_for.clear()
            born_at = clock.time()
            try:
                code = await self._live()
            except OSError as error:  # no memory or no process to be had: that passes
                log.error("process %d can't be started: %s", self.number, error)
                code = 1
            if self._ending or self._called_for.is_set():
                pauses = 0
                continue
            if code == USED_UP_CODE:
                pauses = 0
                log.info("process %d was used up and has drained: a fresh one starts", self.number)
                continue
            if code == BROKEN_CODE:
                await self._broken()
                continue
            pauses = 0 if clock.time() - born_at > YOUNG_S else min(pauses, 16)
            pause_s = min(MOST_PAUSE_S, FIRST_PAUSE_S * 2**pauses) * random.uniform(0.8, 1.0)
            pauses += 1
            log.error("process %d %s; again in %.1f s", self.number, _death(code), pause_s)
            await _happens(self._called_for, pause_s)

    def end(self) -> None:
        """Drain the child, and start no other."""
        self._ending = True
        self.reload()

    def end_now(self) -> None:
        """The same, without patience: a second SIGTERM makes a worker hand back what it has."""
        self._patience_s = STOP_NOW_S
        self.end()

    def reload(self) -> None:
        """Drain, and start again with the code as it is then."""
        self._called_for.set()
        child = self._child
        if child is not None and child.returncode is None:
            child.terminate()
            clock = asyncio.get_running_loop()
            self._deadlines.append(clock.call_later(self._patience_s, child.kill))

    async def page(self) -> Page:
        """What its children have counted; a child that is slow to answer is quoted."""
        if self._asked is None and self._socket is not None:
            self._asked = asyncio.get_running_loop().create_future()
            self._socket.write(b"metrics\n")
        if self._asked is not None:
            await asyncio.wait([self._asked], timeout=PAGE_S)
        return merged([self._before, self._page])

    async def _live(self) -> int:
        """One child from start to end; gives its exit code, negative for a signal."""
        self.status, self.loaded, self._complaint = "starting", 0, None
        ours, theirs = socket.socketpair()
        with theirs:
            child = await asyncio.create_subprocess_exec(
                *self._fleet.command,
                str(theirs.fileno()),
                env=self._fleet.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C goes to a terminal's whole group; we alone decide when children stop.
                start_new_session=True,
            )
        self._child, self.pid = child, child.pid
        self.heard_at = asyncio.get_running_loop().time()
        if self._called_for.is_set():  # while the child was being made
            self.reload()
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        self._socket = writer
        listening = asyncio.create_task(self._listen(reader))
        try:
            code = await child.wait()
            # A grandchild may hold the other end open for ever; what matters is here by now.
            await asyncio.wait([listening], timeout=1.0)
        finally:
            listening.cancel()
            self._socket = None
            writer.close()
            self._bury()
            while self._deadlines:
                self._deadlines.pop().cancel()
            self._child = self.pid = self.heard_at = None
            self.status, self.loaded = "stopped", 0
        return code

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        clock = asyncio.get_running_loop()
        with suppress(OSError, ValueError):  # cut off in mid-line: its exit tells the rest
            while text := await reader.readline():
                line = msgspec.json.decode(text, type=Line)
                if line.page is not None:
                    self._page = line.page
                    self._answered()
                    continue
                self.heard_at = clock.time()
                self.status, self.loaded = line.status, line.loaded
                self._complaint = line.message or self._complaint

    def _answered(self) -> None:
        if self._asked is not None:
            self._asked.set_result(None)
            self._asked = None

    def _bury(self) -> None:
        self._before = merged([self._before, of_the_dead(self._page)])
        self._page = Page()
        self._answered()

    async def _broken(self) -> None:
        error = ConfigurationError(self._complaint or "no worker process could be started")
        if not self._fleet.waits_for_mending:
            raise error
        log.error("%s\nwaiting for a change of the code", error)
        self.status = "broken"
        await self._called_for.wait()


class Supervisor:
    """N processes that live and end together; see the module's text."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self.processes = [Process(n, fleet) for n in range(1, fleet.processes + 1)]
        self.draining = asyncio.Event()

    async def run(self) -> None:
        """Keep the processes until drained.

        Raises SchemaTooOld, SchemaTooNew; ConfigurationError when no process can be started as
        it is configured, once the others have ended.
        """
        clock = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            clock.add_signal_handler(number, self.drain)
        await self._check_schema()
        keeping = [asyncio.create_task(process.keep()) for process in self.processes]
        await asyncio.wait(keeping, return_when=asyncio.FIRST_EXCEPTION)
        self._end_all()
        ends = await asyncio.gather(*keeping, return_exceptions=True)
        for error in filter(None, ends):
            raise error

    def drain(self) -> None:
        """Take nothing new, finish what runs, end; called again: stop at once."""
        if self.draining.is_set():
            log.warning("stopping at once")
            for process in self.processes:
                process.end_now()
            return
        log.info("draining")
        self._end_all()

    def reload(self) -> None:
        """Start all processes again, with the code as it is now."""
        for process in self.processes:
            process.reload()

    async def page(self) -> Page:
        """What all processes have counted; returns within PAGE_S or so, whatever they do."""
        return merged(await asyncio.gather(*(process.page() for process in self.processes)))

    def _end_all(self) -> None:
        self.draining.set()
        for process in self.processes:
            process.end()

    async def _check_schema(self) -> None:
        """Wait for the database as long as needed: it may start after us, or be failing over."""
        backoff = Backoff(first_s=0.5, most_s=MOST_PAUSE_S)
        while not self.draining.is_set():
            try:
                await asyncio.to_thread(migrate.check, self._settings)
            except Disconnected as error:
                pause_s = backoff.next_s()
                log.warning("%s; again in %.1f s", error, pause_s)
                await _happens(self.draining, pause_s)
            else:
                return


async def _happens(event: asyncio.Event, within_s: float) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by signal {-code}, {signal.strsignal(-code)}"
