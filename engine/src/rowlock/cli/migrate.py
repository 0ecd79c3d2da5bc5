"""`rowlock migrate`: bring the schema up, or say how far it is.

Reads and writes: store/migrate.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from rowlock.cli.options import database_options, json_option, settings_of
from rowlock.cli.output import print_json
from rowlock.errors import SchemaTooNew, SchemaTooOld
from rowlock.settings import Settings
from rowlock.store import migrate
from rowlock.store.roles import make_roles


@click.command("migrate")
@click.option("--plan", is_flag=True, help="Say what would be applied; change nothing.")
@click.option("--check", is_flag=True, help="Say whether this version may work; change nothing.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="When it is done, write the level that was reached there, as JSON.",
)
@click.option(
    "--roles",
    is_flag=True,
    help="Make the roles rowlock_client, _worker, _reader and _admin too, with their rights.",
)
@database_options
@json_option
def migrate_command(
    plan: bool,
    check: bool,
    report: str | None,
    roles: bool,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Bring the database to the schema this version needs.

    Safe to repeat, and to run from several places at once. Old workers keep working on a newer
    schema unless --plan says otherwise.

    \b
    Example:
      rowlock migrate
      rowlock migrate --check && rowlock worker shop:app
      rowlock migrate --roles

    \b
    Exit codes:
      0  done; with --check: this version may work with the database
      3  with --check: the database must be migrated first
      4  the database demands a newer version of Rowlock
      5  the database can't be reached
      1  anything else
    """
    if plan and check:
        raise click.UsageError("--plan and --check are two questions: ask one at a time.")
    if roles and (plan or check):
        raise click.UsageError("--roles makes roles; --plan and --check only look.")
    settings = settings_of(database_url)
    if check:
        _check(settings, as_json)
        return
    done = migrate.plan(settings) if plan else migrate.migrate(settings)
    key = "pending" if plan else "applied"
    facts: dict[str, Any] = {
        "level": done.level,
        "needed": migrate.LEVEL,
        key: list(done.applied),
    }
    if roles:
        facts["roles"] = list(make_roles(settings))
    if report is not None:
        Path(report).write_bytes(msgspec.json.encode(facts))
    if as_json:
        print_json(facts)
        return
    for name in done.applied:
        click.echo(f"{'would apply' if plan else 'applied'} {name}")
    if not done.applied:
        click.echo(f"nothing to do: the database is at level {done.level}")
    elif not plan:
        click.echo(f"the database is at level {done.level}")
    if roles:
        made = ", ".join(facts["roles"])
        click.echo(f"made {made}" if made else "the roles are there, with their rights")


def _check(settings: Settings, as_json: bool) -> None:
    """Raises SchemaTooOld or SchemaTooNew, also after it wrote the answer as JSON."""
    facts = {"fits": True, "level": 0, "needed": migrate.LEVEL}
    try:
        facts["level"] = migrate.check(settings)
    except SchemaTooOld as error:
        if as_json:
            print_json({**facts, "fits": False, "level": error.found})
        raise
    except SchemaTooNew as error:
        if as_json:
            print_json({**facts, "fits": False, "level": None, "needed_code": error.minimum})
        raise
    if as_json:
        print_json(facts)
    else:
        click.echo(f"fine: the database is at level {facts['level']}, needed is {migrate.LEVEL}")
