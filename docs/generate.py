"""Writes the reference part of docs/sql.md from what a migrated database says of itself.

    python docs/generate.py [--database URL] [FILE]

Without a database: an embedded one, for the moment. Without a file: docs/sql.md itself. What stands
above the line GENERATED is written by hand and kept; the rest are the comments of functions, views
and columns (store/functions/*.sql), which psql shows too (``\\df+ rowlock.*``). Change it there; a
test compares.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from rowlock.embedded import Server
from rowlock.store.migrate import migrate

PAGE = Path(__file__).parent / "sql.md"
GENERATED = "<!-- generated from here on: make docs -->\n"

SUBJECTS = {
    "Starting runs": ("start", "start_many"),
    "Listing runs, and asking why": ("list_runs", "explain"),
    "Waiting for news of runs": ("listen", "unlisten"),
    "Talking to runs": ("send", "set_event", "get_event", "emit"),
    "Stopping runs, and letting them go on": ("cancel", "resume", "retry", "rewind", "fork"),
    "Changing what waits": ("pause", "unpause", "move", "reprioritise", "reschedule"),
    "Limiting queues": ("set_limit", "unset_limit", "reset_limits"),
    "Keeping and deleting what has ended": (
        *("set_retention", "drop_retention", "retain_plan", "retain", "delete", "why_kept"),
    ),
    "Schedules": (
        *("create_schedule", "update_schedule", "unset_schedule", "delete_schedule"),
        "pause_schedule",
        *("resume_schedule", "explain_schedule", "trigger_schedule", "backfill"),
    ),
    "Versions and workers": ("promote", "retire", "current_version", "drain_worker"),
    "Who may use which app": ("grant_app", "revoke_app", "my_apps"),
}
VIEWS = (
    *("runs", "steps", "generations", "messages", "events", "streams", "waits"),
    *("queues", "workers", "versions", "pauses", "schedules", "backfills"),
    *("retentions", "audit", "members"),
)
REFUSALS = {
    "RLA01": "several apps are there, or none: which is meant must be said",
    "RLN01": "no such queue",
    "RLN02": "no such version",
    "RLN03": "no such run",
    "RLN04": "nothing is recorded at that place",
    "RLN05": "no such workflow",
    "RLN06": "no such worker",
    "RLN07": "no such app",
    "RLN08": "no such role",
    "RLN09": "no such schedule",
    "RLP01": "the role may not use the app",
    "RLS01": "the run is in a state in which that can't be done",
    "RLS02": "the run has ended",
    "RLS03": "the run has undone a part of what it did",
    "RLI01": "the transaction is not READ COMMITTED, which this needs",
    "RLS04": "the version is retired, is the current one, or has work left",
    "RLS05": "something needs the run",
    "RLS06": "an unfinished run has that dedup key",
    "RLS07": "the schedule is there already, or stands in code",
    "RLV01": "a JSON value of the wrong shape",
    "RLV02": "a value out of its bounds",
}

_FUNCTIONS = """
select p.proname as name, obj_description(p.oid, 'pg_proc') as comment,
       pg_get_function_result(p.oid) as result, pg_get_functiondef(p.oid) as text,
       coalesce(p.proargnames, '{}') as names, coalesce(p.proargmodes::text[], '{}') as modes,
       array(select format_type(t.type, null)
               from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[])) with ordinality
                    as t (type, nth) order by t.nth) as types,
       array(select pg_get_function_arg_default(p.oid, n)
               from generate_series(1, p.pronargs) as n) as defaults,
       coalesce((select r.roles from rowlock.rights() as r where r.function = p.proname), '{}')
       as roles
  from pg_proc as p
 where p.pronamespace = 'rowlock'::regnamespace and p.prokind = 'f'
"""
_COLUMNS = """
select c.relname as view, obj_description(c.oid, 'pg_class') as comment, a.attname as name,
       format_type(a.atttypid, null) as type, col_description(c.oid, a.attnum) as meaning
  from pg_class as c
  join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
 where c.relnamespace = 'rowlock'::regnamespace and c.relkind = 'v'
 order by c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the schema, as the catalog has it."""

    name: str
    comment: str | None
    result: str
    text: str
    names: list[str]
    modes: list[str]
    types: list[str]
    defaults: list[str | None]
    roles: list[str]

    @property
    def summary(self) -> str:
        return _joined((self.comment or "").partition("\n\n")[0])

    @property
    def meanings(self) -> dict[str, str]:
        """What the comment says of each argument (and column of the answer), by name."""
        told = (self.comment or "").partition("\n\n")[2]
        parts = re.split(r"^(\w+): ", told, flags=re.MULTILINE)[1:]
        return dict(zip(parts[::2], map(_joined, parts[1::2]), strict=True))

    @property
    def refusals(self) -> set[str]:
        """The SQLSTATEs that stand in its own text."""
        return set(re.findall(r"'(RL[A-Z]\d\d)'", self.text))

    @property
    def calls(self) -> set[str]:
        """What it calls: hints and comments name others, too."""
        code = re.sub(r"--.*|'(?:[^']|'')*'", "", self.text)
        return set(re.findall(r"rowlock\.(\w+)\(", code))


def functions(connection: psycopg.Connection[Any]) -> dict[str, Function]:
    """All of the schema, by name."""
    found = [Function(*row) for row in connection.execute(_FUNCTIONS.encode()).fetchall()]
    return {function.name: function for function in found}


def _type(text: str) -> str:
    """As people write it."""
    return text.replace("timestamp with time zone", "timestamptz").replace("SETOF", "setof")


def refusals(known: dict[str, Function], name: str) -> list[str]:
    """What a function may refuse with, in all that it calls."""
    seen, todo = {name}, [name]
    while todo:
        new = known[todo.pop()].calls & known.keys() - seen
        seen |= new
        todo += new
    return sorted({code for one in seen for code in known[one].refusals})


def page(connection: psycopg.Connection[Any]) -> str:
    """The generated part."""
    known = functions(connection)
    public = {name for name, function in known.items() if function.comment}
    placed = {name for names in SUBJECTS.values() for name in names}
    if public != placed:
        raise SystemExit(f"say in SUBJECTS where these belong: {sorted(public ^ placed)}")
    used = {code for name in public for code in refusals(known, name)}
    if unknown := used ^ REFUSALS.keys():
        raise SystemExit(f"say in REFUSALS what these mean: {sorted(unknown)}")
    return "".join([*_of_functions(known), *_of_refusals(), *_of_views(connection)])


def _of_functions(known: dict[str, Function]) -> Iterator[str]:
    yield "\n## Functions\n"
    for subject, names in SUBJECTS.items():
        yield f"\n### {subject}\n"
        for name in names:
            function = known[name]
            yield f"\n#### rowlock.{name}\n\n```\n{_signature(function)}\n```\n\n"
            yield function.summary + "\n"
            if function.names:
                yield "\n| | | |\n|---|---|---|\n"
                for argument, kind in zip(function.names, function.types, strict=True):
                    meaning = _cell(function.meanings[argument])
                    yield f"| `{argument}` | {_type(kind)} | {meaning} |\n"
            roles = ", ".join(f"`rowlock_{role}`" for role in function.roles)
            yield f"\nFor {roles}."
            codes = refusals(known, name)
            yield f" Refuses with {', '.join(codes)}.\n" if codes else "\n"


def _signature(function: Function) -> str:
    takes = []
    for n, (name, kind) in enumerate(zip(function.names, function.types, strict=True)):
        if n >= len(function.defaults):
            break  # a column of the answer
        default = function.defaults[n]
        plain = f'"{name}"' if name == "limit" else name
        text = "" if default is None else " default " + re.sub(r"::[\w ]+$", "", default).lower()
        takes.append(f"{plain} {_type(kind)}{text}")
    head = f"rowlock.{function.name}("
    gives = _type(function.result).replace("TABLE", "table ")
    line = f"{head}{', '.join(takes)}) returns {gives}"
    if len(line) <= 100:
        return line
    return head + "\n    " + ",\n    ".join(takes) + f")\nreturns {gives}"


def _of_refusals() -> Iterator[str]:
    yield "\n## Refusals\n\n"
    yield "Each has a message that says what and why, and a hint that says what to do.\n\n"
    yield "| SQLSTATE | meaning |\n|---|---|\n"
    for code, meaning in sorted(REFUSALS.items()):
        yield f"| {code} | {meaning} |\n"


def _of_views(connection: psycopg.Connection[Any]) -> Iterator[str]:
    yield "\n## Views\n"
    rows = connection.execute(_COLUMNS.encode()).fetchall()
    there = {row[0] for row in rows}
    if unknown := there ^ set(VIEWS):
        raise SystemExit(f"say in VIEWS where these belong: {sorted(unknown)}")
    for view in VIEWS:
        of_view = [row[1:] for row in rows if row[0] == view]
        yield f"\n#### rowlock.{view}\n\n{_joined(of_view[0][0])}\n\n| | | |\n|---|---|---|\n"
        for _, name, kind, meaning in of_view:
            yield f"| `{name}` | {_type(kind)} | {_cell(meaning)} |\n"


def _joined(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="rowlock-docs-") as folder:
        Path(folder).chmod(0o711)  # the server may run as another user
        with Server(Path(folder) / "data") as server:
            migrate(server.url("postgres"))
            yield server.url("postgres")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="a migrated database to ask")
    parser.add_argument("file", nargs="?", type=Path, default=PAGE)
    chosen = parser.parse_args()
    by_hand, line, _ = PAGE.read_text().partition(GENERATED)
    if not line:
        raise SystemExit(f"{PAGE} has no line {GENERATED}")
    with _database(chosen.database) as url, psycopg.connect(url) as connection:
        chosen.file.write_text(by_hand + line + page(connection))


if __name__ == "__main__":
    main()
