"""`rowlock retain`: remove ended runs that were kept long enough, after archiving them.

Reads and writes: retention.py.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from rowlock import retention
from rowlock.cli.names import complete
from rowlock.cli.options import database_options, json_option, settings_of
from rowlock.cli.output import print_json, print_table, span
from rowlock.retention import Planned


@click.command("retain")
@click.option("--plan", is_flag=True, help="Say what would go, and what stays; remove nothing.")
@click.option(
    "--archive",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append each run to this file as a line of JSON before it is removed.",
)
@click.option(
    "--app", metavar="NAME", shell_complete=complete("app"), help="Runs of this app only."
)
@database_options
@json_option
def retain_command(
    plan: bool, archive: Path | None, app: str | None, database_url: str | None, as_json: bool
) -> None:
    """Remove ended runs whose policy does not keep them any longer.

    Policies are set with rowlock.set_retention in SQL. Workers remove what is not to be archived by
    themselves; runs of policies with `archive` are removed here only, with --archive.

    \b
    Example:
      rowlock retain --plan
      rowlock retain --archive /backup/runs.jsonl
    """
    settings = settings_of(database_url)
    if plan and archive is not None:
        raise click.UsageError("--plan removes nothing, so there is nothing to --archive.")
    if plan:
        _print_plan(retention.plan(settings, app=app), as_json)
        return
    done = retention.retain(settings, app=app, archive=archive)
    if as_json:
        print_json(asdict(done))
    else:
        archived = f", {done.archived} of them archived" if archive else ""
        click.echo(f"removed {done.runs} runs{archived}; {done.keys} keys may be used again")


def _print_plan(planned: list[Planned], as_json: bool) -> None:
    if as_json:
        print_json([asdict(one) for one in planned])
        return
    if not planned:
        click.echo("nothing is to be removed: no policy reaches an ended run that is old enough")
        return
    headings = ("app", "workflow", "outcome", "kept", "runs", "stay")
    print_table(
        headings,
        [
            [
                one.app,
                one.workflow,
                one.outcome + (" (archived first)" if one.archive else ""),
                span(one.keep),
                f"{one.runs}{' or more' if one.at_least else ''}",
                ", ".join(f"{count}: {why}" for why, count in (one.held_back or {}).items()),
            ]
            for one in planned
        ],
    )
