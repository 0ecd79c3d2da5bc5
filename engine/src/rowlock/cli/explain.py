"""`rowlock explain`: why runs do not run, and what to do.

Reads: the client's explain.
"""

from __future__ import annotations

from dataclasses import asdict
from uuid import UUID

import click

from rowlock.blocking import BlockingClient
from rowlock.cli.main import FAILED
from rowlock.cli.options import database_options, json_option, settings_of
from rowlock.cli.output import print_block, print_facts, print_json, status_text
from rowlock.store.controls import Explanation


@click.command("explain")
@click.argument("run_ids", metavar="RUN_ID...", type=click.UUID, nargs=-1, required=True)
@database_options
@json_option
def explain_command(run_ids: tuple[UUID, ...], database_url: str | None, as_json: bool) -> int:
    """Say why runs are not running, or not done, and what to do.

    Of several causes the one that has to go first. The exit code is 1 if there is no run with one
    of the ids.

    \b
    Example:
      rowlock explain 01980000-0000-7000-8000-000000000000
      rowlock explain 01980000-0000-7000-8000-000000000000 --json
    """
    with BlockingClient(settings_of(database_url)) as client:
        found = {run_id: client.run(run_id).explain() for run_id in run_ids}
    if as_json:
        print_json([{"id": run_id, **asdict(why)} for run_id, why in found.items()])
    else:
        for number, (run_id, why) in enumerate(found.items()):
            if number:
                click.echo()
            print_why("run", str(run_id), why)
    return FAILED if any(why.cause == "unknown" for why in found.values()) else 0


def print_why(what: str, which: str, why: Explanation) -> None:
    """For people: a run or a schedule, and why."""
    status = status_text(why.status) if why.status else "unknown"
    print_facts({what: which, "status": status, "cause": why.cause.replace("_", " ")})
    print_block("why", why.message)
    print_block("what to do", why.hint)
