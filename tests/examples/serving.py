"""Web servers as their users run them: processes, on sockets of their own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
POLL_S = 0.05


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Process:
    """A command with its log; ended, whatever happens, when the block ends."""

    def __init__(self, *command: str, folder: Path, database: str, **environment: str) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        python = [sys.executable] if command[0].endswith(".py") else [sys.executable, "-m"]
        self._process = subprocess.Popen(
            [*python, *command],
            cwd=folder,
            env={**os.environ, "ROWLOCK_DATABASE_URL": database, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        return Path(self._log.name).read_text()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait; its exit code (negative: the signal)."""
        self._process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if kind is not None:
            print(f"--- {self._process.args!r}\n{self.said}")
        self._log.close()


class Server(Process):
    """One that answers HTTP at ``http``. ``{port}`` in its command is its port."""

    def __init__(self, *command: str, **options: Any) -> None:
        self.port = free_port()
        super().__init__(*(part.format(port=self.port) for part in command), **options)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE_S)

    def __exit__(self, *error: Any) -> None:
        self.http.close()
        super().__exit__(*error)

    def wait_until_it_answers(self) -> None:
        """Anything at all."""
        self._until(lambda: self.http.get("/"))

    def get(self, path: str, wanted: Any = None) -> Any:
        """What it answers, waiting until it does; and until that is what is wanted."""

        def answer() -> Any:
            found = self.http.get(path)
            return found.is_success and wanted in (None, found.json()) and found

        return self._until(answer).json()

    def _until(self, answer: Callable[[], Any]) -> Any:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            assert self._process.poll() is None, self.said
            with suppress(httpx.TransportError):  # it is not there yet
                if found := answer():
                    return found
            time.sleep(POLL_S)
        raise AssertionError(f"it never came about:\n{self.said}")
