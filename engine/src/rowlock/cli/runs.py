"""`rowlock start`, `list`, `show` and `resume`: what scripts and people do with runs.

Reads and writes: the blocking client, as any program would.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import msgspec

from rowlock.blocking import BlockingClient, BlockingRun
from rowlock.cli.main import FAILED, TIMED_OUT
from rowlock.cli.options import (
    database_options,
    duration,
    json_object,
    json_option,
    settings_of,
)
from rowlock.cli.output import complain, json_text, print_json
from rowlock.cli.views import print_run, print_runs, run_facts, step_facts
from rowlock.client import call
from rowlock.errors import Disconnected, ResultTimeout, RowlockError, RunFailed
from rowlock.model.states import Outcome, TaskState

STATUSES = [*map(str, TaskState), *map(str, Outcome)]

app_option = click.option("--app", metavar="NAME", help="The app's name, if there are several.")


LOOK_EVERY_S = 2.0


@click.command("start")
@click.argument("workflow")
@click.option(
    "--input", "input_", metavar="JSON", help="The arguments as a JSON object; @FILE, or - (stdin)."
)
@click.option("--arg", "args", metavar="NAME=JSON", multiple=True, help="One argument; repeatable.")
@click.option("--key", help="Start it once: a run with this key is given back instead.")
@click.option("--queue", help="Where it waits; the workflow's own queue by default.")
@click.option("--priority", type=click.IntRange(0, 100), help="0 first, 100 last; 50 by default.")
@click.option("--delay", type=duration, help="Begin later, such as 10s or 5m.")
@click.option("--attributes", type=json_object, metavar="JSON", help="To find the run by.")
@click.option("--wait", is_flag=True, help="Wait for the run's end and print its result.")
@click.option("--timeout", type=duration, help="With --wait: wait no longer than this.")
@app_option
@database_options
@json_option
def start_command(
    workflow: str,
    input_: str | None,
    args: tuple[str, ...],
    wait: bool,
    timeout: timedelta | None,
    app: str | None,
    database_url: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Start a run of a workflow.

    Prints the run's id; with --wait its result, and the exit code is 0 if it succeeded, 1 if it
    did not, 124 if --timeout came first (the run goes on).

    \b
    Example:
      rowlock start fulfil --arg 'order={"id": 7}' --key order-7
      rowlock start report --input @july.json --wait --timeout 10m
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    arguments = _arguments(input_, args)
    with BlockingClient(settings_of(database_url), app=app) as client:
        run = client.start(call(workflow, **arguments), **options)
        if wait:
            return _wait_for(run, timeout, as_json)
    if as_json:
        print_json({"id": run.id})
    else:
        click.echo(run.id)
    return 0


def _wait_for(run: BlockingRun[Any], timeout: timedelta | None, as_json: bool) -> int:
    click.echo(f"run {run.id}", err=True)
    code = 0
    try:
        result = _result_of(run, timeout)
    except RunFailed:
        code = FAILED
        if not as_json:
            raise
    except ResultTimeout:
        code = TIMED_OUT
        if not as_json:
            raise
    if as_json:
        print_json(run_facts(run.info()))
    else:
        click.echo(json_text(result))
    return code


def _result_of(run: BlockingRun[Any], timeout: timedelta | None) -> Any:
    """Wait for the result; say so when the run is blocked, for then nothing comes by itself."""
    end = None if timeout is None else time.monotonic() + timeout.total_seconds()
    told = False
    while True:
        left_s = LOOK_EVERY_S if end is None else end - time.monotonic()
        try:
            return run.result(max(0.0, min(LOOK_EVERY_S, left_s)))
        except ResultTimeout:
            if timeout is not None and end is not None and time.monotonic() >= end:
                raise ResultTimeout(run.id, timeout.total_seconds()) from None
            info = run.info()
            if info.status == "blocked" and not told:
                told = True
                why = (info.reason or {}).get("message", "no reason is recorded")
                click.echo(f"the run is blocked, waiting on: {why}", err=True)


def _arguments(text: str | None, args: tuple[str, ...]) -> dict[str, Any]:
    """The workflow's arguments by name, from --input and, above it, each --arg."""
    if text == "-":
        text = sys.stdin.read()
    elif text is not None and text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.BadParameter(str(error), param_hint="--input") from None
    found = {} if text is None else json_object(text)
    for arg in args:
        name, equals, value = arg.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{arg!r} is not NAME=JSON.", param_hint="--arg")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            raise click.BadParameter(
                f"the value of {name} is not JSON: {value!r}. Text needs quotes of its own: "
                f"--arg '{name}=\"text\"'.",
                param_hint="--arg",
            ) from None
    return found


@click.command("list")
@click.option("--status", type=click.Choice(STATUSES), metavar="STATUS", help="Such as failed.")
@click.option("--workflow", help="Of this workflow.")
@click.option("--queue", help="In this queue.")
@click.option("--key", help="With this key.")
@click.option("--parent", type=click.UUID, metavar="ID", help="Children of this run.")
@click.option("--attributes", type=json_object, metavar="JSON", help="Whose attributes hold this.")
@click.option("--since", type=duration, help="Started not longer ago than this, such as 1h.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", type=click.UUID, metavar="ID", help="The page after this run.")
@app_option
@database_options
@json_option
def list_command(
    since: timedelta | None,
    app: str | None,
    database_url: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List runs, newest first.

    \b
    Example:
      rowlock list --status failed --since 1d
      rowlock list --attributes '{"customer": 42}' --json
    """
    after = None if since is None else datetime.now(UTC) - since
    with BlockingClient(settings_of(database_url), app=app) as client:
        runs = client.runs(created_after=after, **filters)
    if as_json:
        print_json([run_facts(run) for run in runs])
    else:
        print_runs(runs, most=filters["limit"])


@click.command("show")
@click.argument("run_id", type=click.UUID)
@database_options
@json_option
def show_command(run_id: UUID, database_url: str | None, as_json: bool) -> None:
    """Show all about one run, and its steps.

    \b
    Example:
      rowlock show 01980000-0000-7000-8000-000000000000
    """
    with BlockingClient(settings_of(database_url)) as client:
        run = client.run(run_id)
        info, steps = run.info(), run.steps()
    if as_json:
        print_json({**run_facts(info), "steps": [step_facts(step) for step in steps]})
    else:
        print_run(info, steps)


@click.command("resume")
@click.argument("run_ids", metavar="RUN_ID...", type=click.UUID, nargs=-1, required=True)
@database_options
def resume_command(run_ids: tuple[UUID, ...], database_url: str | None) -> int:
    """Make blocked runs ready again.

    Each goes on from what it has recorded, on the app's current version. The exit code is 1 if
    any could not be resumed; the others are.

    \b
    Example:
      rowlock resume 01980000-0000-7000-8000-000000000000
    """
    code = 0
    with BlockingClient(settings_of(database_url)) as client:
        for run_id in run_ids:
            try:
                client.run(run_id).resume()
            except Disconnected:
                raise
            except RowlockError as error:
                complain(f"rowlock: {error}")
                code = FAILED
            else:
                click.echo(f"resumed {run_id}")
    return code
