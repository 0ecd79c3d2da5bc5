"""`rowlock top`: queues, workers and the oldest waits, live.

Reads: frames.py.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rowlock.cli.frames import MOST_WAITS, Frame, Looker, Queue, doing_of, facts_of
from rowlock.cli.options import app_option, database_options, duration, json_option, settings_of
from rowlock.cli.output import console, local_time, one_line, print_json, printable, span, table_of
from rowlock.errors import RowlockError
from rowlock.store.reports import PauseRow, TopWait, TopWorker

T = TypeVar("T")

EVERY_S = 2.0
LEAST_EVERY_S = 0.5
MOST_SHARE = 0.1
"""Of the time the database may be kept busy by us at most."""
LATE_S = 10.0
"""A run that has been due for longer than this is worth a colour."""
FURNITURE = 14
"""Lines of a frame that are no rows."""


@click.command("top")
@click.option("--once", is_flag=True, help="Print one frame, and end.")
@click.option(
    "--every", type=duration, default="2s", show_default=True, help="How often, such as 500ms."
)
@app_option
@database_options
@json_option
def top_command(
    once: bool, every: timedelta, app: str | None, database_url: str | None, as_json: bool
) -> int:
    """Show queues, workers and the oldest waits, live.

    On a terminal until Ctrl-C; elsewhere, with --once and with --json, one frame. Each look reads
    every unfinished run, about 0.1 s for 100,000 of them, so it looks less often where that takes
    long: the database is kept busy for a tenth of the time at most.

    \b
    Example:
      rowlock top
      rowlock top --app shop --once
      rowlock top --json
    """
    settings = settings_of(database_url)
    if every.total_seconds() < LEAST_EVERY_S:
        raise click.UsageError(f"--every must be at least {LEAST_EVERY_S:g}s.")
    if as_json or once or not sys.stdout.isatty():
        frame = asyncio.run(_one(Looker(settings, app)))
        if as_json:
            print_json(facts_of(frame))
        else:
            console().print(shown(frame, None, None))
        return 0
    with suppress(KeyboardInterrupt):
        asyncio.run(_live(Looker(settings, app), every.total_seconds()))
    return 0


async def _one(looker: Looker) -> Frame:
    async with looker:
        return await looker.look()


async def _live(looker: Looker, every_s: float) -> None:
    """Look until interrupted. A database that can't be read is said, and tried again."""
    screen = console()
    frame: Frame | None = None
    with Live(console=screen, screen=True, auto_refresh=False) as live:
        async with looker:
            while True:
                trouble = None
                try:
                    frame = await looker.look()
                except RowlockError as error:
                    if frame is None:
                        raise
                    trouble = str(error)
                live.update(shown(frame, trouble, screen.height), refresh=True)
                await asyncio.sleep(max(every_s, frame.took_s / MOST_SHARE))


def shown(frame: Frame, trouble: str | None, height: int | None) -> RenderableType:
    """A frame, in as many lines as there are; None: all of it."""
    waits = list(frame.waits)
    room = None if height is None else max(6, height - FURNITURE - len(frame.pauses))
    if room is not None:
        waits = waits[: min(MOST_WAITS, max(2, room // 4))]
        room -= len(waits)
    queues, more_queues = _cut(
        frame.queues, None if room is None else room // 2, key=lambda one: -one.unfinished
    )
    workers, more_workers = _cut(
        frame.workers,
        None if room is None else room - len(queues),
        key=lambda one: (one.lease_seconds > 0, -one.running),
    )
    parts: list[RenderableType] = [_headline(frame, trouble)]
    parts += [_pause(one, frame.fleet.at) for one in frame.pauses]
    parts += [
        Text(),
        table_of(QUEUE_HEADINGS, map(_queue, queues), QUEUE_HEADINGS[2:]),
        *_more(more_queues, "queues"),
    ]
    parts += [Text(), _workers(workers, frame)]
    parts += _more(more_workers, "workers")
    if waits:
        rows = [_wait(one, frame.fleet.at) for one in waits]
        parts += [Text(), table_of(WAIT_HEADINGS, rows)]
    return Group(*parts)


def _cut(rows: Sequence[T], room: int | None, *, key: Callable[[T], Any]) -> tuple[list[T], int]:
    """As many as there is room for, those that matter most, in their order."""
    if room is None or len(rows) <= room:
        return list(rows), 0
    best = sorted(range(len(rows)), key=lambda n: key(rows[n]))[:room]
    return [rows[n] for n in sorted(best)], len(rows) - room


def _more(number: int, what: str) -> list[RenderableType]:
    return [Text(f"… and {number:,} more {what}", style="dim")] if number else []


def _headline(frame: Frame, trouble: str | None) -> Text:
    text = Text(f"rowlock top  {local_time(frame.fleet.at)}", style="bold")
    parts = [f"read in {frame.took_s * 1000:.0f} ms"]
    words = {"runs": "started", "steps": "steps", "outcomes": "ended"}
    parts += [f"{words[name]} {rate:,.1f}/s" for name, rate in frame.rates.items()]
    text.append(f"  {'  '.join(parts)}", style="not bold")
    if trouble is not None:
        said = one_line(printable(trouble), 200)
        text.append(f"\nthe database can't be read, this is old: {said}", style="red")
    return text


def _pause(pause: PauseRow, now: datetime) -> Text:
    what = (
        f"queue {pause.queue}"
        if pause.queue is not None
        else f"workflow {pause.workflow}"
        if pause.workflow is not None
        else "all"
    )
    why = f": {pause.reason}" if pause.reason else ""
    said = f"paused: {what} of app {pause.app}, by {pause.paused_by} {span(now - pause.paused_at)}"
    return Text(printable(one_line(f"{said} ago{why}", 200)), style="yellow")


QUEUE_HEADINGS = (
    "queue",
    "app",
    "ready",
    "running",
    "scheduled",
    "waiting",
    "blocked",
    "oldest ready",
    "in/s",
    "out/s",
)


def _queue(queue: Queue) -> list[str | Text]:
    late = queue.oldest_seconds > LATE_S
    return [
        one_line(queue.queue, 30),
        one_line(queue.app, 20),
        _count(queue.ready),
        _count(queue.running, "blue"),
        _count(queue.scheduled),
        _count(queue.waiting),
        _count(queue.blocked, "yellow"),
        Text(_seconds(queue.oldest_seconds), style="red" if late else "")
        if queue.oldest_seconds > 0
        else "",
        f"{queue.arrivals_per_second:,.1f}",
        "" if queue.ended_per_second is None else f"{queue.ended_per_second:,.1f}",
    ]


WORKER_HEADINGS = ("worker", "app", "host", "pid", "version", "slots", "lease", "at work for long")


def _workers(workers: Sequence[TopWorker], frame: Frame) -> RenderableType:
    rows = [_worker(one, frame.fleet.at) for one in workers]
    return table_of(WORKER_HEADINGS, rows, ("pid", "slots", "lease"))


def _worker(worker: TopWorker, now: datetime) -> list[str | Text]:
    alive = worker.lease_seconds > 0
    return [
        str(worker.id),
        one_line(worker.app, 20),
        one_line(worker.host, 30),
        str(worker.pid),
        one_line(worker.version or "", 20),
        f"{worker.running}/{worker.slots}",
        Text("over", style="red")
        if not alive
        else Text(f"{worker.lease_seconds:.0f}s, drains", style="yellow")
        if worker.draining
        else f"{worker.lease_seconds:.0f}s",
        ", ".join(
            f"{one_line(one.name, 30)} {span(now - one.since)}" for one in doing_of(worker)[:3]
        ),
    ]


WAIT_HEADINGS = ("oldest wait", "workflow", "place", "for", "waits", "until")


def _wait(wait: TopWait, now: datetime) -> list[str | Text]:
    what = wait.kind
    if wait.kind in ("message", "event"):
        what = f"{wait.kind} {wait.name}"
    elif wait.kind == "group":
        what = "children"
    elif wait.kind == "run":
        what = f"run {wait.on_run_id}"
    return [
        str(wait.run_id),
        one_line(wait.workflow, 30),
        wait.place,
        one_line(what, 40),
        span(now - wait.opened_at),
        local_time(wait.due_at),
    ]


def _count(number: int, style: str = "") -> Text:
    return Text(f"{number:,}", style=style if number else "dim")


def _seconds(seconds: float) -> str:
    return span(timedelta(seconds=seconds))
