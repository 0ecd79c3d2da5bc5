"""Keeps the tests' server while anybody uses it. Run by shared.py, with the folder to use.

Reads: the locks.  Writes: the server's data, and a note of its URL that only its owner can read.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rowlock.embedded import Server
from rowlock.errors import RowlockError
from rowlock.testing.shared import KEEPER, PLACE, URL, USERS, good_places, lock

# Nothing of it needs to outlive the tests.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "500",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "60s",
    "log_min_messages": "fatal",
}


def main(folder: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal of the tests is closed
    lock(folder / KEEPER, wait=False)  # until the process ends
    try:
        server = _start(folder)
    except RowlockError as error:
        _say(str(error))
        sys.exit(1)
    try:
        _note(folder / URL, server.url("postgres"))
        _say("ready")
        lock(folder / USERS)  # when the last of them has gone
    finally:
        (folder / URL).unlink(missing_ok=True)
        server.stop()
        shutil.rmtree(server.data_dir, ignore_errors=True)
        (folder / PLACE).unlink(missing_ok=True)


def _start(folder: Path) -> Server:
    """In the best place that works: memory may be mounted in a way that nothing runs from it."""
    note = folder / PLACE
    if note.exists():  # what a keeper that was killed has left
        shutil.rmtree(note.read_text(), ignore_errors=True)
    *better, last = good_places(folder)
    for place in better:
        try:
            return _start_in(place, note)
        except RowlockError:
            shutil.rmtree(note.read_text(), ignore_errors=True)
    return _start_in(last, note)


def _start_in(place: Path, note: Path) -> Server:
    data = Path(tempfile.mkdtemp(prefix="rowlock-testing-", dir=place))
    note.write_text(str(data))
    data.chmod(0o711)  # root's server runs as another user
    server = Server(data, settings=SETTINGS)
    server.start()
    return server


def _note(path: Path, url: str) -> None:
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(url)


def _say(word: str) -> None:
    """To whoever started us, once: the pipe is closed then."""
    sys.stdout.write(word)
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
