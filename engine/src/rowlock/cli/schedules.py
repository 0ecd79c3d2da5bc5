"""`rowlock schedules` and `rowlock schedule …`: what is started by the calendar.

Reads and writes: the client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click
from rich.text import Text

from rowlock.blocking import BlockingClient
from rowlock.cli.explain import print_why
from rowlock.cli.main import FAILED
from rowlock.cli.names import complete
from rowlock.cli.options import (
    app_option,
    arguments,
    database_options,
    duration,
    input_options,
    json_option,
    settings_of,
)
from rowlock.cli.output import complain, console, local_time, one_line, print_json, table_of
from rowlock.model.cron import BadSchedule, zone_of
from rowlock.model.schedules import CATCH_UPS, OVERLAPS
from rowlock.scheduling import FIELDS, ScheduleField, When, next_ticks
from rowlock.store.schedules import ScheduleRow

NEXT = 5

_named_app = click.option(
    "--app", required=True, metavar="NAME", shell_complete=complete("app"), help="The app."
)
_name = click.argument("name")


def _time(text: str) -> datetime:
    """A time, of this machine's zone unless it names another."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no time: write 2026-12-24T08:00 or 2026-12-24T08:00Z."
        ) from None


def _definition(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that create and update share."""
    for option in (
        click.option("--cron", metavar="EXPRESSION", help="When: '0 3 * * *', in quotes."),
        click.option("--every", type=duration, help="When, as an interval: 15m."),
        click.option("--timezone", metavar="ZONE", help="In which cron is read; UTC by default."),
        click.option("--tick", metavar="ARG", help="The argument that is given the tick's time."),
        click.option("--queue", shell_complete=complete("queue"), help="Where its runs wait."),
        click.option("--priority", type=click.IntRange(0, 100), help="Of its runs; 0 is first."),
        click.option("--jitter", type=duration, help="How much later runs may begin, at random."),
        click.option(
            "--overlap",
            type=click.Choice(OVERLAPS),
            help="At a tick while a run is unfinished; skip by default.",
        ),
        click.option(
            "--catch-up",
            type=click.Choice(CATCH_UPS),
            help="Ticks made up for if no worker was there; last by default.",
        ),
        click.option("--window", type=duration, help="How old those may be."),
        click.option("--start", type=_time, metavar="TIME", help="No tick before."),
        click.option("--end", type=_time, metavar="TIME", help="No tick after."),
        input_options,
    ):
        command = option(command)
    return command


@click.command("schedules")
@app_option
@database_options
@json_option
def schedules_command(app: str | None, database_url: str | None, as_json: bool) -> None:
    """List schedules, and when each ticks next.

    \b
    Example:
      rowlock schedules --app shop
      rowlock schedules --json
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        found = client.schedules()
    if as_json:
        print_json([_facts(one) for one in found])
        return
    headings = ("schedule", "app", "workflow", "when", "state", "fired", "skipped", "next ticks")
    console().print(table_of(headings, [_row(one) for one in found], {"fired", "skipped"}))


def _facts(schedule: ScheduleRow) -> dict[str, Any]:
    return asdict(schedule) | {"next_ticks": next_ticks(schedule, NEXT)}


def _row(schedule: ScheduleRow) -> list[str | Text]:
    ticks = [local_time(tick) for tick in next_ticks(schedule, NEXT)]
    coming = ", ".join(ticks) if schedule.status == "active" else _why_none(schedule)
    state = Text(schedule.status, style="" if schedule.status == "active" else "yellow")
    if _waits_for_a_run(schedule):
        state.append(" (waits for a run)", style="yellow")
    if schedule.set_at is not None:
        state.append(" (changed live)")
    return [
        schedule.schedule,
        schedule.app,
        schedule.workflow,
        one_line(_when(schedule), 50),
        state,
        f"{schedule.fired:,}",
        f"{schedule.skipped:,}",
        one_line(coming, 200),
    ]


def _why_none(schedule: ScheduleRow) -> str:
    """Why it does not tick, where that can be said in a few words."""
    if schedule.status == "removed":
        return "its code does not declare it any more"
    if schedule.status == "paused":
        return f"by {schedule.paused_by}" + (f": {schedule.reason}" if schedule.reason else "")
    return schedule.error or ""


def _waits_for_a_run(schedule: ScheduleRow) -> bool:
    """Whether a tick is due that has to wait until its runs have ended; by this machine's clock."""
    tick = schedule.next_tick
    is_held = schedule.overlap == "queue" and schedule.unfinished > 0
    return is_held and tick is not None and tick <= datetime.now(UTC)


def _when(schedule: ScheduleRow) -> str:
    if schedule.cron is None:
        return f"every {schedule.every}"
    zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
    return schedule.cron + zone


@click.group("schedule")
def schedule_command() -> None:
    """Make, change, pause, trigger, backfill and delete schedules.

    \b
    Example:
      rowlock schedule create nightly report --app shop --cron '0 3 * * *' --timezone Europe/Berlin
      rowlock schedule next nightly --app shop
    """


@schedule_command.command("create")
@_name
@click.argument("workflow", shell_complete=complete("workflow"))
@_named_app
@_definition
@database_options
def create_command(
    name: str,
    workflow: str,
    app: str,
    cron: str | None,
    every: timedelta | None,
    tick: str | None,
    input_: str | None,
    args: Sequence[str],
    database_url: str | None,
    **options: Any,
) -> None:
    """Have a workflow started by the calendar, each tick once.

    \b
    Example:
      rowlock schedule create nightly report --app shop --cron '0 3 * * *' --tick tick
      rowlock schedule create sync pull --app shop --every 15m --arg 'full=false' --overlap queue
    """
    when = _one_of(cron, every)
    if when is None:
        raise click.UsageError("When? Give --cron '0 3 * * *' or --every 15m.")
    with BlockingClient(settings_of(database_url), app=app) as client:
        given = arguments(input_, args)
        client.create_schedule(name, when, workflow, args=given, tick=tick, **options)
    click.echo(f"schedule {name} is made")


@schedule_command.command("update")
@_name
@_named_app
@click.option("--workflow", shell_complete=complete("workflow"), help="Another workflow.")
@click.option(
    "--remove",
    multiple=True,
    type=click.Choice(tuple(FIELDS)),
    help="Take this option away; repeatable.",
)
@_definition
@database_options
def update_command(
    name: str,
    app: str,
    workflow: str | None,
    remove: tuple[ScheduleField, ...],
    cron: str | None,
    every: timedelta | None,
    tick: str | None,
    input_: str | None,
    args: Sequence[str],
    database_url: str | None,
    **options: Any,
) -> None:
    """Change a schedule; what is not given stays.

    One that code declares stays as changed until its declaration changes. --input and --arg replace
    the arguments as a whole.

    \b
    Example:
      rowlock schedule update nightly --app shop --cron '0 4 * * *'
      rowlock schedule update nightly --app shop --remove end --remove jitter
    """
    given = arguments(input_, args) if input_ is not None or args else None
    when = _one_of(cron, every)
    others = (when, workflow, given, tick, *options.values())
    if remove and any(one is not None for one in others):
        raise click.UsageError("Change options, or --remove some: one at a time.")
    with BlockingClient(settings_of(database_url), app=app) as client:
        changed = False
        for field in remove:
            changed |= client.unset_schedule(name, field)
        if not remove:
            changed = client.update_schedule(
                name, when=when, workflow=workflow, args=given, tick=tick, **options
            )
    click.echo("changed" if changed else "it was like this before")


def _one_of(cron: str | None, every: timedelta | None) -> When | None:
    if cron is not None and every is not None:
        raise click.UsageError("--cron or --every, not both.")
    return every if cron is None else cron


@schedule_command.command("pause")
@_name
@_named_app
@click.option("--reason", help="Why, for those who wonder.")
@database_options
def pause_command(name: str, app: str, reason: str | None, database_url: str | None) -> None:
    """Stop the ticks of a schedule; runs that it started go on.

    \b
    Example:
      rowlock schedule pause nightly --app shop --reason 'the bank is closed'
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        changed = client.pause_schedule(name, reason=reason)
    click.echo("paused" if changed else "it was paused already; the first reason stays")


@schedule_command.command("resume")
@_name
@_named_app
@database_options
def resume_command(name: str, app: str, database_url: str | None) -> None:
    """Let a paused schedule tick again, from now on.

    Ticks of the meantime are not made up for; `rowlock schedule backfill` does that.

    \b
    Example:
      rowlock schedule resume nightly --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        changed = client.resume_schedule(name)
    click.echo("resumed" if changed else "it was not paused")


@schedule_command.command("explain")
@_name
@app_option
@database_options
@json_option
def explain_command(name: str, app: str | None, database_url: str | None, as_json: bool) -> int:
    """Say whether a schedule ticks, and if not, why, and what to do.

    The exit code is 1 if there is no such schedule.

    \b
    Example:
      rowlock schedule explain nightly
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        why = client.explain_schedule(name)
    if as_json:
        print_json({"schedule": name, **asdict(why)})
    else:
        print_why("schedule", one_line(name, 200), why)
    return FAILED if why.cause == "unknown" else 0


@schedule_command.command("trigger")
@_name
@_named_app
@database_options
def trigger_command(name: str, app: str, database_url: str | None) -> None:
    """Start a run of a schedule now, beside its ticks; prints the run's id.

    \b
    Example:
      rowlock schedule trigger nightly --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        click.echo(client.trigger_schedule(name).id)


@schedule_command.command("backfill")
@_name
@click.argument("since", type=_time)
@click.argument("until", type=_time)
@_named_app
@database_options
def backfill_command(
    name: str, since: datetime, until: datetime, app: str, database_url: str | None
) -> None:
    """Have the past ticks of a range run, each once.

    Ticks at SINCE are in it, ticks at UNTIL are not; one that has a run keeps it. Workers start
    them in batches. The times are of this machine's zone unless they name another.

    \b
    Example:
      rowlock schedule backfill nightly 2026-01-01 2026-02-01 --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        number = client.backfill(name, since, until)
    click.echo(f"backfill {number} is asked for; rowlock.backfills tells how far it is")


@schedule_command.command("delete")
@_name
@_named_app
@database_options
def delete_command(name: str, app: str, database_url: str | None) -> None:
    """Delete a schedule that code does not declare.

    \b
    Example:
      rowlock schedule delete nightly --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        client.delete_schedule(name)
    click.echo("deleted")


@schedule_command.command("next")
@_name
@app_option
@click.option("--count", type=click.IntRange(1, 1000), default=NEXT, show_default=True)
@database_options
@json_option
def next_command(
    name: str, app: str | None, count: int, database_url: str | None, as_json: bool
) -> int:
    """Print when a schedule ticks next, in its own time zone.

    \b
    Example:
      rowlock schedule next nightly --count 10
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        found = client.schedules(name)
    if not found:
        complain(f"rowlock: there is no schedule {name}. `rowlock schedules` lists them.")
        return FAILED
    if as_json:
        print_json(
            [
                {"app": one.app, "schedule": one.schedule, "ticks": next_ticks(one, count)}
                for one in found
            ]
        )
        return 0
    for one in found:
        if one.status != "active":
            complain(f"schedule {one.schedule} of app {one.app} is {one.status}")
        for tick in next_ticks(one, count):
            click.echo(tick.astimezone(_zone(one)).isoformat())
    return 0


def _zone(schedule: ScheduleRow) -> ZoneInfo:
    try:
        return zone_of(schedule.timezone)
    except BadSchedule:
        return ZoneInfo("UTC")
