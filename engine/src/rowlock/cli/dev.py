"""`rowlock dev`: an app, a Postgres of its own, and reloads, in one command.

The data stays in its folder: unfinished runs go on at the next start. So does the port, so that
the URL in another terminal stays true.

Reads: the app's folder (for changes).  Writes: the data folder.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import socket
from contextlib import suppress
from pathlib import Path

import click
from watchfiles import PythonFilter, awatch

from rowlock.cli import loading
from rowlock.cli.options import log_options
from rowlock.cli.worker import fleet_of
from rowlock.embedded import Server, default_data_folder
from rowlock.embedded.ports import HOST
from rowlock.errors import ConfigurationError
from rowlock.runtime.supervisor import Supervisor
from rowlock.settings import Settings
from rowlock.store.migrate import migrate
from rowlock.telemetry import logs

log = logging.getLogger("rowlock.dev")

GRACE_S = 5.0
"""Shorter than a worker's: who edits wants the new code, and what is handed back is replayed."""


@click.command("dev")
@click.argument("target", metavar="FILE|MODULE[:APP]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the database is kept; your user's data folder by default.",
)
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--slots", type=click.IntRange(min=1), default=100, show_default=True)
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Postgres' port; a free one, kept, by default."
)
@click.option("--no-reload", is_flag=True, help="Don't watch the app's folder for changes.")
@log_options
def dev_command(
    target: str,
    data_dir: Path | None,
    processes: int,
    slots: int,
    port: int | None,
    no_reload: bool,
    log_format: str,
    log_level: str,
) -> None:
    """Run an app on a Postgres of its own, and reload it when it changes.

    Prints the database's URL, for `rowlock start` and psql in another terminal. The data is kept:
    what was unfinished goes on at the next start. Ctrl-C ends it in good order.

    \b
    Example:
      rowlock dev examples/shop.py
    """
    logs.set_up(level=log_level, style=log_format)
    watched = watched_folder(target)
    folder = (data_dir or default_data_folder()).resolve()
    if os.environ.get("ROWLOCK_DATABASE_URL"):
        click.echo("ROWLOCK_DATABASE_URL is set, but `rowlock dev` uses a Postgres of its own.")
    with Server(folder / "postgres", port=port or _remembered_port(folder)) as server:
        (folder / "port").write_text(str(server.port))
        settings = Settings.from_environment().with_(database_url=server.url())
        migrate(settings)
        click.echo(f"Postgres is up; its data is kept in {folder}. Reach it with")
        click.echo(f"  export ROWLOCK_DATABASE_URL={server.url()}")
        click.echo('  psql "$ROWLOCK_DATABASE_URL"')
        click.echo("Ctrl-C ends it all.")
        fleet = fleet_of(
            target,
            settings,
            processes=processes,
            slots=slots,
            grace_s=GRACE_S,
            log_format=log_format,
            log_level=log_level,
            waits_for_mending=not no_reload,
        )
        asyncio.run(_develop(Supervisor(settings, fleet), None if no_reload else watched, folder))
    click.echo("stopped; the data is kept")


async def _develop(supervisor: Supervisor, watched: Path | None, data: Path) -> None:
    reloading = asyncio.create_task(_reload_on_change(supervisor, watched, data))
    await supervisor.run()
    await reloading


async def _reload_on_change(supervisor: Supervisor, watched: Path | None, data: Path) -> None:
    """Until draining. Virtual environments, caches and the data folder don't count."""
    if watched is None:
        return
    ignored = PythonFilter(ignore_paths=[data])
    told = False
    while not supervisor.draining.is_set():
        try:
            async for changes in awatch(
                watched, watch_filter=ignored, stop_event=supervisor.draining
            ):
                names = sorted({Path(path).name for _, path in changes})
                log.info("reloading: %s changed", ", ".join(names[:5]))
                supervisor.reload()
        except (OSError, RuntimeError) as error:  # watchfiles raises both, as for want of watches
            log.error("can't watch %s, so nothing is reloaded from now on: %s", watched, error)
            return
        except ExceptionGroup as errors:
            # It raises from a task group what it can't say, such as a name that is not UTF-8.
            if errors.split(RuntimeError)[1] is not None:
                raise
            if not told:
                told = True
                log.warning(
                    "a change in %s can't be read (%s): rename the file if its name is not "
                    "UTF-8. Changes within a second of one to it may be missed",
                    watched,
                    errors.exceptions[0],
                )
            with suppress(TimeoutError):  # it may be a log that grows all the time
                async with asyncio.timeout(1):
                    await supervisor.draining.wait()


def watched_folder(target: str) -> Path:
    """The folder of the app's code: the file's, or its outermost package's. Imports nothing."""
    found = loading.parse(target)
    if found.file is not None:
        return found.file.parent if "." not in found.module else found.folder
    top = found.module.partition(".")[0]
    if (found.folder / top).is_dir() or (found.folder / f"{top}.py").is_file():
        return found.folder
    spec = importlib.util.find_spec(top)
    if spec is None:
        raise ConfigurationError(
            f"there is no module {top}, neither in {found.folder} nor installed. {loading.FORMS}"
        )
    return Path(spec.origin).parent if spec.origin else found.folder


def _remembered_port(folder: Path) -> int | None:
    """The port of the last time, if it is free."""
    try:
        port = int((folder / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, ValueError, OverflowError):
        return None
    return port
