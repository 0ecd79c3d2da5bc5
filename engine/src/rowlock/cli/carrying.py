"""Do one thing to many runs, and say for each what came of it.

A few at a time: a run that somebody's open transaction holds up must not hold up all the others.
Lines come in the order of the runs. When the connection is lost nothing more is tried, and the runs
whose fate is not known are named: they may have been reached.

Writes: whatever the act does, through the client.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rowlock.cli.main import FAILED
from rowlock.cli.output import complain, print_json
from rowlock.cli.selection import Selection, Verb
from rowlock.client import Client, Run
from rowlock.errors import Disconnected, RowlockError

AT_ONCE = 8
MOST_TOLD = 10
"""So many refusals are told in words where filters chose the runs; --json tells all."""

Act = Callable[[Run[Any]], Awaitable[Run[Any] | bool | None]]
"""What is done to a run; gives another run if it made one, or whether that changed anything."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it for one run."""

    run: UUID
    ok: bool | None
    """None: not known, because the connection was lost."""
    error: RowlockError | None = None
    new_run: UUID | None = None
    changed: bool | None = None
    """Whether it made a difference, where the act tells."""

    def facts(self) -> dict[str, Any]:
        """For scripts. The keys are promised."""
        facts = {
            "run": self.run,
            "ok": self.ok,
            "error": None if self.error is None else str(self.error),
            "sqlstate": getattr(self.error, "sqlstate", None),
        }
        if self.new_run is not None:
            facts["new_run"] = self.new_run
        if self.changed is not None:
            facts["changed"] = self.changed
        return facts


@dataclass(slots=True)
class Report:
    """Says what was done: a line a run, or as JSON in the end, and a line that sums up."""

    verb: Verb
    total: int
    as_json: bool
    is_quiet: bool
    """Whether a person looks on while very many are done: no line for each."""
    done: list[Done] = field(default_factory=list)
    told: int = 0

    def add(self, one: Done) -> None:
        self.done.append(one)
        if self.as_json:
            return
        if one.ok and not self.is_quiet:
            done = self.verb.done if one.changed is not False else "unchanged"
            click.echo(str(one.new_run) if one.new_run else f"{done} {one.run}")
        if one.ok is False:
            self.told += 1
            if not self.is_quiet or self.told <= MOST_TOLD:
                complain(f"rowlock: {one.error}")

    def end(self, *, sum_up: bool) -> None:
        """Say what remains to be said; also when it did not come to its end."""
        if self.as_json:
            print_json([one.facts() for one in self.done])
            return
        if self.is_quiet and self.told > MOST_TOLD:
            complain(f"… and {self.told - MOST_TOLD:,} more were refused; --json names them all.")
        if not sum_up and len(self.done) == self.total:
            return
        same = sum(one.changed is False for one in self.done)
        fine = sum(one.ok is True for one in self.done) - same
        unknown = [one for one in self.done if one.ok is None]
        parts = [f"{self.verb.done} {fine:,} of {self.total:,} runs"]
        if same:
            parts.append(f"{same:,} {'was' if same == 1 else 'were'} so already")
        if self.told:
            parts.append(f"{self.told:,} refused")
        if unknown:
            parts.append(f"{len(unknown):,} perhaps reached")
        if len(self.done) < self.total:
            parts.append(f"{self.total - len(self.done):,} not tried")
        complain(", ".join(parts))
        for one in unknown:
            complain(f"  perhaps: {one.run}")

    @property
    def refused(self) -> bool:
        return any(one.ok is False for one in self.done)


def carry_out(selection: Selection, run_ids: Sequence[UUID], act: Act) -> int:
    """Do it to all the runs that are meant; gives the exit code."""
    chosen = selection.choose(run_ids)
    if not chosen and not selection.as_json:
        complain("no run matches")
        return 0
    quiet = selection.is_by_filter and sys.stdout.isatty()
    report = Report(selection.verb, len(chosen), selection.as_json, quiet)
    try:
        with _Bar(selection.verb.name, len(chosen)) as bar:
            asyncio.run(_do_all(selection, chosen, act, report, bar))
    finally:
        report.end(sum_up=selection.is_by_filter or len(chosen) > 1)
    return FAILED if report.refused else 0


async def _do_all(
    selection: Selection, run_ids: Sequence[UUID], act: Act, report: Report, bar: _Bar
) -> None:
    async with Client(selection.settings, app=selection.app) as client:
        for first in range(0, len(run_ids), AT_ONCE):
            batch = run_ids[first : first + AT_ONCE]
            tasks = [asyncio.create_task(_do_one(client.run(one), act)) for one in batch]
            try:
                done = await asyncio.gather(*tasks)
            except asyncio.CancelledError:  # Ctrl-C
                for run_id, task in zip(batch, tasks, strict=True):
                    is_known = task.done() and not task.cancelled()
                    report.add(task.result() if is_known else Done(run_id, None))
                raise
            for one in done:
                report.add(one)
            bar.advance(len(done))
            for one in done:
                if one.ok is None and one.error is not None:
                    raise one.error


async def _do_one(run: Run[Any], act: Act) -> Done:
    try:
        made = await act(run)
    except Disconnected as error:
        return Done(run.id, None, error)
    except RowlockError as error:
        return Done(run.id, False, error)
    if isinstance(made, Run):
        return Done(run.id, True, new_run=made.id)
    return Done(run.id, True, changed=made)


class _Bar:
    """A progress bar on standard error, where that is a terminal and there is much to do."""

    def __init__(self, name: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, markup=False, highlight=False),
            transient=True,
            disable=not sys.stderr.isatty() or total <= AT_ONCE,
        )
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, number: int) -> None:
        self._progress.advance(self._task, number)
