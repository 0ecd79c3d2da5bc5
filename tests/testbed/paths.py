"""Where the testbed keeps what it builds and what it runs.

``ROWLOCK_CACHE`` moves the cache (what can be built again: programs, base images);
``ROWLOCK_TESTBED_STATE`` moves the state (what runs: sockets, logs, the cluster's database).
"""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder(room: str = "testbed") -> Path:
    """What was built and may be used again; it survives every test run."""
    chosen = os.environ.get("ROWLOCK_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowlock"
    return _made((Path(chosen) if chosen else base).absolute() / room)


def state_folder() -> Path:
    """What belongs to running daemons; `down` empties it."""
    chosen = os.environ.get("ROWLOCK_TESTBED_STATE")
    return _made(Path(chosen).absolute() if chosen else cache_folder() / "state")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
