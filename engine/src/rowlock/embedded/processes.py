"""Facts about processes that are not our children, without a dependency.

Linux tells them in /proc, which small containers have even when they lack `ps`; elsewhere
(macOS) `ps` is always there.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
HAS_PROC = (PROC / "self" / "stat").exists()
POLL_S = 0.01


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    if not HAS_PROC:
        return _ps("state", pid)[:1] not in {"", "Z"}
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


def command_line(pid: int) -> str:
    """The command and its arguments, or "" if there is no such process."""
    if not HAS_PROC:
        return _ps("command", pid)
    try:
        arguments = (PROC / str(pid) / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
    return arguments.replace("\0", " ").strip()


def children_of(pid: int) -> list[int]:
    """The ids of the direct children."""
    if not HAS_PROC:
        listing = _run_ps("-A", "-o", "pid=,ppid=")
        pairs = (line.split() for line in listing.splitlines())
        return [int(child) for child, parent in pairs if int(parent) == pid]
    every = (int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit())
    return [child for child in every if _stat_fields(child)[1:2] == [str(pid)]]


def wait_until_gone(pids: Iterable[int], timeout_s: float) -> bool:
    """Wait for processes to end; whether all did in time."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
    return True


def _stat_fields(pid: int) -> list[str]:
    """State, parent's id, … from proc_pid_stat(5); the name before them may hold anything."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _ps(column: str, pid: int) -> str:
    return _run_ps("-o", f"{column}=", "-p", str(pid))


def _run_ps(*arguments: str) -> str:
    return subprocess.run(
        ["ps", *arguments], capture_output=True, text=True, check=False
    ).stdout.strip()
