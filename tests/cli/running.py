"""Run `rowlock` as people do: as processes, in a folder of their own."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg

from rowlock.embedded.processes import children_of, is_alive, wait_until_gone

T = TypeVar("T")

PATIENCE_S = 60.0
"""Far more than anything takes: a test that waits this long has failed."""
POLL_S = 0.05

SHOP = """
import asyncio
import time
from datetime import timedelta
from pathlib import Path

from rowlock import App, Retry

app = App("shop")


@app.step
async def add(a: int, b: int) -> int:
    return a + b


@app.step
async def break_down() -> None:
    raise ValueError("the oven is \\x1b[31mcold")


@app.step
def hold(folder: str) -> str:
    Path(folder, "began").touch()
    until = time.monotonic() + 120
    while not Path(folder, "go").exists() and time.monotonic() < until:
        time.sleep(0.02)
    return "held"


@app.workflow
async def sums(a: int, b: int = 2) -> int:
    return await add(a, b)


@app.workflow
async def fails() -> None:
    await break_down()


@app.workflow
async def holds(folder: str) -> str:
    return await hold.in_thread(folder)


@app.workflow
async def naps(seconds: float) -> str:
    await app.sleep(seconds)
    return "rested"


@app.step
async def check(folder: str) -> str:
    if not Path(folder, "mended").exists():
        raise ValueError("broken")
    return "whole"


@app.workflow
async def mendable(folder: str, a: int = 1) -> str:
    total = await add(a, 1)
    return f"{await check(folder)} {total}"


@app.workflow
async def asks(what: str = "") -> str:
    await app.set_event("asked", what)
    answer = await app.receive("answer", str)
    return f"{what}: {answer}"


@app.workflow
async def parent(children: int) -> int:
    first = await sums(1)
    await app.map([sums(n) for n in range(children)])
    await app.receive("end", str)
    return first


@app.workflow
async def grandparent(children: int) -> int:
    return await parent(children)


@app.step(retry=Retry(attempts=9, first_delay=timedelta(minutes=4)))
async def tried_again() -> None:
    raise ValueError("busy \\x1b[31m")


@app.workflow
async def branches() -> None:
    await add(1, 2)
    await asyncio.gather(branch(1), branch(2), tried_again(), app.receive("go", str))


async def branch(n: int) -> None:
    await add(n, n)
    await app.sleep(n * 3600)
"""


def eventually(condition: Callable[[], T], within_s: float = PATIENCE_S) -> T:
    """The first true answer; fails when there is none in time."""
    until = time.monotonic() + within_s
    while not (answer := condition()):
        assert time.monotonic() < until, f"not within {within_s:g} s: {condition}"
        time.sleep(POLL_S)
    return answer


def environment(database: str | None, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROWLOCK_")}
    url = {} if database is None else {"ROWLOCK_DATABASE_URL": database}
    return kept | url | more


def rowlock(
    *args: str, database: str | None = None, cwd: Path | None = None, stdin: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "rowlock", *args],
        env=environment(database, **more),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def rowlock_json(*args: str, database: str) -> Any:
    """What a command writes with --json; it must succeed."""
    done = rowlock(*args, "--json", database=database)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Running:
    """A command that goes on until it is told to end; its output is in files."""

    def __init__(self, folder: Path, *args: str, database: str | None = None, **more: str) -> None:
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rowlock", *args],
                env=environment(database, **more),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def output(self) -> str:
        return self._out.read_text()

    @property
    def errors(self) -> str:
        return self._err.read_text()

    def children(self) -> list[int]:
        return children_of(self.process.pid)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        """Wait for its end."""
        return self.process.wait(PATIENCE_S)


@contextmanager
def running(
    folder: Path, *args: str, database: str | None = None, **more: str
) -> Iterator[Running]:
    """A command that is ended with the test, and its children with it."""
    command = Running(folder, *args, database=database, **more)
    family: list[int] = []
    try:
        yield command
    except BaseException:
        print(command.output, command.errors, sep="\n")
        raise
    finally:
        if is_alive(command.process.pid):
            family = command.children()
        command.process.kill()
        command.process.wait()
        if not wait_until_gone(family, 5.0):
            for pid in filter(is_alive, family):
                os.kill(pid, signal.SIGKILL)


def ask(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    """The HTTP status and the body; status 0 if nobody answers."""
    try:
        with urlopen(Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def query(database: str, sql: str) -> list[tuple[Any, ...]]:
    """Look into the database."""
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


class Terminal:
    """A command on a terminal of its own: what it shows, and what is typed."""

    def __init__(self, *args: str, database: str, columns: int = 120, lines: int = 40) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rowlock", *args],
            env=environment(
                database,
                TERM="xterm-256color",
                NO_COLOR="1",
                COLUMNS=str(columns),
                LINES=str(lines),
            ),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._shown = b""
        self._is_open = True

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def shown(self) -> str:
        """All that it has shown until now."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def shows(self, text: str) -> str:
        """Wait until it shows this from now on; gives what it has shown since."""
        seen = len(self._shown)
        until = time.monotonic() + PATIENCE_S
        while text.encode() not in self._shown[seen:]:
            assert time.monotonic() < until, f"it never showed {text!r}: {self.shown()[-2000:]}"
            assert self._read(1.0), f"it ended without {text!r}: {self.shown()[-2000:]}"
        return self._shown[seen:].decode(errors="replace")

    def end(self) -> int:
        """Read to its end; gives the exit code."""
        until = time.monotonic() + PATIENCE_S
        while self._read(1.0):
            assert time.monotonic() < until, f"it did not end: {self.shown()[-2000:]}"
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)

    def _read(self, within_s: float) -> bool:
        """Whether there may be more to come."""
        if select.select([self._ours], [], [], within_s)[0]:
            try:
                self._shown += os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return False
        return True


@contextmanager
def on_a_terminal(*args: str, database: str, **size: int) -> Iterator[Terminal]:
    """A command on a terminal, ended with the test."""
    terminal = Terminal(*args, database=database, **size)
    try:
        yield terminal
    finally:
        terminal.close()


def rowlock_on_a_terminal(*args: str, database: str, typed: str = "") -> tuple[int, str]:
    """Run a command on a terminal to its end; gives the exit code and all that it showed."""
    with on_a_terminal(*args, database=database) as terminal:
        terminal.type(typed)
        code = terminal.end()
        return code, terminal.shown()


def status_of(database: str, run_id: str) -> str:
    [(status,)] = query(database, f"select status from rowlock.runs where run_id = '{run_id}'")
    return str(status)


def start(database: str, *args: str) -> str:
    """Start a run; gives its id."""
    done = rowlock("start", *args, database=database)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
