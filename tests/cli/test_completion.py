"""What a shell completes, asked of a real bash with the script of `rowlock completion`."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import rowlock as library
from cli.running import PATIENCE_S, environment, query, rowlock
from rowlock.cli.main import COMMANDS

ASK = """
eval "$(cat "$1")"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_rowlock_completion rowlock
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the user puts where bash finds it."""
    done = rowlock("completion", "bash")
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path_factory.mktemp("completion") / "rowlock.bash"
    path.write_text(done.stdout)
    return path


@pytest.fixture
def bash(bash_script: Path, tmp_path: Path) -> Bash:
    """A bash that finds `rowlock` on its path."""
    command = tmp_path / "rowlock"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rowlock "$@"\n')
    command.chmod(0o755)
    return Bash(bash_script, tmp_path)


class Bash:
    def __init__(self, script: Path, path: Path) -> None:
        self._script = script
        self._path = path

    def __call__(self, line: str, *, database: str | None = None) -> list[str]:
        """What is offered at the end of a line."""
        words = [*line.split(" ")[:-1], line.split(" ")[-1]]
        given = environment(database)
        done = subprocess.run(
            ["bash", "--norc", "-c", ASK, "bash", str(self._script), *words],
            env={**given, "PATH": f"{self._path}:{given['PATH']}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        assert done.stderr == ""
        return [offer for offer in done.stdout.splitlines() if offer]


def test_commands_are_completed_with_those_of_groups(bash: Bash) -> None:
    assert set(bash("rowlock ")) == set(COMMANDS)
    assert bash("rowlock re") == [name for name in COMMANDS if name.startswith("re")]
    assert bash("rowlock event ") == ["get", "set"]
    assert "worker-process" not in bash("rowlock wor")


def test_options_and_the_words_they_take_are_completed(bash: Bash) -> None:
    assert bash("rowlock list --st") == ["--status"]
    assert bash("rowlock list --status f") == ["failed"]
    assert "--reason" in bash("rowlock cancel --")
    assert bash("rowlock completion ") == ["bash", "zsh", "fish"]


def test_names_come_from_the_database(bash: Bash, database: str) -> None:
    app = library.App("shop")
    app.queue("payments")

    @app.workflow
    async def fulfil() -> None: ...

    @app.workflow
    async def refund() -> None: ...

    for one in (app, library.App("bank")):
        with one.blocking_client(library.Settings(database_url=database)):
            pass
    # Whoever registers a workflow must not be able to put a command into somebody's line.
    for name in ("fu$(reboot)", "fu;ls", "fu\nx", "fu x", "-fu", "fu\x1b[2J"):
        query(
            database,
            "insert into rowlock.workflow (app, name, queue)"
            f" values ('shop', E'{name}', 'default') returning 1",
        )
    assert bash("rowlock list --workflow ", database=database) == ["fulfil", "refund"]
    assert bash("rowlock start ful", database=database) == ["fulfil"]
    assert bash("rowlock list --queue p", database=database) == ["payments"]
    assert bash("rowlock cancel --app s", database=database) == ["shop"]
    assert bash("rowlock list --app bank --workflow ", database=database) == []
    assert bash("rowlock list --workflow ") == []


def test_a_database_that_does_not_answer_is_not_waited_for(bash: Bash) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x"
        assert bash("rowlock list --workflow ", database=url) == []
        assert bash("rowlock list --status f", database=url) == ["failed"]
    assert bash("rowlock list --workflow ", database="no=such=url") == []


@pytest.mark.parametrize(("shell", "said"), [("zsh", "#compdef rowlock"), ("fish", "complete ")])
def test_other_shells_have_a_script_too(shell: str, said: str) -> None:
    done = rowlock("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout
    assert "_ROWLOCK_COMPLETE" in done.stdout


def test_another_shell_is_a_usage_error() -> None:
    done = rowlock("completion", "csh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
