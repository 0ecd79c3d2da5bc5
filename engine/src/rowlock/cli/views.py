"""Runs and steps as people see them, and as JSON.

The keys of the JSON are part of what Rowlock promises: none is renamed or taken away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.text import Text

from rowlock.cli.output import (
    json_text,
    local_time,
    one_line,
    print_block,
    print_facts,
    print_table,
    span,
    status_text,
)
from rowlock.client import RunInfo
from rowlock.store.statements import StepRow

OUTPUT_CHARS = 60


def run_facts(run: RunInfo) -> dict[str, Any]:
    """A run for scripts."""
    return asdict(run)


def step_facts(step: StepRow) -> dict[str, Any]:
    """A step for scripts."""
    facts = asdict(step)
    for name in ("output", "error"):
        facts[name] = None if facts[name] is None else msgspec.json.decode(facts[name])
    return facts


def print_runs(runs: Sequence[RunInfo], *, most: int) -> None:
    """A table of runs, and how to get the next page."""
    now = datetime.now(UTC)
    headings = ("run", "workflow", "status", "queue", "key", "age", "took")
    print_table(headings, [_line(run, now) for run in runs])
    if len(runs) == most:
        click.echo(f"\nthere may be more: --before {runs[-1].id}", err=True)


def _line(run: RunInfo, now: datetime) -> list[str | Text]:
    took = ""
    if run.finished_at is not None:
        took = span(run.finished_at - (run.started_at or run.created_at))
    return [
        str(run.id),
        one_line(run.workflow, 40),
        status_text(run.status),
        one_line(run.queue, 20),
        one_line(run.key or "", 30),
        span(now - run.created_at),
        took,
    ]


def print_run(run: RunInfo, steps: Sequence[StepRow]) -> None:
    """Everything about a run, the long things last."""
    now = datetime.now(UTC)
    facts: dict[str, str | Text] = {
        "run": str(run.id),
        "workflow": f"{run.workflow}  (app {run.app}, queue {run.queue})",
        "status": status_text(run.status),
        "created": _ago(run.created_at, now),
        "due": local_time(run.due_at) if run.status in ("scheduled", "waiting") else "",
        "started": _ago(run.started_at, now),
        "finished": _ago(run.finished_at, now),
        "took": span(run.finished_at - (run.started_at or run.created_at))
        if run.finished_at
        else "",
        "key": run.key or "",
        "version": run.version or "",
        "priority": str(run.priority),
        "generation": str(run.generation) if run.generation != 1 else "",
        "worker": str(run.worker_id) if run.worker_id is not None else "",
        "parent": str(run.parent_id) if run.parent_id is not None else "",
        "attributes": _compact(run.attributes) if run.attributes else "",
        "input": _compact(run.input),
        "output": json_text(run.output) if run.status == "succeeded" else "",
    }
    print_facts({name: value for name, value in facts.items() if value})
    if run.reason is not None:
        print_block("blocked because", _reason(run.reason))
    if run.error is not None:
        print_block("error", _error(run.error))
    if steps:
        click.echo()
        headings = ("#", "place", "kind", "name", "tries", "seconds", "output")
        print_table(headings, [_step(step) for step in steps])


def _step(step: StepRow) -> list[str | Text]:
    outcome: str | Text = one_line(step.output or "", OUTPUT_CHARS)
    if step.error is not None:
        error = msgspec.json.decode(step.error)
        said = f"{error.get('type', 'error')}: {error.get('message', '')}"
        outcome = Text(one_line(said, OUTPUT_CHARS), style="red")
    return [
        str(step.position),
        step.place,
        step.kind,
        one_line(step.name or "", 40),
        str(step.attempts),
        f"{step.seconds:.3f}",
        outcome,
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


def _compact(value: Any) -> str:
    return json_text(value, indent=0)
