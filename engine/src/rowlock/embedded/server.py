"""One Postgres server as a child of this process.

Reads: binaries.py (what to run), cluster.py (the data folder), lock.py (whose it is),
postmaster.py (is it ready).  Writes: the data folder, server.log in it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from rowlock.embedded import cluster, postmaster
from rowlock.embedded.account import server_account
from rowlock.embedded.binaries import find_binaries
from rowlock.embedded.lock import FolderLock
from rowlock.embedded.ports import HOST, free_port
from rowlock.embedded.processes import wait_until_gone
from rowlock.embedded.watcher import Watcher
from rowlock.errors import ConfigurationError, RowlockError

START_TIMEOUT_S = 60.0  # recovery after a crash replays up to max_wal_size first
POLL_S = 0.01

# A development database is still somebody's data: nothing here trades durability for speed.
DEFAULT_SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_connections": "200",
    "log_lock_waits": "on",
    "log_line_prefix": "%m [%p] %q%a ",
}


class ServerDidNotStart(RowlockError):
    """Postgres ended, or wasn't ready in time; ``log_path`` and ``last_words`` say why."""

    def __init__(self, log_path: Path, why: str, last_words: str) -> None:
        self.log_path = log_path
        self.last_words = last_words
        super().__init__(
            f"the development server {why}. Its log, {log_path}, ends with:\n{last_words}"
        )


class Server:
    """A Postgres on 127.0.0.1 with its data in ``data_dir``, which is made if need be.

    ``port``: None takes a free one at the first start and keeps it for this object's life, so
    that URLs stay true over a restart. ``settings`` are server settings on top of
    DEFAULT_SETTINGS. ``bin_dir``: another version's binaries than the embedded ones.

    The server ends with this process, even if that is killed with -9 (watcher.py). Not
    thread-safe: one owner starts and stops it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = {},
        bin_dir: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.log_path = self.data_dir / "server.log"
        self._port = port
        self._settings = dict(settings)
        self._bin_dir = bin_dir
        self.bin_dir = bin_dir or Path()
        """Where the server's programs are, psql and pgbench too; known after the first start."""
        self._account = server_account()
        self._lock = FolderLock(self.data_dir / "lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._launched_at = 0.0
        self._watcher: Watcher | None = None

    def __repr__(self) -> str:
        return f"Server({str(self.data_dir)!r}, port={self._port}, is_running={self.is_running})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of the postmaster's process, None if there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def port(self) -> int:
        """The port the server listens on, or listened on last."""
        if self._port is None:
            raise ConfigurationError(
                f"the server in {self.data_dir} has no port yet: it takes one when it starts. "
                "Call start() first."
            )
        return self._port

    def url(self, dbname: str = cluster.DATABASE) -> str:
        """A connection URL for the superuser, password included: keep it out of logs."""
        address = f"{HOST}:{self.port}/{quote(dbname, safe='')}"
        password = cluster.read_password(self.data_dir)
        return f"postgresql://{cluster.SUPERUSER}:{password}@{address}"

    def start(self) -> None:
        """Start, and return when connections are accepted; nothing happens if it runs.

        A server that a killed process left behind on this folder is stopped first. Raises
        ConfigurationError if a living process uses the folder, or if folder or binaries can't be
        used; ServerDidNotStart with the log's last lines if Postgres gives up.
        """
        if self.is_running:
            return
        self._forget_process()
        try:
            self._start()
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = postmaster.FAST_PATIENCE_S) -> None:
        """Shut down: connections are cut, data is written. After ``timeout_s`` less gently."""
        self._shut_down(postmaster.FAST, timeout_s)

    def restart_immediately(self) -> None:
        """Crash in an orderly way (SIGQUIT: nothing is written), start and recover."""
        self._shut_down(postmaster.IMMEDIATE, postmaster.IMMEDIATE_PATIENCE_S)
        self.start()

    def kill(self) -> None:
        """End everything at once with SIGKILL, as a power cut would; start() works right after."""
        if self._process is not None and self.is_running:
            children = postmaster.kill_with_children(self._process.pid)
            self._process.wait()
            wait_until_gone(children, postmaster.KILL_PATIENCE_S)
        self._forget_process()

    def _shut_down(self, how: signal.Signals, patience_s: float) -> None:
        steps = [(how, patience_s), (postmaster.IMMEDIATE, postmaster.IMMEDIATE_PATIENCE_S)]
        for number, seconds in steps:
            if self._process is not None and self.is_running:
                self._process.send_signal(number)
                try:
                    self._process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        self.kill()

    def _forget_process(self) -> None:
        if self._watcher is not None:
            self._watcher.dismiss()
        self._watcher = self._process = None
        self._lock.release()

    def _start(self) -> None:
        cluster.make_data_folder(self.data_dir, self._account)
        self._lock.acquire()
        bin_dir = find_binaries(self._account, bin_dir=self._bin_dir, copies=self.data_dir)
        self.bin_dir = bin_dir
        folder = cluster.make_cluster(self.data_dir, bin_dir, self._account)
        postmaster.end_leftover(folder)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            port = self._port if self._port is not None else free_port()
            said_before = self._log_size()
            self._launch(bin_dir, folder, port)
            why = self._wait_until_ready(folder, deadline)
            if why is None:
                self._port = port
                return
            last_words = self._log_since(said_before)
            if not self._worth_another_try(last_words) or time.monotonic() > deadline:
                raise ServerDidNotStart(self.log_path, why, "\n".join(last_words[-12:]))
            time.sleep(POLL_S)

    def _launch(self, bin_dir: Path, folder: Path, port: int) -> None:
        where = {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": ""}
        settings = {**DEFAULT_SETTINGS, **self._settings, **where}
        options = [f"--{name}={value}" for name, value in settings.items()]
        fd = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as log:
            self._launched_at = time.time()
            self._process = subprocess.Popen(
                [bin_dir / "postgres", "-D", folder, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=cluster.clean_environment(),
                start_new_session=True,  # Ctrl-C is for us: we stop the server when we are done
                user=self._account.user,
                group=self._account.group,
                extra_groups=self._account.extra_groups,
            )
        if self._watcher is not None:
            self._watcher.dismiss()
        self._watcher = Watcher(self._process.pid, self._account)

    def _wait_until_ready(self, folder: Path, deadline: float) -> str | None:
        """None when it is ready, else what went wrong."""
        assert self._process is not None
        while not postmaster.is_ready(folder, self._process.pid, self._launched_at):
            if self._process.poll() is not None:
                return f"ended with status {self._process.returncode} while starting"
            if time.monotonic() > deadline:
                return f"was not ready within {START_TIMEOUT_S:g} s"
            time.sleep(POLL_S)
        return None

    def _worth_another_try(self, last_words: list[str]) -> bool:
        """Whether the reason passes by itself, or another port will do."""
        said = "\n".join(last_words)
        # Backends of a postmaster that somebody else killed go away when their query ends.
        if "pre-existing shared memory block" in said:
            return True
        return self._port is None and "Address already in use" in said

    def _log_size(self) -> int:
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def _log_since(self, offset: int) -> list[str]:
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace").splitlines()
