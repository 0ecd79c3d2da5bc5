"""End the server when our own process is killed.

A `rowlock dev` killed with -9 can't clean up. A small shell waits on a pipe that only our process
holds open: the kernel closes it when we die, whatever the cause, and the shell then asks the
server for a fast shutdown. Linux' PR_SET_PDEATHSIG would need code between fork and exec, fires
when the *thread* that started the server ends, and macOS has no such thing.
"""

from __future__ import annotations

import subprocess

from rowlock.embedded.account import Account

SCRIPT = 'read -r dismissed || kill -INT "$1"'


class Watcher:
    """The shell that outlives us; ``dismiss`` it once the server has ended in good order."""

    def __init__(self, server_pid: int, account: Account) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "rowlock-watcher", str(server_pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # what kills our process group must not kill the watcher
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )

    def dismiss(self) -> None:
        """Let the shell end without touching anything."""
        self._shell.communicate(b"dismissed\n")
