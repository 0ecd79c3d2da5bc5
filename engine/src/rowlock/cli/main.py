"""The command `rowlock`: which commands there are, and how errors end.

0    fine
1    a request was refused, or a run that was waited for did not succeed
2    usage, or a configuration that can't work
3    the database must be migrated first
4    the database demands newer code
5    the database can't be reached
124  a wait took too long (as timeout(1) says)
130  interrupted
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import sys
from typing import NamedTuple, NoReturn

import click
from click.shell_completion import CompletionItem

from rowlock.cli.output import complain
from rowlock.errors import (
    ConfigurationError,
    Disconnected,
    ResultTimeout,
    RowlockError,
    SchemaTooNew,
    SchemaTooOld,
)

FAILED = 1
USAGE = 2
TOO_OLD = 3
TOO_NEW = 4
UNREACHABLE = 5
TIMED_OUT = 124
INTERRUPTED = 130

COMPLETE_VARIABLE = "_ROWLOCK_COMPLETE"
"""Set by the shell's script when it wants something completed."""

_NO_SCHEMA = ("3F000", "42P01", "42883")  # SQLSTATEs of what a missing migration looks like


class Where(NamedTuple):
    """In which module a command is defined, and its line in the overview."""

    module: str
    summary: str


COMMANDS = {
    "dev": Where("dev", "Run an app on a Postgres of its own, and reload it when it changes."),
    "migrate": Where("migrate", "Bring the database to the schema this version needs."),
    "worker": Where("worker", "Run an app's workflows, in one or several processes."),
    "exporter": Where("exporter", "Serve what the database holds as Prometheus metrics."),
    "start": Where("runs", "Start a run of a workflow."),
    "list": Where("runs", "List runs, newest first."),
    "show": Where(
        "show",
        "Show all about one run: facts, steps and waits on a line of time, children, messages.",
    ),
    "history": Where("show", "Show the histories of a run: what began each, how it ended."),
    "cancel": Where("control", "Ask runs to stop, and their children with them."),
    "resume": Where(
        "control", "Let blocked, cancelled or dead runs go on from what they recorded."
    ),
    "retry": Where("control", "Let failed runs go on from the step that failed."),
    "rewind": Where(
        "control", "Let ended runs do again what they recorded at a place and after it."
    ),
    "fork": Where("control", "Start new runs with a copy of what others recorded."),
    "send": Where(
        "control", "Send a message to an unfinished run, which gets it with app.receive."
    ),
    "event": Where("control", "Set or get an event of a run."),
    "emit": Where(
        "control", "Append to a stream of an unfinished run, as the run itself does with app.emit."
    ),
    "explain": Where("explain", "Say why runs are not running, or not done, and what to do."),
    "move": Where("control", "Put runs that are not running into another queue of their app."),
    "reprioritise": Where(
        "control", "Give unfinished runs another priority: 0 is claimed first, 100 last."
    ),
    "reschedule": Where(
        "control", "Let runs that are scheduled or ready be claimed at another time."
    ),
    "delete": Where(
        "control", "Delete ended runs with all that was recorded of them, their keys too."
    ),
    "pause": Where(
        "pause", "Stop the claiming of runs of a queue, of a workflow, or of all of an app."
    ),
    "unpause": Where("pause", "End a pause that was made with the same options, and no other."),
    "limit": Where("limit", "Show what limits a queue, or change it while it works."),
    "schedules": Where("schedules", "List schedules, and when each ticks next."),
    "schedule": Where("schedules", "Make, change, pause, trigger, backfill and delete schedules."),
    "queues": Where("fleet", "List queues, and how many unfinished runs they have in each state."),
    "workers": Where("fleet", "List worker processes."),
    "drain-worker": Where("fleet", "Let worker processes take no new runs, for good."),
    "versions": Where("fleet", "List the code versions of apps, the newest first."),
    "promote": Where(
        "fleet", "Let a code version take all runs that are not pinned to another yet."
    ),
    "retire": Where(
        "fleet", "Let a code version that has nothing more to do never become current again."
    ),
    "retain": Where("retain", "Remove ended runs whose policy does not keep them any longer."),
    "top": Where("top", "Show queues, workers and the oldest waits, live."),
    "doctor": Where(
        "doctor",
        "Look for what may be wrong with the database and the fleet, and say what to do.",
    ),
    "loadtest": Where("loadtest", "Put a database under Rowlock's load, and say what it bears."),
    "completion": Where(
        "completion", "Print the script that completes rowlock's commands in a shell."
    ),
    "operator": Where("operator", "Run the operator for Kubernetes."),
}
HIDDEN = {"worker-process": Where("worker_process", "")}
EXTRAS = {
    "watchfiles": "dev",
    "prometheus_client": "metrics",
    "kopf": "operator",
    "lightkube": "operator",
}


class Commands(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        where = (COMMANDS | HIDDEN).get(cmd_name)
        if where is None:
            return None
        try:
            module = importlib.import_module(f"rowlock.cli.{where.module}")
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            raise ConfigurationError(
                f"`rowlock {cmd_name}` needs {error.name}, which is not installed. Run: "
                f"pip install 'rowlock[{EXTRAS[error.name]}]'"
            ) from None
        command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands by name, without importing them."""
        found = [
            CompletionItem(name, help=where.summary)
            for name, where in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, where.summary) for name, where in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("rowlock"), message="rowlock %(version)s")
def rowlock() -> None:
    """Durable workflows in plain Python on PostgreSQL.

    The database is named by ROWLOCK_DATABASE_URL; `rowlock dev` brings its own.

    \b
    Example:
      rowlock dev examples/shop.py
      rowlock start fulfil --arg 'order={"id": 7}' --wait

    \b
    Exit codes: 0 fine, 1 refused or failed, 2 usage or configuration,
    3 the database must be migrated, 4 it demands newer code,
    5 it can't be reached, 124 waited too long, 130 interrupted.
    """


def exit_code_of(error: RowlockError) -> int:
    """What a script is told about an error."""
    if isinstance(error, SchemaTooOld) or getattr(error, "sqlstate", None) in _NO_SCHEMA:
        return TOO_OLD
    codes: list[tuple[type[RowlockError], int]] = [
        (ConfigurationError, USAGE),
        (SchemaTooNew, TOO_NEW),
        (Disconnected, UNREACHABLE),
        (ResultTimeout, TIMED_OUT),
    ]
    return next((code for kind, code in codes if isinstance(error, kind)), FAILED)


def complete() -> NoReturn:
    """Answer a shell that wants a line completed. Never an error: it would stand in that line.

    Ends the process at once: a thread may still wait for a database that does not answer.
    """
    code = 1
    try:
        rowlock.main(prog_name="rowlock")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
        sys.stdout.flush()
    except Exception:  # noqa: S110
        pass
    os._exit(code)


def main() -> int:
    """Run the command line; gives the exit code."""
    if COMPLETE_VARIABLE in os.environ:
        complete()
    try:
        return rowlock.main(prog_name="rowlock", standalone_mode=False) or 0
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        complain(text.getvalue())
        return error.exit_code
    except RowlockError as error:
        complain(f"rowlock: {error}")
        return exit_code_of(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
