"""`rowlock doctor`: what may be wrong, each with its remedy.

Reads: rowlock.doctor.  Writes: nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta

import click

from rowlock.cli.main import FAILED
from rowlock.cli.options import database_options, duration, json_option, settings_of
from rowlock.cli.output import Segments, print_json, print_lines
from rowlock.doctor import Finding, State, examine

SIGNS = {
    State.OK: ("✓", "green"),
    State.WARN: ("!", "yellow"),
    State.FAIL: ("✗", "bold red"),
    State.UNKNOWN: ("?", "cyan"),
}


@click.command("doctor")
@click.option(
    "--long",
    "long_",
    type=duration,
    default="5m",
    show_default=True,
    help="Transactions that are open for longer, and cancels, are told.",
)
@database_options
@json_option
def doctor_command(long_: timedelta, database_url: str | None, as_json: bool) -> int:
    """Look for what may be wrong with the database and the fleet, and say what to do.

    Changes nothing and needs no superuser: what the role may not see is told as unknown. The exit
    code is 1 if any check fails; warnings and what is unknown leave it at 0.

    \b
    Example:
      rowlock doctor
      rowlock doctor --json
      rowlock doctor --long 30s
    """
    findings: list[Finding] = []
    width = 12
    for finding in examine(settings_of(database_url), long_s=long_.total_seconds()):
        findings.append(finding)
        if not as_json:
            print_lines(_lines(finding, width))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_lines([_sum(findings)])
    return FAILED if any(finding.state is State.FAIL for finding in findings) else 0


def _lines(finding: Finding, width: int) -> list[Segments]:
    sign, style = SIGNS[finding.state]
    lines: list[Segments] = [[(f"{sign} {finding.check:<{width}}  ", style), (finding.found, "")]]
    if finding.remedy is not None:
        lines.append([(f"  {'':<{width}}  → {finding.remedy}", style)])
    return lines


def _sum(findings: Sequence[Finding]) -> Segments:
    numbers = Counter(finding.state for finding in findings)
    said = ", ".join(f"{numbers[state]} {state}" for state in State if numbers[state])
    return [(said, "bold")]
