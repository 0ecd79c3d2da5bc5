"""One owner for each data folder.

The lock is the kernel's (flock), so it ends with its process however that ends: no stale lock
files, no guessing by process ids. Who holds it may take any server found in the folder for left
behind by a dead owner.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from rowlock.errors import ConfigurationError


class FolderLock:
    """Exclusive use of a data folder by one `Server`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise ConfigurationError naming the process that has it."""
        if self._fd is not None:
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode().strip() or "unknown"
            os.close(fd)
            raise ConfigurationError(
                f"the data folder {self._path.parent} is in use: process {owner} runs a server "
                "on it. Stop that process (another `rowlock dev`?), or use another data folder."
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd

    def release(self) -> None:
        """Give the folder free; nothing happens if it isn't held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
