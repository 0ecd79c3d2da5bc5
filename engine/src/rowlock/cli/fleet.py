"""`rowlock queues`, `workers`, `drain-worker`, `versions`, `promote` and `retire`.

Reads and writes: the client.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from rowlock.blocking import BlockingClient
from rowlock.cli.limit import in_words, shown
from rowlock.cli.main import FAILED
from rowlock.cli.options import app_option, database_options, json_option, settings_of
from rowlock.cli.output import (
    complain,
    console,
    local_time,
    one_line,
    print_json,
    span,
    table_of,
)
from rowlock.errors import Disconnected, RowlockError
from rowlock.store.controls import QueueRow, VersionRow, WorkerRow

named_app_option = click.option("--app", required=True, metavar="NAME", help="The app.")


@click.command("queues")
@app_option
@database_options
@json_option
def queues_command(app: str | None, database_url: str | None, as_json: bool) -> None:
    """List queues, and how many unfinished runs they have in each state.

    Reads every unfinished run once. `rowlock top` shows the same live.

    \b
    Example:
      rowlock queues --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        found = client.queues()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    now = datetime.now(UTC)
    headings = ("queue", "app", *_STATES, "oldest ready", "limits", "paused")
    rows = [_queue(one, now) for one in found]
    console().print(table_of(headings, rows, {*_STATES, "oldest ready"}))


_STATES = ("ready", "running", "scheduled", "waiting", "blocked")


def _queue(queue: QueueRow, now: datetime) -> list[str | Text]:
    paused: str | Text = ""
    if queue.paused_at is not None:
        why = f": {queue.reason}" if queue.reason else ""
        said = f"by {queue.paused_by} {span(now - queue.paused_at)} ago{why}"
        paused = Text(one_line(said, 60), style="yellow")
    return [
        queue.queue,
        queue.app,
        *(f"{getattr(queue, state):,}" for state in _STATES),
        "" if queue.oldest_ready_at is None else span(now - queue.oldest_ready_at),
        in_words(queue) if shown(queue) or queue.limits_set_at else "",
        paused,
    ]


@click.command("workers")
@app_option
@database_options
@json_option
def workers_command(app: str | None, database_url: str | None, as_json: bool) -> None:
    """List worker processes.

    Those that hold a lease, and those that have lost it and were not cleared away yet.

    \b
    Example:
      rowlock workers
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        found = client.workers()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    now = datetime.now(UTC)
    headings = ("worker", "app", "host", "pid", "version", "queues", "runs", "since", "state")
    rows = [_worker(one, now) for one in found]
    console().print(table_of(headings, rows, {"pid", "runs", "since"}))


def _worker(worker: WorkerRow, now: datetime) -> list[str | Text]:
    state = Text("works")
    if not worker.alive:
        state = Text("dead", style="red")
    elif worker.draining:
        state = Text("drains", style="yellow")
    return [
        str(worker.worker_id),
        worker.app,
        one_line(worker.host, 40),
        str(worker.pid),
        one_line(worker.version or "", 30),
        "all" if worker.queues is None else one_line(", ".join(worker.queues), 40),
        f"{worker.running}/{worker.slots}",
        span(now - worker.registered_at),
        state,
    ]


@click.command("drain-worker")
@click.argument("worker_ids", metavar="WORKER...", type=click.IntRange(1), nargs=-1, required=True)
@database_options
@json_option
def drain_worker_command(
    worker_ids: tuple[int, ...], database_url: str | None, as_json: bool
) -> int:
    """Let worker processes take no new runs, for good.

    The runs they have go on. `rowlock workers` lists their numbers. The exit code is 1 if there is
    no such worker.

    \b
    Example:
      rowlock drain-worker 17 18
    """
    with BlockingClient(settings_of(database_url)) as client:
        return _each(
            worker_ids,
            client.drain_worker,
            as_json,
            key="worker",
            done="drains: worker",
            before="was draining already: worker",
        )


@click.command("versions")
@app_option
@database_options
@json_option
def versions_command(app: str | None, database_url: str | None, as_json: bool) -> None:
    """List the code versions of apps, the newest first.

    `unfinished` counts the runs that are pinned to it. Reads every unfinished run once.

    \b
    Example:
      rowlock versions --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        found = client.versions()
    if as_json:
        print_json([asdict(one) for one in found])
        return
    headings = ("version", "app", "registered", "promoted", "unfinished", "workers", "state")
    console().print(table_of(headings, map(_version, found), {"unfinished", "workers"}))


def _version(version: VersionRow) -> list[str | Text]:
    state = Text("current", style="green") if version.current else Text()
    if version.retired_at is not None:
        state = Text("retired", style="dim")
    return [
        version.version,
        version.app,
        local_time(version.registered_at),
        local_time(version.promoted_at),
        f"{version.unfinished:,}",
        f"{version.workers:,}",
        state,
    ]


@click.command("promote")
@click.argument("version")
@named_app_option
@database_options
@json_option
def promote_command(version: str, app: str, database_url: str | None, as_json: bool) -> None:
    """Let a code version take all runs that are not pinned to another yet.

    Some worker must have registered with it. In Kubernetes the operator does this.

    \b
    Example:
      rowlock promote shop:2 --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        client.promote(version)
    if as_json:
        print_json({"app": app, "current": version})
    else:
        click.echo(f"promoted {version}")


@click.command("retire")
@click.argument("versions", metavar="VERSION...", nargs=-1, required=True)
@named_app_option
@database_options
@json_option
def retire_command(
    versions: tuple[str, ...], app: str, database_url: str | None, as_json: bool
) -> int:
    """Let a code version that has nothing more to do never become current again.

    Refused while it is the current one, or unfinished runs are pinned to it. The exit code is 1 if
    any was refused.

    \b
    Example:
      rowlock retire shop:1 --app shop
    """
    with BlockingClient(settings_of(database_url), app=app) as client:
        return _each(
            versions,
            client.retire,
            as_json,
            key="version",
            done="retired",
            before="was retired before:",
        )


def _each(
    things: Sequence[Any],
    act: Callable[[Any], bool],
    as_json: bool,
    *,
    key: str,
    done: str,
    before: str,
) -> int:
    """Do it to one after the other; gives the exit code."""
    told: list[dict[str, Any]] = []
    for thing in dict.fromkeys(things):
        facts: dict[str, Any] = {key: thing, "ok": True, "changed": None, "error": None}
        try:
            facts["changed"] = act(thing)
        except Disconnected:
            raise
        except RowlockError as error:
            facts |= {"ok": False, "error": str(error)}
        told.append(facts)
        if as_json:
            continue
        if facts["ok"]:
            click.echo(f"{done if facts['changed'] else before} {thing}")
        else:
            complain(f"rowlock: {facts['error']}")
    if as_json:
        print_json(told)
    return 0 if all(facts["ok"] for facts in told) else FAILED
