"""Which runs a command means: ids, or the filters of `rowlock list`.

What a person confirms is what is done: the ids are fixed before he is asked, at most `--most` of
them, read page by page, newest first.

Reads: the client's list of runs.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID

import click

from rowlock.cli.names import complete
from rowlock.cli.options import (
    app_option,
    database_options,
    duration,
    json_object,
    json_option,
    past_moment,
    settings_of,
)
from rowlock.cli.output import complain, one_line, span
from rowlock.client import Client, RunInfo
from rowlock.model.states import Outcome, TaskState
from rowlock.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

STATUSES = tuple(map(str, (*TaskState, *Outcome)))
UNFINISHED = tuple(map(str, TaskState))
ENDED = tuple(str(one) for one in Outcome if one is not Outcome.CONTINUED)

PAGE = 200
"""Rows carry inputs and outputs: a page must fit into memory whatever they are."""
MOST = 10_000
SAMPLE = 5
FILTERS = (
    *("status", "workflow", "queue", "parent", "attributes", "since", "created_after"),
    "created_before",
)


@dataclass(frozen=True, slots=True)
class Verb:
    """What is done to runs, in words, and to which it can be done."""

    name: str
    done: str
    """How a line begins that says that it was done: ``resumed``."""
    possible: tuple[str, ...]
    """The statuses a run may have for it."""
    default: tuple[str, ...] = ()
    """The statuses that are taken where filters name none; empty: one must be named."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Filters, as they were given."""

    verb: Verb
    settings: Settings
    app: str | None
    filters: dict[str, Any]
    most: int
    yes: bool
    as_json: bool

    @property
    def is_by_filter(self) -> bool:
        return bool(self.filters)

    def choose(self, run_ids: Sequence[UUID]) -> list[UUID]:
        """The runs that are meant; asks whether all that match are.

        Raises UsageError when neither or both were given, or nobody can be asked.
        """
        if run_ids and self.filters:
            raise click.UsageError("Name runs, or select them by filters: not both.")
        if run_ids:
            return list(dict.fromkeys(run_ids))
        if not self.filters:
            raise click.UsageError(
                f"Which runs? Name their ids, or select them as `rowlock list` does: {_NAMED}."
            )
        found, there_are_more = asyncio.run(self._matching(self._statuses()))
        if found:
            self._confirm(found, there_are_more)
        return [run.id for run in found]

    def _statuses(self) -> tuple[str, ...]:
        status = self.filters.get("status")
        if status is None and not self.verb.default:
            raise click.UsageError(
                f"Which ones? Name a --status, one of {', '.join(self.verb.possible)}."
            )
        if status is None:
            return self.verb.default
        if status not in self.verb.possible:
            raise click.UsageError(
                f"`rowlock {self.verb.name}` does nothing for runs that are {status}, but for "
                f"those that are {' or '.join(self.verb.possible)}."
            )
        return (status,)

    async def _matching(self, statuses: Sequence[str]) -> tuple[list[_Found], bool]:
        """Runs that match, and whether there are more than `most`.

        A run that changes its status while this reads is met at most once.
        """
        filters = by_time(self.filters)
        filters.pop("status", None)
        found: dict[UUID, _Found] = {}
        async with Client(self.settings, app=self.app) as client:
            for status in statuses:
                before: UUID | None = None
                while len(found) <= self.most:
                    page = await client.runs(status=status, before=before, limit=PAGE, **filters)
                    found |= {run.id: _Found.of(run) for run in page}
                    if len(page) < PAGE:
                        break
                    before = page[-1].id
        newest = sorted(found.values(), key=lambda one: one.id, reverse=True)
        return newest[: self.most], len(newest) > self.most

    def _confirm(self, found: Sequence[_Found], there_are_more: bool) -> None:
        number = f"{len(found):,} run{'s' if len(found) > 1 else ''}"
        if there_are_more:
            complain(
                f"more than {self.most:,} runs match: only {self.most:,} of them are taken now. "
                "Say it again for the rest, or raise --most."
            )
        if self.yes:
            return
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise click.UsageError(
                f"{number} would be meant, and there is no terminal to ask on. Nothing was "
                "changed; with --yes it is done without asking."
            )
        now = datetime.now(UTC)
        for one in found[:SAMPLE]:
            age = span(now - one.created_at)
            complain(f"  {one.id}  {one_line(one.workflow, 40)}  {one.status}  {age} old")
        if len(found) > SAMPLE:
            complain(f"  … and {len(found) - SAMPLE:,} more")
        click.confirm(f"{self.verb.name} {number}?", abort=True, err=True)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is kept of a run that matches."""

    id: UUID
    workflow: str
    status: str
    created_at: datetime

    @classmethod
    def of(cls, run: RunInfo) -> _Found:
        return cls(run.id, run.workflow, run.status, run.created_at)


def filter_options(command: Command) -> Command:
    """The filters of `rowlock list`."""
    for option in reversed(
        (
            click.option(
                "--status", type=click.Choice(STATUSES), metavar="STATUS", help="Such as failed."
            ),
            click.option(
                "--workflow", shell_complete=complete("workflow"), help="Of this workflow."
            ),
            click.option("--queue", shell_complete=complete("queue"), help="In this queue."),
            click.option("--parent", type=click.UUID, metavar="ID", help="Children of this run."),
            click.option(
                "--attributes",
                type=json_object,
                metavar="JSON",
                help="Whose attributes hold this.",
            ),
            click.option(
                "--since", type=duration, help="Started not longer ago than this, such as 1h."
            ),
            click.option(
                "--created-after",
                type=past_moment,
                metavar="WHEN",
                help="Started at this time or later: a time, or 1d ago.",
            ),
            click.option(
                "--created-before",
                type=past_moment,
                metavar="WHEN",
                help="Started before this time: a time, or 1d ago.",
            ),
        )
    ):
        command = option(command)
    return command


_NAMED = ", ".join(f"--{name.replace('_', '-')}" for name in FILTERS)


def selecting(verb: Verb) -> Callable[[Command], Command]:
    """The options of a command on many runs; it is handed a ``selection`` made of them."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def gathered(
            app: str | None,
            most: int,
            yes: bool,
            database_url: str | None,
            as_json: bool,
            **given: Any,
        ) -> Any:
            filters = {name: given.pop(name) for name in FILTERS}
            selection = Selection(
                verb,
                settings_of(database_url),
                app,
                {name: value for name, value in filters.items() if value is not None},
                most,
                yes,
                as_json,
            )
            return command(selection=selection, **given)

        for option in (
            json_option,
            database_options,
            app_option,
            click.option("--yes", is_flag=True, help="With filters: don't ask."),
            click.option(
                "--most",
                type=click.IntRange(1, 1_000_000),
                default=MOST,
                show_default=True,
                help="With filters: no more than so many runs, the newest.",
            ),
            filter_options,
        ):
            gathered = option(gathered)
        return gathered  # type: ignore[return-value]

    return decorate


def by_time(filters: Mapping[str, Any]) -> dict[str, Any]:
    """These filters as the client takes them: --since is a time to be created after."""
    found = dict(filters)
    since: timedelta | None = found.pop("since", None)
    if since is not None:
        if found.get("created_after") is not None:
            raise click.UsageError("--since or --created-after, not both.")
        found["created_after"] = datetime.now(UTC) - since
    return found
