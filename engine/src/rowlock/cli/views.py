"""Runs as people see them in a list, and runs and steps as JSON.

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

from rowlock.cli.output import one_line, print_table, span, status_text
from rowlock.client import RunInfo
from rowlock.store.statements import StepRow


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
