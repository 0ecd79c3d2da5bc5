"""Names that the shell completes, asked of the database: apps, workflows, queues.

A shell that waits for a database is worse than one that completes nothing: after half a second
there is no answer, and never an error. Names come from whoever registers workflows and go into a
line that a person is about to run, so only plain ones are given.

Reads: store's NAMES.  Writes: nothing.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem

from rowlock.settings import Settings
from rowlock.store.connection import Session
from rowlock.store.reports import NAMES, Name

PATIENCE_S = 0.5
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+/-]*")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete(kind: str) -> Complete:
    """Completes names of this kind: ``app``, ``workflow`` or ``queue``."""

    def completed(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        app = ctx.params.get("app") if kind != "app" else None
        names = names_in_time(kind, app, ctx.params.get("database_url"))
        return [CompletionItem(name) for name in names if name.startswith(begun)]

    return completed


def names_in_time(kind: str, app: str | None, database_url: str | None) -> list[str]:
    """The plain names of this kind; none when the database takes too long or there is none."""
    found: list[Name] = []

    def ask() -> None:
        with suppress(Exception):
            found.extend(asyncio.run(_names(kind, app, database_url)))

    # In a thread: a name server that does not answer can't be interrupted, only left.
    asking = threading.Thread(target=ask, name="rowlock-names", daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return sorted({one.name for one in list(found) if PLAIN.fullmatch(one.name)})


async def _names(kind: str, app: str | None, database_url: str | None) -> list[Name]:
    settings = Settings.from_environment()
    if database_url:
        settings = settings.with_(database_url=database_url)
    session = Session(settings, "client", timeout_s=PATIENCE_S)
    try:
        return await session.rows(NAMES, {"kind": kind, "app": app})
    finally:
        await session.close()
