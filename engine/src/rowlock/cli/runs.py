"""`rowlock start` and `list`: what scripts and people do most with runs.

Reads and writes: the blocking client, as any program would.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, get_args

import click

from rowlock.blocking import BlockingClient, BlockingRun
from rowlock.cli.main import FAILED, TIMED_OUT
from rowlock.cli.names import complete
from rowlock.cli.options import (
    app_option,
    arguments,
    database_options,
    duration,
    input_options,
    json_object,
    json_option,
    moment,
    settings_of,
)
from rowlock.cli.output import complain, json_text, print_json
from rowlock.cli.selection import by_time, filter_options
from rowlock.cli.views import print_runs, run_facts
from rowlock.client import call
from rowlock.errors import ResultTimeout, RunFailed
from rowlock.starting import Batch, Debounce, Dedup, OnDuplicate

LOOK_EVERY_S = 2.0


@click.command("start")
@click.argument("workflow", shell_complete=complete("workflow"))
@input_options
@click.option("--key", help="Start it once: a run with this key is given back instead.")
@click.option(
    "--queue",
    shell_complete=complete("queue"),
    help="Where it waits; the workflow's own queue by default.",
)
@click.option("--partition", help="Which part of a queue with partitions, such as a tenant.")
@click.option("--priority", type=click.IntRange(0, 100), help="0 first, 100 last; 50 by default.")
@click.option("--delay", type=duration, help="Begin later, such as 10s or 5m.")
@click.option(
    "--start-at", type=moment, metavar="WHEN", help="Begin then: a time, or 10m from now."
)
@click.option(
    "--start-before",
    type=moment,
    metavar="WHEN",
    help="Fail if it has not begun by then: a time, or 10m from now.",
)
@click.option("--deadline", type=duration, help="Fail if it has not ended so long after it is due.")
@click.option("--dedup", metavar="KEY", help="Its key while it is unfinished.")
@click.option(
    "--on-duplicate",
    type=click.Choice(get_args(OnDuplicate)),
    help="With --dedup: what if an unfinished run has the key; existing by default.",
)
@click.option("--debounce", metavar="KEY", help="Its key until it is due: the last input counts.")
@click.option("--quiet", type=duration, help="With --debounce: due so long after the last start.")
@click.option("--most", type=duration, help="With --debounce: so long after the first at most.")
@click.option("--batch", metavar="KEY", help="Its key until it is due or full: lists are gathered.")
@click.option(
    "--size", type=click.IntRange(1, 10000), help="With --batch: how long a list; 100 by default."
)
@click.option(
    "--batch-wait", type=duration, help="With --batch: due so long after a start; 5s by default."
)
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
    dedup: str | None,
    on_duplicate: OnDuplicate | None,
    debounce: str | None,
    quiet: timedelta | None,
    most: timedelta | None,
    batch: str | None,
    size: int | None,
    batch_wait: timedelta | None,
    **options: Any,
) -> int:
    """Start a run of a workflow.

    Prints the run's id; with --wait its result, and the exit code is 0 if it succeeded, 1 if it
    did not, 124 if --timeout came first (the run goes on).

    \b
    Example:
      rowlock start fulfil --arg 'order={"id": 7}' --key order-7
      rowlock start report --input @july.json --wait --timeout 10m
      rowlock start report --start-at 2026-12-24T08:00
      rowlock start sync --dedup customer-42 --on-duplicate replace
      rowlock start reindex --debounce page-7 --quiet 10s --most 5m
      rowlock start index --arg pages=[7] --batch pages --size 100 --batch-wait 5s
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait.")
    if options["delay"] is not None and options["start_at"] is not None:
        raise click.UsageError("--delay or --start-at, not both.")
    if on_duplicate is not None and dedup is None:
        raise click.UsageError("--on-duplicate goes with --dedup.")
    if debounce is None and (quiet is not None or most is not None):
        raise click.UsageError("--quiet and --most go with --debounce.")
    if debounce is not None and quiet is None:
        raise click.UsageError("--debounce needs --quiet.")
    if batch is None and (size is not None or batch_wait is not None):
        raise click.UsageError("--size and --batch-wait go with --batch.")
    if dedup is not None:
        options["dedup"] = Dedup(dedup, on_duplicate or "existing")
    if debounce is not None and quiet is not None:
        options["debounce"] = Debounce(debounce, quiet, most)
    if batch is not None:
        given: dict[str, Any] = {"size": size, "wait": batch_wait}
        options["batch"] = Batch(batch, **{k: v for k, v in given.items() if v is not None})
    described = call(workflow, **arguments(input_, args))
    with BlockingClient(settings_of(database_url), app=app) as client:
        run = client.start(described, **options)
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
    except ResultTimeout as error:
        code = TIMED_OUT
        if not as_json:
            complain(
                f"rowlock: run {run.id} did not finish within {error.seconds:g} s. It goes on: "
                f"`rowlock explain {run.id}` says what holds it, `rowlock show {run.id}` how far "
                "it is, and --timeout how long to wait."
            )
    if as_json:
        print_json(run_facts(run.info()))
    elif code == 0:
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


@click.command("list")
@filter_options
@click.option("--key", help="With this key.")
@click.option("--version", help="Pinned to this code version, or ended on it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--before", type=click.UUID, metavar="ID", help="The page after this run.")
@app_option
@database_options
@json_option
def list_command(
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
      rowlock list --created-after 2026-12-24 --created-before 2026-12-25T08:00
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        runs = client.runs(**by_time(filters))
    if as_json:
        print_json([run_facts(run) for run in runs])
    else:
        print_runs(runs, most=filters["limit"])
