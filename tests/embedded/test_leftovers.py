"""What a killed process leaves behind never hinders the next start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import postgres
from rowlock.embedded.processes import is_alive, wait_until_gone
from rowlock.errors import ConfigurationError

OWNER = """
import sys
from pathlib import Path
import postgres
from rowlock.embedded import watcher
watcher.SCRIPT = sys.argv[2] or watcher.SCRIPT
server = postgres.make_server(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
sys.stdin.read()
"""
A_WATCHER_THAT_DOES_NOTHING = "read -r dismissed"
GONE_WITHIN_S = 20.0


def start_in_a_process_and_kill_that(data_dir: Path, watcher_script: str = "") -> int:
    """The id of a server whose owner was killed with -9."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, data_dir, watcher_script],
        cwd=Path(postgres.__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        server_pid = int(owner.stdout.readline())
        owner.kill()
    return server_pid


def test_the_server_ends_when_its_owner_is_killed(server_folder: Path) -> None:
    pid = start_in_a_process_and_kill_that(server_folder / "data")
    assert wait_until_gone([pid], GONE_WITHIN_S)


def test_the_next_start_does_not_wait_for_anyone_after_a_killed_owner(server_folder: Path) -> None:
    start_in_a_process_and_kill_that(server_folder / "data")
    with postgres.make_server(server_folder / "data") as server, psycopg.connect(server.url()) as c:
        assert c.execute("select 1").fetchone() == (1,)


def test_an_orphan_whose_watcher_died_too_is_replaced(server_folder: Path) -> None:
    orphan = start_in_a_process_and_kill_that(server_folder / "data", A_WATCHER_THAT_DOES_NOTHING)
    assert is_alive(orphan)
    with postgres.make_server(server_folder / "data") as server:
        assert not is_alive(orphan)
        assert server.pid != orphan


def test_a_frozen_orphan_is_replaced(server_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowlock.embedded.postmaster.FAST_PATIENCE_S", 0.1)
    monkeypatch.setattr("rowlock.embedded.postmaster.IMMEDIATE_PATIENCE_S", 0.1)
    orphan = start_in_a_process_and_kill_that(server_folder / "data", A_WATCHER_THAT_DOES_NOTHING)
    os.kill(orphan, signal.SIGSTOP)
    with postgres.make_server(server_folder / "data"):
        assert not is_alive(orphan)


def test_another_programs_process_with_the_old_servers_id_is_left_alone(
    server_folder: Path,
) -> None:
    server = postgres.make_server(server_folder / "data")
    server.start()
    note = (server.data_dir / "cluster" / "postmaster.pid").read_text()
    server.kill()
    with subprocess.Popen(["sleep", "600"]) as innocent:
        reused = note.replace(note.split()[0], str(innocent.pid), 1)
        (server.data_dir / "cluster" / "postmaster.pid").write_text(reused)
        with server:
            assert server.is_running
        assert innocent.poll() is None
        innocent.kill()


def test_a_first_start_that_was_cut_off_begins_again(server_folder: Path) -> None:
    unfinished = server_folder / "data" / "cluster.unfinished"
    unfinished.mkdir(parents=True)
    (server_folder / "data").chmod(0o711)
    (unfinished / "PG_VERSION").write_text("18\n")
    with postgres.make_server(server_folder / "data") as server:
        assert server.is_running
    assert not unfinished.exists()


def test_data_of_another_version_is_not_touched(server_folder: Path) -> None:
    server = postgres.make_server(server_folder / "data")
    with server:
        pass
    version = server.data_dir / "cluster" / "PG_VERSION"
    version.write_text("9\n")
    with pytest.raises(ConfigurationError, match=r"belongs to PostgreSQL 9, the binaries in"):
        server.start()
    assert version.read_text() == "9\n"
