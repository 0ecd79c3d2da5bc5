"""`rowlock limit`: what limits a queue, shown or changed while it works.

Reads: the client's queues.  Writes: its set_limit, unset_limit and reset_limits.
"""

from __future__ import annotations

from typing import Any, get_args

import click

from rowlock.blocking import BlockingClient
from rowlock.cli.names import complete
from rowlock.cli.options import database_options, duration, json_option, settings_of
from rowlock.cli.output import print_json
from rowlock.client.operations import LimitName
from rowlock.store.controls import QueueRow

NAMES: tuple[LimitName, ...] = get_args(LimitName)


@click.command("limit")
@click.argument("queue", shell_complete=complete("queue"))
@click.option(
    "--app",
    metavar="NAME",
    shell_complete=complete("app"),
    help="The app, if there are several.",
)
@click.option("--concurrency", type=int, help="Most of its runs that hold a claim at a time.")
@click.option("--worker-concurrency", type=int, help="Most of them in one worker process.")
@click.option(
    "--rate", help="Most that begin in any period: 100/min, '5/s smooth', '100/min burst 20'."
)
@click.option("--partitions", is_flag=True, default=None, help="Its runs wait in partitions.")
@click.option("--partition-concurrency", type=int, help="Most of one partition at a time.")
@click.option("--partition-rate", help="Most of one partition that begin in any period.")
@click.option("--ageing", type=duration, help="So much waiting is worth one priority, such as 30s.")
@click.option("--weight", type=float, help="How often workers look here first; 1 by default.")
@click.option(
    "--remove", multiple=True, type=click.Choice(NAMES), help="Take this limit away; repeatable."
)
@click.option("--reset", is_flag=True, help="Set all limits as the code declares them.")
@database_options
@json_option
def limit_command(
    queue: str,
    app: str | None,
    remove: tuple[LimitName, ...],
    reset: bool,
    database_url: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show what limits a queue, or change it while it works.

    What is set here holds until the code declares other limits. What runs goes on: a lower limit
    means that nothing is claimed until fewer run.

    \b
    Example:
      rowlock limit payments --app shop
      rowlock limit payments --app shop --concurrency 5 --rate 100/min
      rowlock limit payments --app shop --remove rate
      rowlock limit payments --app shop --reset
    """
    limits = {name: value for name, value in given.items() if value is not None}
    if bool(limits) + bool(remove) + reset > 1:
        raise click.UsageError("Set limits, --remove some, or --reset all: one at a time.")
    changed = False
    with BlockingClient(settings_of(database_url), app=app) as client:
        if limits:
            changed = client.set_limit(queue, **limits)
        for name in remove:
            changed |= client.unset_limit(queue, name)
        if reset:
            changed = client.reset_limits(queue)
        found = [one for one in client.queues() if one.queue == queue]
    if not found:
        raise click.ClickException(f"there is no queue {queue}; rowlock queues lists them")
    if len(found) > 1:
        raise click.UsageError(f"several apps have a queue {queue}: name one with --app")
    if as_json:
        print_json({"changed": changed, "queue": queue, "limits": shown(found[0])})
        return
    if limits or remove or reset:
        click.echo("changed" if changed else "it was so already")
    click.echo(in_words(found[0]))


def shown(row: QueueRow) -> dict[str, Any]:
    """The limits that there are, by name."""
    values = {name: getattr(row, name) for name in NAMES}
    if row.ageing is not None:
        values["ageing"] = row.ageing.total_seconds()
    nothing = {"partitions": False, "weight": 1.0}
    return {n: v for n, v in values.items() if v is not None and v != nothing.get(n)}


def in_words(row: QueueRow) -> str:
    """The limits on one line, and whether somebody has set them."""
    text = ", ".join(
        name if value is True else f"{name} {value}" for name, value in shown(row).items()
    )
    if row.limits_set_at is None:
        return text or "no limits"
    return f"{text or 'no limits'} (set by {row.limits_set_by} at {row.limits_set_at:%F %T})"
