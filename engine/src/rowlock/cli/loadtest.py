"""`rowlock loadtest`: put a database under Rowlock's load and say what it bears."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.status import Status

from rowlock.cli.main import FAILED, INTERRUPTED, exit_code_of
from rowlock.cli.options import Number, database_options
from rowlock.cli.output import complain, console
from rowlock.errors import Disconnected
from rowlock_loadtest.contention import report, suite
from rowlock_loadtest.contention.crew import ClientFailed
from rowlock_loadtest.contention.losses import LeftBehind
from rowlock_loadtest.contention.place import PREFIX, Asking, Place, opened
from rowlock_loadtest.contention.results import Part, Suite
from rowlock_loadtest.contention.scenarios import SCENARIOS
from rowlock_loadtest.contention.stage import QUICK, Size

INTERRUPTED_EARLY = "rowlock: interrupted while it made ready; what it had made is removed."
INTERRUPTED_LATE = (
    "rowlock: interrupted while it cleaned up. Look what is left: a database"
    f" {PREFIX}… to drop, or, with --here, runs of an app loadtest-…"
)


class Person(Asking):
    """Asks whoever sits at the terminal; where nobody does, the answer is no."""

    def may(self, question: str) -> bool:
        return self.yes or (sys.stdin.isatty() and click.confirm(question, abort=True))


@click.command("loadtest")
@click.option(
    "--only", metavar="NAMES", help=f"Scenarios, with commas between: {', '.join(SCENARIOS)}."
)
@click.option("--quick", is_flag=True, help="A short form of each, to see that all works.")
@click.option("--seconds", type=Number(0.1, 3600), help="How long each point lasts; 3 by default.")
@click.option(
    "--depth",
    type=click.IntRange(1000, 10_000_000),
    help="Runs of a deep backlog; 1,000,000 by default.",
)
@click.option("--here", is_flag=True, help="In the named database itself, as an app of its own.")
@click.option("--embedded", is_flag=True, help="On a server of its own, whatever URL is set.")
@click.option("--yes", is_flag=True, help="Don't ask, even if the database holds runs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for the report; out/loadtest-… by default.",
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for the charts as SVG files, too.",
)
@database_options
def loadtest_command(
    only: str | None,
    quick: bool,
    seconds: float | None,
    depth: int | None,
    here: bool,
    embedded: bool,
    yes: bool,
    out: Path | None,
    pictures: Path | None,
    database_url: str | None,
) -> int:
    """Put a database under Rowlock's load, and say what it bears.

    On a server of its own, or on the one that --database-url or ROWLOCK_DATABASE_URL names: there
    it makes a database and drops it in the end, also after Ctrl-C. Writes report.html and
    report.json, also of a part if it is interrupted. The exit code is 1 if anything was lost,
    doubled, or over a limit; else 130 after an interruption, 5 if the connections were lost.

    \b
    Example:
      rowlock loadtest --quick
      rowlock loadtest --only claimers,limits --seconds 10
      rowlock loadtest --here --yes --out report
    """
    names = [name.strip() for name in only.split(",")] if only else list(SCENARIOS)
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise click.UsageError(
            f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}."
        )
    url = None if embedded else database_url or os.environ.get("ROWLOCK_DATABASE_URL")
    if here and not url:
        raise click.UsageError("--here needs a database: ROWLOCK_DATABASE_URL or --database-url.")
    size = QUICK if quick else Size()
    if seconds is not None:
        size = replace(size, seconds=seconds)
    if depth is not None:
        size = replace(size, depth=depth, bound=max(1000, depth // 10))
    folder = out or Path("out") / f"loadtest-{datetime.now():%Y%m%d-%H%M%S}"
    # What ends us in good order cleans up as well.
    signal.signal(signal.SIGTERM, _interrupt)
    found = suite.blank()
    screen = console()
    code: int | None = None
    try:
        with opened(url, Person(yes), here=here) as place:
            code = _play(place, size, names, found, screen)
        if code:
            complain("What the load test had made is removed.")
    except KeyboardInterrupt:
        complain(INTERRUPTED_EARLY if code is None else INTERRUPTED_LATE)
        code = code or INTERRUPTED
    except LeftBehind as error:
        complain(f"rowlock: {error}")
        code = code or exit_code_of(error)
    finally:
        if found.parts:
            page, data = report.write(found, folder)
            screen.print(f"\n{page}\n{data}", soft_wrap=True)
            if pictures is not None:
                report.write_pictures(found, pictures)
        for line in found.verdict:
            screen.print(line, style="bold" if found.ok else "bold red", soft_wrap=True)
    if code and not found.parts:
        complain("There is nothing to report: no load was over.")
    return code if found.ok else FAILED


def _play(place: Place, size: Size, names: list[str], found: Suite, screen: Console) -> int:
    """Run the suite; gives the exit code. What ends it early is told before the cleaning up."""
    try:
        with Progress(screen) as progress:
            suite.run(place, size, names, tell=progress.tell, told=progress.show, suite=found)
    except KeyboardInterrupt:
        complain("rowlock: interrupted. Cleaning up…")
        return INTERRUPTED
    except Disconnected as error:
        found.stopped = "This run ended early: it lost its connections to the database."
        complain(f"rowlock: {error}")
        return exit_code_of(error)
    except ClientFailed as error:
        found.stopped = "This run ended early: a client met an error that is no part of a load."
        complain(f"rowlock: {error}")
        return exit_code_of(error)
    return 0


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


class Progress:
    """What is being done, on the last line of a terminal; elsewhere, what was found alone."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._status = Status("making ready", console=screen) if screen.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def tell(self, what: str) -> None:
        if self._status is not None:
            self._status.update(what)

    def show(self, part: Part) -> None:
        short = "" if part.finished else " (cut short)"
        self._screen.print(f"\n{part.title}{short}", style="bold")
        for point in part.points:
            style = None if point.ok else "red"
            self._screen.print(f"  {report.summary(point)}", style=style, soft_wrap=True)
        for why in part.skipped:
            self._screen.print(f"  not run: {why}", style="yellow", soft_wrap=True)
        for line in part.remarks:
            style = "red" if line.startswith("FAILED") else "dim"
            self._screen.print(f"  → {line}", style=style, soft_wrap=True)
