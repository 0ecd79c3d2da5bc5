"""Read `postmaster.pid`, and end servers for good.

The file is Postgres' own note in its data folder (src/include/utils/pidfile.h): line 1 is the
server's process id, line 3 when it started, line 8 its status, which `pg_ctl -w` waits on too.
Reading it beats asking the port, where somebody else's server may answer.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from rowlock.embedded.processes import children_of, command_line, is_alive, wait_until_gone
from rowlock.errors import ConfigurationError

FAST, IMMEDIATE = signal.SIGINT, signal.SIGQUIT
FAST_PATIENCE_S = 10.0
IMMEDIATE_PATIENCE_S = 6.0  # Postgres itself kills what is left after 5 s
KILL_PATIENCE_S = 10.0
CLOCK_SLACK_S = 2.0  # pg_ctl allows as much between two readings of the clock


def is_ready(cluster: Path, pid: int, launched_at: float) -> bool:
    """Whether the server launched at this time (epoch seconds) accepts connections.

    The time matters in containers, where a restart gives out the same process ids again and the
    note of the crashed server says "ready" under the new one's id.
    """
    lines = _lines(cluster)
    if len(lines) < 8 or lines[0] != str(pid) or lines[7].strip() != "ready":
        return False
    return int(lines[2]) >= launched_at - CLOCK_SLACK_S


def end_leftover(cluster: Path) -> None:
    """End the server that a dead owner left on this folder. Only the folder's owner may call this.

    A process id alone proves nothing after a reboot: another program may have it now. And a dead
    server's id stays taken in a container whose first process reaps nobody. Postgres refuses to
    start in both cases, so there the note is removed. Else it stays: what it says about the
    shared memory leads Postgres to backends left behind.
    """
    lines = _lines(cluster)
    if not lines or not lines[0].strip().isdigit() or not _is_taken(int(lines[0])):
        return
    pid = int(lines[0])
    command = command_line(pid) if is_alive(pid) else ""
    if "postgres" in command and str(cluster) not in command:
        return  # most likely another folder's server: let Postgres judge
    if "postgres" in command:
        _end(pid)
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def kill_with_children(pid: int) -> list[int]:
    """SIGKILL a server and all its backends, as a power cut would; returns the backends' ids.

    Backends outlive a killed postmaster for as long as their query runs, and the next start
    refuses while one is attached to the shared memory. The postmaster is stopped first, so that
    it can neither start new ones nor reap these, which would free their ids for others.
    """
    _signal(pid, signal.SIGSTOP)
    children = children_of(pid)
    for each in (pid, *children):
        _signal(each, signal.SIGKILL)
    return children


def _end(pid: int) -> None:
    for how, patience_s in ((FAST, FAST_PATIENCE_S), (IMMEDIATE, IMMEDIATE_PATIENCE_S)):
        _signal(pid, how)
        if wait_until_gone([pid], patience_s):
            return
    if not wait_until_gone([*kill_with_children(pid), pid], KILL_PATIENCE_S):
        raise ConfigurationError(
            f"a development server left behind (process {pid}) can't be stopped, so its data "
            f"folder can't be used. End process {pid}, or use another data folder."
        )


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _is_taken(pid: int) -> bool:
    """What Postgres looks at: whether the id is in use, be it by a process not yet reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _lines(cluster: Path) -> list[str]:
    try:
        return (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
