"""One worker process without a parent: signals go to the process that works.

with Worker(database, "workers.sample:app", slots=10) as worker:
    worker.freeze(); worker.thaw(); worker.kill()
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

TESTS = Path(__file__).parent.parent
DEADLINE_S = 60.0


class Worker:
    """A process that runs one WorkerProcess; ended, whatever happens, when the block ends."""

    def __init__(
        self,
        database: str,
        app: str = "workers.sample:app",
        *,
        slots: int = 20,
        lease_s: float = 2.0,
        poll_s: float = 0.5,
        version: str = "",
        grace_s: float = 10.0,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "workers.main", app, str(slots), str(grace_s)],
            cwd=TESTS,
            env={
                **os.environ,
                "ROWLOCK_DATABASE_URL": database,
                "ROWLOCK_LEASE_SECONDS": str(lease_s),
                "ROWLOCK_POLL_SECONDS": str(poll_s),
                "ROWLOCK_VERSION": version,
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: no goodbye of any kind."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP: it stands still in the middle of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self._process.terminate()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """Wait until it has ended; its exit code (negative: the signal)."""
        return self._process.wait(timeout_s)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self.is_alive:
            self.thaw()
            self.kill()
        if kind is not None:
            sys.stderr.write(f"--- log of worker {self.pid}\n{self.log[-8000:]}\n")
        self._log.close()
