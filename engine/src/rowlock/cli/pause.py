"""`rowlock pause` and `unpause`: hold back a queue, a workflow or an app.

Writes: the client's pause and unpause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rowlock.blocking import BlockingClient
from rowlock.cli.names import complete
from rowlock.cli.options import database_options, json_option, settings_of
from rowlock.cli.output import print_json


def _what(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--workflow", shell_complete=complete("workflow"), help="Runs of this workflow."
        ),
        click.option("--queue", shell_complete=complete("queue"), help="Runs of this queue."),
        click.option(
            "--app",
            metavar="NAME",
            shell_complete=complete("app"),
            help="The app, if there are several; by itself, all of it.",
        ),
    ):
        command = option(command)
    return command


@click.command("pause")
@_what
@click.option("--reason", help="Why, for those who wonder.")
@database_options
@json_option
def pause_command(
    app: str | None,
    queue: str | None,
    workflow: str | None,
    reason: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Stop the claiming of runs of a queue, of a workflow, or of all of an app.

    Runs that run go on until they next wait.

    \b
    Example:
      rowlock pause --app shop --queue payments --reason 'the bank is closed'
      rowlock pause --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        changed = client.pause(queue=queue, workflow=workflow, reason=reason)
    _say(changed, as_json, "paused", "it was paused already; the first reason stays")


@click.command("unpause")
@_what
@database_options
@json_option
def unpause_command(
    app: str | None,
    queue: str | None,
    workflow: str | None,
    database_url: str | None,
    as_json: bool,
) -> None:
    """End a pause that was made with the same options, and no other.

    \b
    Example:
      rowlock unpause --app shop --queue payments
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        changed = client.unpause(queue=queue, workflow=workflow)
    _say(changed, as_json, "unpaused", "there was no such pause")


def _say(changed: bool, as_json: bool, done: str, otherwise: str) -> None:
    if as_json:
        print_json({"changed": changed})
    else:
        click.echo(done if changed else otherwise)
