"""`rowlock exporter`: what the database holds, for Prometheus.

Workers show what they did, each for itself; this shows what there is: queues, waits, workers. One
is enough for a database: two would count it twice.

Reads: fleet.py.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import signal
from collections import Counter

import click

from rowlock.cli.options import database_options, log_options, settings_of
from rowlock.cli.serving import Answer, serving
from rowlock.errors import RowlockError
from rowlock.fleet import FleetReader, FleetState
from rowlock.model.states import TaskState
from rowlock.telemetry import logs
from rowlock.telemetry.exposition import shown
from rowlock.telemetry.families import FAMILIES
from rowlock.telemetry.pages import Cells, Labels, Page

log = logging.getLogger("rowlock.exporter")

FRESH_S = 2.0
"""So long an answer is given again; longer when the database needs long for it."""
MOST_SHARE = 0.1
"""Of the time the database may be kept busy by us at most; unless that would make us too old."""
OLDEST_S = 60.0
PATIENCE_S = 8.0
"""Prometheus waits 10 s. "Down" in time says more than the truth too late."""


@click.command("exporter")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9187,
    show_default=True,
    help="Serve /metrics, /livez and /readyz here.",
)
@database_options
@log_options
def exporter_command(port: int, database_url: str | None, log_format: str, log_level: str) -> None:
    """Serve what the database holds as Prometheus metrics.

    Counting reads every unfinished run, about a second for a million of them, so the answer is kept
    for a while: two seconds, or ten times as long as it took. Run one for each database.

    \b
    Example:
      rowlock exporter --port 9187
    """
    logs.set_up(level=log_level, style=log_format)
    settings = settings_of(database_url)
    settings.require_database_url()
    asyncio.run(_serve(FleetReader(settings), port))


async def _serve(reader: FleetReader, port: int) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    exporter = Exporter(reader)

    async def metrics(accept: str) -> Answer:
        return Answer(200, *shown(await exporter.page(), accept))

    async def probe(_accept: str) -> Answer:
        # Also without the database: who takes us out of service then would not see that it is down.
        return Answer.json(200, {"status": "alive", "database": exporter.trouble or "answers"})

    pages = {"/livez": probe, "/readyz": probe, "/metrics": metrics}
    async with reader, serving(pages, port, "port"):
        log.info("serving /metrics on port %d", port)
        await ended.wait()


class Exporter:
    """Asks the database at most as often as it may, and once for all who ask at a time."""

    def __init__(self, reader: FleetReader) -> None:
        self.trouble: str | None = None
        """Why the database could not be read the last time, if it could not."""
        self._reader = reader
        self._page = Page()
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()
        self._late: asyncio.Task[FleetState] | None = None
        """A reading that nobody waits for any more, and that the next one waits for first."""

    async def page(self) -> Page:
        """What there is, or that nothing is known: never what there was."""
        clock = asyncio.get_running_loop()
        async with self._reading:
            if clock.time() < self._fresh_until:
                return self._page
            began = clock.time()
            self._page = await self._read()
            ended = clock.time()
            fresh_s = FRESH_S
            if self.trouble is None:
                fresh_s = min(OLDEST_S, max(FRESH_S, (ended - began) / MOST_SHARE))
            self._fresh_until = ended + fresh_s
            return self._page

    async def _read(self) -> Page:
        clock = asyncio.get_running_loop()
        began = clock.time()
        state, trouble = None, None
        reading = self._late or asyncio.create_task(self._reader.read())
        # Not cancelled: to cancel a statement on a hung server takes as long as to wait for it.
        await asyncio.wait([reading], timeout=PATIENCE_S)
        if reading.done():
            self._late = None
            try:
                state = reading.result()
            except RowlockError as error:
                trouble = str(error)
        else:
            self._late = reading
            trouble = f"it did not answer within {PATIENCE_S:g} s"
        if trouble != self.trouble:
            if trouble is None:
                log.info("the database answers again")
            else:
                log.warning("the database can't be read: %s", trouble)
        self.trouble = trouble
        return page_of(state, clock.time() - began)


def page_of(state: FleetState | None, seconds: float) -> Page:
    """A state as series; None: the database can't be read."""
    families: dict[str, dict[Labels, Cells]] = {
        "rowlock_build_info": {("", importlib.metadata.version("rowlock"), ""): [1.0]},
        "rowlock_database_up": {(): [0.0 if state is None else 1.0]},
        "rowlock_database_read_seconds": {(): [seconds]},
    }
    if state is not None:
        families["rowlock_schema_level"] = {(): [float(state.schema_level)]}
        families |= _queues(state) | _versions(state)
    assert families.keys() <= FAMILIES.keys()
    return Page({name: list(series.items()) for name, series in families.items()})


PAUSED = "paused"
"""Ready, but for a pause: no worker would take it, so none is wanted for it."""


def _queues(state: FleetState) -> dict[str, dict[Labels, Cells]]:
    """Every queue that is declared or has tasks, with every state: 0 is worth showing."""
    tasks: Counter[tuple[str, str, str]] = Counter()
    oldest = {(rate.app, rate.queue): 0.0 for rate in state.rates}
    for one in state.queues:
        tasks[one.app, one.queue, one.state] += one.tasks
        # What is due and was not promoted waits too: there is no worker to promote it.
        overdue = -one.next_due_seconds if one.next_due_seconds is not None else 0.0
        key = (one.app, one.queue)
        oldest[key] = max(oldest.get(key, 0.0), one.oldest_due_seconds or 0.0, overdue)
    return {
        "rowlock_queue_tasks": {
            (*key, str(word)): [float(tasks[*key, word])]
            for key in oldest
            for word in (*TaskState, PAUSED)
        },
        "rowlock_queue_oldest_ready_seconds": {key: [value] for key, value in oldest.items()},
        "rowlock_queue_limit": {
            (one.app, one.queue, one.kind): [one.value] for one in state.limits
        },
    }


def _versions(state: FleetState) -> dict[str, dict[Labels, Cells]]:
    """Every version that has workers or runs, and each app's current one."""
    open_runs: Counter[tuple[str, str]] = Counter()
    workers: Counter[tuple[str, str, str]] = Counter()
    used: Counter[tuple[str, str]] = Counter()
    slots: Counter[tuple[str, str]] = Counter()
    for queue in state.queues:
        open_runs[queue.app, queue.version] += queue.tasks
    for worker in state.workers:
        key = (worker.app, worker.version)
        word = "dead" if not worker.alive else "draining" if worker.draining else "alive"
        workers[*key, word] += 1
        if worker.alive:
            used[key] += worker.running
            slots[key] += worker.slots
    current = {(v.app, v.name) for v in state.versions if v.is_current}
    unnamed = {(rate.app, "") for rate in state.rates}
    keys = sorted({*open_runs, *(key[:2] for key in workers), *current, *unnamed})
    return {
        "rowlock_runs_open": {key: [float(open_runs[key])] for key in keys},
        "rowlock_workers": {
            (*key, word): [float(workers[*key, word])]
            for key in keys
            for word in ("alive", "draining", "dead")
        },
        "rowlock_fleet_slots": {
            (*key, word): [float(number)]
            for key in keys
            for word, number in (
                ("used", min(used[key], slots[key])),
                ("free", max(0, slots[key] - used[key])),
            )
        },
    }
