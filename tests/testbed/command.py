"""Run other programs: quietly when they succeed, with their last words when they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

TAIL_LINES = 25
DEFAULT_TIMEOUT_S = 300.0


class TestbedError(Exception):
    """The testbed can't do what was asked; the message says why and what to do."""

    __test__ = False  # pytest collects what is called Test…


class CommandFailed(TestbedError):
    """A program ended with an error; carries what it printed."""

    def __init__(self, command: list[str], status: int, output: str) -> None:
        self.command = command
        self.status = status
        self.output = output
        super().__init__(f"`{' '.join(command)}` ended with status {status}:\n{tail(output)}")


def run(
    *command: str | Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> str:
    """What `command` prints to its standard output. `env` comes on top of our own."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise TestbedError(f"`{words[0]}` is not installed.") from error
    except subprocess.TimeoutExpired as error:
        said = _text(error.stdout) + _text(error.stderr)
        raise CommandFailed(words, -1, f"{said}\nnot done within {timeout_s:.0f} s") from error
    if done.returncode:
        raise CommandFailed(words, done.returncode, done.stderr + done.stdout)
    return done.stdout


def succeeds(*command: str | Path) -> bool:
    """Whether `command` works; for asking, and for clean-ups of what may not be there."""
    try:
        run(*command)
    except TestbedError:
        return False
    return True


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of what a program wrote."""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def tail_of(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, headed by its name, for an error's message."""
    text = log.read_text(errors="replace") if log.exists() else "(it wrote nothing)"
    return f"--- the end of {log}:\n{tail(text, lines)}"


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
