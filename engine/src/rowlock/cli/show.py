"""`rowlock show` and `history`: all about one run.

Reads: portrait.py.  Writes: nothing.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import click
import msgspec
from rich.text import Text

from rowlock.cli.options import database_options, json_option, settings_of
from rowlock.cli.output import (
    Segments,
    json_text,
    local_time,
    one_line,
    print_block,
    print_facts,
    print_json,
    print_lines,
    print_table,
    span,
    status_text,
)
from rowlock.cli.portrait import Bounds, Portrait, read_generations, read_portrait
from rowlock.cli.tree import axis_of, facts_of, lines_of, rendered, said
from rowlock.cli.views import run_facts, step_facts
from rowlock.store.reports import CancelRow, GenerationRow, MessageRow

SHOWN = Bounds(steps=200, waits=200, messages=20, children=50, depth=1)
WRITTEN = Bounds(steps=1_000_000, waits=10_000, messages=10_000, children=1_000, depth=1)
"""As JSON: whoever asks for that wants to have it all."""

FEWEST_CELLS, MOST_CELLS = 12, 48
MESSAGE_CHARS = 60


@click.command("show")
@click.argument("run_id", type=click.UUID)
@click.option(
    "--depth",
    type=click.IntRange(0, 10),
    default=1,
    show_default=True,
    help="How many levels of children.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1_000_000),
    help=f"The last so many steps; {SHOWN.steps} without --json.",
)
@database_options
@json_option
def show_command(
    run_id: UUID, depth: int, steps: int | None, database_url: str | None, as_json: bool
) -> None:
    """Show all about one run: facts, steps and waits on a line of time, children, messages.

    Steps are in the order of the program, branches below where they began. A solid bar is the
    last attempt of a step, a light one a wait, a grey one what goes on now. `claim` is named where
    it changes: there another claim went on, on the same worker or another.

    \b
    Example:
      rowlock show 01980000-0000-7000-8000-000000000000
      rowlock show 01980000-0000-7000-8000-000000000000 --depth 3 --steps 1000
    """
    most = WRITTEN if as_json else SHOWN
    bounds = Bounds(steps or most.steps, most.waits, most.messages, most.children, depth)
    portrait = read_portrait(settings_of(database_url), run_id, bounds)
    if as_json:
        print_json(facts(portrait))
    else:
        print_portrait(portrait)


@click.command("history")
@click.argument("run_id", type=click.UUID)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
@database_options
@json_option
def history_command(run_id: UUID, limit: int, database_url: str | None, as_json: bool) -> None:
    """Show the histories of a run: what began each, how it ended.

    A run that is redone, or goes on as new, begins another generation; its id stays. `show` has
    the steps of the present one.

    \b
    Example:
      rowlock history 01980000-0000-7000-8000-000000000000
    """
    found = read_generations(settings_of(database_url), run_id, limit)
    if as_json:
        print_json([_generation_facts(row) for row in found])
    else:
        _print_generations(found, limit)


# --- as JSON: the keys are promised


def facts(portrait: Portrait) -> dict[str, Any]:
    """All of it for scripts."""
    aside = portrait.aside
    mine = portrait.children.get(portrait.info.id, ())
    worker = None
    if aside.worker_host is not None:
        worker = {
            "id": portrait.info.worker_id,
            "host": aside.worker_host,
            "pid": aside.worker_pid,
            "lease_seconds": aside.worker_lease_seconds,
        }
    return {
        **run_facts(portrait.info),
        "deadline_at": aside.deadline_at,
        "forked_from": aside.forked_from,
        "takeovers": aside.takeovers,
        "worker": worker,
        "cancel": None if portrait.cancel is None else asdict(portrait.cancel),
        "steps": [step_facts(step) for step in portrait.steps],
        "steps_total": portrait.totals.steps,
        "waits": [{**asdict(one), "error": _decoded(one.error)} for one in portrait.waits],
        "doing": [
            {key: getattr(one, key) for key in ("place", "name", "attempt", "since")}
            for one in portrait.doing
        ],
        "messages": [{**asdict(one), "value": _decoded(one.value)} for one in portrait.messages],
        "messages_total": portrait.totals.messages,
        "children": [facts_of(child, portrait) for child in mine],
        "children_total": portrait.families.get(portrait.info.id, 0),
        "hidden": list(portrait.hidden),
    }


def _generation_facts(row: GenerationRow) -> dict[str, Any]:
    return {
        **asdict(row),
        "input": _decoded(row.input),
        "output": _decoded(row.output),
        "error": _decoded(row.error),
    }


def _decoded(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


# --- for people


def print_portrait(portrait: Portrait) -> None:
    """Everything about a run, the long things last."""
    info = portrait.info
    print_facts({name: value for name, value in _header(portrait).items() if value})
    if info.reason is not None:
        print_block("blocked because", _reason(info.reason))
    if info.error is not None:
        print_block("error", _error(info.error))
    axis = axis_of(portrait, _cells())
    lines = lines_of(portrait, axis)
    if lines:
        click.echo()
        hidden = portrait.totals.steps - len(portrait.steps)
        if hidden > 0:
            print_lines([_dim(f"… {hidden:,} steps before these: --steps {portrait.totals.steps}")])
        print_lines(rendered(lines, axis))
    if portrait.messages:
        click.echo()
        _print_messages(portrait)
    if portrait.hidden:
        names = " and ".join(one.replace("_", " ") for one in portrait.hidden)
        print_lines([_dim(f"not shown, because this role may not read it: {names}")])


def _header(portrait: Portrait) -> dict[str, str | Text]:
    run, aside, now = portrait.info, portrait.aside, portrait.now
    return {
        "run": str(run.id),
        "workflow": f"{run.workflow}  (app {run.app}, queue {run.queue})",
        "status": status_text(run.status),
        "created": _ago(run.created_at, now),
        "due": local_time(run.due_at) if run.status in ("scheduled", "waiting") else "",
        "deadline": local_time(aside.deadline_at),
        "started": _ago(run.started_at, now),
        "finished": _ago(run.finished_at, now),
        "took": span(run.finished_at - (run.started_at or run.created_at))
        if run.finished_at
        else "",
        "cancel": _cancel(portrait.cancel, now),
        "key": run.key or "",
        "partition": run.partition or "",
        "start before": local_time(run.start_before),
        "dedup": run.dedup or "",
        "debounce": run.debounce or "",
        "batch": run.batch or "",
        "version": run.version or "",
        "priority": str(run.priority),
        "generation": f"{run.generation}  (rowlock history {run.id})"
        if run.generation != 1
        else "",
        "forked from": str(aside.forked_from or ""),
        "worker": _worker(portrait),
        "claim": str(run.epoch),
        "takeovers": f"{aside.takeovers} in a row without a new step" if aside.takeovers else "",
        "parent": str(run.parent_id) if run.parent_id is not None else "",
        "attributes": json_text(run.attributes, indent=0) if run.attributes else "",
        "input": json_text(run.input, indent=0),
        "output": json_text(run.output) if run.status == "succeeded" else "",
    }


def _worker(portrait: Portrait) -> str:
    run, aside = portrait.info, portrait.aside
    if run.worker_id is None:
        return ""
    if aside.worker_host is None:
        return f"{run.worker_id}  (gone: another takes the run over)"
    lease = aside.worker_lease_seconds or 0.0
    holds = f"lease for {lease:.0f}s" if lease > 0 else "its lease is over"
    return f"{run.worker_id}  ({aside.worker_host}, pid {aside.worker_pid}, {holds})"


def _cancel(request: CancelRow | None, now: datetime) -> str:
    if request is None:
        return ""
    grace = span(timedelta(seconds=request.grace_seconds))
    how = "by force" if request.force else f"grace {grace}"
    why = f": {request.reason}" if request.reason else ""
    return f"asked {span(now - request.requested_at)} ago, {how}{why}"


def _print_messages(portrait: Portrait) -> None:
    headings = ("message", "topic", "sent", "from", "received", "value")
    print_table(headings, [_message(one) for one in portrait.messages])
    left = portrait.totals.messages - len(portrait.messages)
    if left > 0:
        print_lines([_dim(f"… and {left:,} older ones: --json")])


def _message(one: MessageRow) -> list[str | Text]:
    received = "" if one.received_place is None else f"at {one.received_place}"
    if one.received_generation not in (None, 1):
        received += f" of generation {one.received_generation}"
    return [
        str(one.id),
        one_line(one.topic, 24),
        local_time(one.sent_at),
        str(one.from_run_id or ""),
        received or Text("not yet", style="yellow"),
        one_line(one.value, MESSAGE_CHARS),
    ]


def _print_generations(found: Sequence[GenerationRow], limit: int) -> None:
    headings = ("generation", "reason", "place", "status", "began", "took", "version", "error")
    if len(found) == limit and found[0].generation > 1:
        print_lines([_dim("… and those before: a higher --limit shows them")])
    print_table(headings, [_generation(row) for row in found])


def _generation(row: GenerationRow) -> list[str | Text]:
    return [
        str(row.generation),
        row.reason,
        row.place or "",
        status_text(row.status),
        local_time(row.began_at),
        "" if row.finished_at is None else span(row.finished_at - row.began_at),
        row.version or "",
        Text(said(row.error), style="red"),
    ]


def _reason(reason: dict[str, Any]) -> str:
    message = str(reason.get("message", ""))
    others = {name: value for name, value in reason.items() if name != "message"}
    return f"{message}\n{json_text(others)}" if others else message


def _error(error: dict[str, Any]) -> str:
    """The traceback, causes first, as Python prints them; without one, type and message."""
    text = str(error.get("traceback") or f"{error.get('type')}: {error.get('message')}")
    cause = error.get("cause")
    if isinstance(cause, dict):
        return f"{_error(cause).rstrip()}\n\nThe above was the cause of:\n\n{text}"
    return text


def _ago(moment: datetime | None, now: datetime) -> str:
    return "" if moment is None else f"{local_time(moment)}  ({span(now - moment)} ago)"


def _dim(text: str) -> Segments:
    return [(text, "dim")]


def _cells() -> int:
    """How wide the line of time is: a third of the terminal."""
    if not sys.stdout.isatty():
        return MOST_CELLS
    return min(MOST_CELLS, max(FEWEST_CELLS, shutil.get_terminal_size().columns // 3))
