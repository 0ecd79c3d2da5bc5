"""`rowlock worker`: the parent of the processes that run an app.

It looks at the schema, starts `rowlock worker-process` as often as asked, and answers probes. It
never imports the user's code.
"""

from __future__ import annotations

import asyncio
import os
import sys

import click

from rowlock.cli import loading
from rowlock.cli.health import health_server
from rowlock.cli.options import Number, database_options, log_options, settings_of
from rowlock.runtime.supervisor import Fleet, Supervisor
from rowlock.settings import Settings
from rowlock.telemetry import logs


def fleet_of(
    target: str,
    settings: Settings,
    *,
    processes: int,
    slots: int,
    grace_s: float,
    queues: str | None = None,
    log_format: str = "auto",
    log_level: str = "info",
    waits_for_mending: bool = False,
) -> Fleet:
    """The processes to run for an app. The URL goes by the environment: `ps` shows arguments."""
    # -P keeps the current folder off the path until the user's module is loaded: a file named
    # like one of our own modules must not take its place.
    command = [sys.executable, "-P", "-m", "rowlock", "worker-process", target]
    command += [f"--slots={slots}", f"--grace={grace_s}"]
    command += [f"--log-format={log_format}", f"--log-level={log_level}"]
    if queues is not None:
        command.append(f"--queues={queues}")
    return Fleet(
        command=[*command, "--socket"],
        environment=os.environ | {"ROWLOCK_DATABASE_URL": settings.require_database_url()},
        processes=processes,
        grace_s=grace_s,
        waits_for_mending=waits_for_mending,
    )


@click.command("worker")
@click.argument("target", metavar="MODULE:APP", envvar="ROWLOCK_APP")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="How many."
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Most runs loaded at a time, in each process.",
)
@click.option("--queues", metavar="A,B", help="Serve these queues only.")
@click.option(
    "--grace",
    "grace_s",
    type=Number(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long runs may go on after SIGTERM, before they are handed back.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Answer /livez, /readyz and /metrics on this port; 0: don't.",
)
@database_options
@log_options
def worker_command(
    target: str,
    processes: int,
    slots: int,
    queues: str | None,
    grace_s: float,
    health_port: int,
    database_url: str | None,
    log_format: str,
    log_level: str,
) -> None:
    """Run an app's workflows, in one or several processes.

    Without MODULE:APP the environment's ROWLOCK_APP counts.

    SIGTERM (or Ctrl-C) drains: nothing new is taken, runs go on for the grace, the rest is handed
    back to other workers. A second one stops at once. Give Kubernetes 20 s more than the grace.

    \b
    Example:
      rowlock worker shop:app --processes 4 --slots 100 --queues payments,default
    """
    logs.set_up(level=log_level, style=log_format)
    settings = settings_of(database_url)
    loading.parse(target)
    fleet = fleet_of(
        target,
        settings,
        processes=processes,
        slots=slots,
        queues=queues,
        grace_s=grace_s,
        log_format=log_format,
        log_level=log_level,
    )
    asyncio.run(_work(Supervisor(settings, fleet), health_port))


async def _work(supervisor: Supervisor, health_port: int) -> None:
    async with health_server(supervisor, health_port):
        await supervisor.run()
