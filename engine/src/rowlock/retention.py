"""Ended runs leave by policy: what would go now, and removing it, after writing it down elsewhere.

Workers remove what is not to be archived by themselves (runtime/janitor.py). This is for people,
for cron, and for policies with ``archive``: those are carried out here only.

Reads and writes: store/removal.py; the file of the archive.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from rowlock.errors import ConfigurationError
from rowlock.settings import Settings
from rowlock.store.removal import Archive, Remover
from rowlock.store.statements import Chosen, Planned

__all__ = ["Archive", "Planned", "Retained", "plan", "retain"]

BATCH = 1000
BUFFER = 1 << 20
MOST_WALKS = 20
"""Children leave after their parents: so many generations of a family in one call. Without a limit
it would never end where runs end all the time."""


@dataclass(frozen=True, slots=True)
class Retained:
    """What was removed."""

    runs: int
    keys: int
    """Keys of runs removed earlier, whose time is over: they may be used again."""
    archived: int
    """How many of the runs were written to the archive: all, or none without one."""


def plan(settings: Settings | str, *, app: str | None = None) -> list[Planned]:
    """What :func:`retain` would remove now, and what stays although it is old, by kind of run.

    Changes nothing. ``app``: of this app only. Raises Disconnected, or Refused when the database is
    not migrated.
    """
    with Remover(_settings(settings)) as remover:
        return remover.plan(app)


def retain(
    settings: Settings | str,
    *,
    app: str | None = None,
    archive: Path | Archive | None = None,
    at_most: int = BATCH,
    on_batch: Callable[[int], object] | None = None,
) -> Retained:
    """Remove every ended run that its policy doesn't keep any longer, batch by batch.

    ``app``: of this app only. ``archive``: a file, to which each run is appended as a line of JSON
    before it is removed, or a function that takes the lines of a batch and returns when they are
    safe. Without it, runs of policies with ``archive`` stay. ``at_most``: runs in one transaction;
    a batch ends earlier when its runs have many rows. ``on_batch``: told how many it removed.

    A crash may leave runs in the archive that are not removed yet, and are archived again by the
    next call; none is removed that is not in it. Raises Disconnected, Refused; ConfigurationError
    when the archive can't be used, with nothing of that batch removed.
    """
    runs = keys = 0
    with ExitStack() as stack:
        if isinstance(archive, Path):
            archive = stack.enter_context(ArchiveFile(archive))
        remover = stack.enter_context(Remover(_settings(settings)))
        for _ in range(MOST_WALKS):
            removed = _walk(remover, app, at_most, archive, on_batch)
            runs += removed
            if not removed:
                break
        while expired := remover.expire_keys(at_most):
            keys += expired
    return Retained(runs, keys, runs if archive is not None else 0)


def _walk(
    remover: Remover,
    app: str | None,
    at_most: int,
    archive: Archive | None,
    on_batch: Callable[[int], object] | None,
) -> int:
    """Over all ended runs, once."""
    removed = 0
    chosen: Chosen | None = None
    while chosen is None or not chosen.done:
        chosen = remover.remove(app, at_most, chosen, archive)
        removed += len(chosen.runs)
        if chosen.runs and on_batch is not None:
            on_batch(len(chosen.runs))
    return removed


def _settings(settings: Settings | str) -> Settings:
    return Settings(database_url=settings) if isinstance(settings, str) else settings


class ArchiveFile:
    """A file of JSON lines that is appended to, by one process at a time.

    A line that ends in the middle is of somebody who was killed: its run was not removed then, and
    comes again. It stays, on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO

    def __enter__(self) -> Self:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            self._file = os.fdopen(handle, "r+b", buffering=BUFFER)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._file.seek(0, os.SEEK_END):
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")
            _sync_folder(self._path.parent)
        except BlockingIOError:
            self._file.close()
            raise ConfigurationError(
                f"another process is archiving into {self._path}. Nothing was removed."
            ) from None
        except OSError as error:
            raise self._failed(error) from None
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what counts was synced
            self._file.close()

    def __call__(self, lines: Iterator[bytes]) -> None:
        """Returns when the disk has them."""
        try:
            self._file.writelines(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"can't archive into {self._path}: {error.strerror}. Nothing of this batch was removed."
        )


def _sync_folder(folder: Path) -> None:
    """A new file is only there for good when its folder's entry is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
