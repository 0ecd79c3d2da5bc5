"""Starting, stopping, killing: what `rowlock dev` and the tests rely on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import postgres
from rowlock.embedded import Server, ServerDidNotStart
from rowlock.embedded.processes import command_line, is_alive
from rowlock.errors import ConfigurationError


@pytest.fixture
def own(server_folder: Path) -> Iterator[Server]:
    """A server of the test's own, not yet started."""
    server = postgres.make_server(server_folder / "data")
    yield server
    server.kill()


def remember(server: Server, word: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create table if not exists memory (word text)")
        connection.execute("insert into memory values (%s)", [word])


def recall(server: Server) -> list[str]:
    with psycopg.connect(server.url()) as connection:
        return [word for (word,) in connection.execute("select word from memory").fetchall()]


def test_a_started_server_has_a_database_named_rowlock_at_its_url(own: Server) -> None:
    with own:
        assert own.is_running
        with psycopg.connect(own.url()) as connection:
            row = connection.execute(
                "select current_database(), current_setting('server_encoding')"
            ).fetchone()
    assert row == ("rowlock", "UTF8")
    assert not own.is_running


def test_it_runs_with_the_settings_asked_for_and_is_durable_by_default(own: Server) -> None:
    with own, psycopg.connect(own.url()) as connection:
        for name, value in (
            postgres.SETTINGS | {"fsync": "on", "synchronous_commit": "on"}
        ).items():
            assert connection.execute(f"show {name}").fetchone() == (value,)
        addresses = connection.execute("show listen_addresses").fetchone()
    assert addresses == ("127.0.0.1",)


def test_start_and_stop_may_be_repeated(own: Server) -> None:
    own.start()
    pid = own.pid
    own.start()
    assert own.pid == pid
    own.stop()
    own.stop()
    assert own.pid is None


def test_data_and_port_survive_stop_and_start(own: Server) -> None:
    own.start()
    url = own.url()
    remember(own, "before")
    own.stop()
    own.start()
    assert recall(own) == ["before"]
    assert own.url() == url


def test_stop_cuts_off_whoever_is_connected(own: Server) -> None:
    own.start()
    with psycopg.connect(own.url()) as connection:
        own.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")


def test_a_frozen_server_is_stopped_all_the_same(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowlock.embedded.postmaster.IMMEDIATE_PATIENCE_S", 0.1)
    own.start()
    assert own.pid is not None
    os.kill(own.pid, signal.SIGSTOP)
    own.stop(timeout_s=0.1)
    assert not own.is_running
    own.start()


def test_after_kill_it_starts_at_once_although_a_query_was_running(own: Server) -> None:
    own.start()
    remember(own, "committed")
    with psycopg.connect(own.url()) as busy:
        backend = busy.info.backend_pid
        endless = threading.Thread(target=run_until_cut_off, args=[busy])
        endless.start()
        wait_until_active(own, backend)
        own.kill()
        endless.join()
        assert not own.is_running
        assert not is_alive(backend)
    own.start()
    assert recall(own) == ["committed"]


def run_until_cut_off(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select count(*) from generate_series(1, 1e15::bigint)")


def wait_until_active(server: Server, backend: int) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        query = "select state = 'active' from pg_stat_activity where pid = %s"
        while connection.execute(query, [backend]).fetchone() != (True,):
            pass


def test_it_starts_again_after_somebody_else_killed_it(own: Server) -> None:
    own.start()
    remember(own, "committed")
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    while own.is_running:
        pass
    own.start()
    assert recall(own) == ["committed"]


def test_restart_immediately_recovers_on_the_same_port(own: Server) -> None:
    own.start()
    url = own.url()
    remember(own, "committed")
    own.restart_immediately()
    assert own.url() == url
    assert recall(own) == ["committed"]
    assert "was not properly shut down" in own.log_path.read_text()


def test_a_second_server_on_the_same_folder_is_refused(own: Server) -> None:
    own.start()
    second = postgres.make_server(own.data_dir)
    with pytest.raises(ConfigurationError, match=f"in use: process {os.getpid()} runs a server"):
        second.start()
    assert own.is_running
    own.stop()
    with second:
        assert second.is_running


def test_the_server_outlives_the_thread_that_started_it(own: Server) -> None:
    starter = threading.Thread(target=own.start)
    starter.start()
    starter.join()
    remember(own, "still there")
    assert own.is_running


def test_ctrl_c_reaches_us_and_not_the_server(own: Server) -> None:
    own.start()
    assert own.pid is not None
    assert os.getsid(own.pid) != os.getsid(0)


def test_nobody_gets_in_without_the_password(own: Server) -> None:
    with own, pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=own.port, user="postgres", dbname="rowlock")


def test_the_password_is_shown_nowhere(own: Server) -> None:
    own.start()
    password = psycopg.conninfo.conninfo_to_dict(own.url())["password"]
    assert isinstance(password, str)
    assert len(password) >= 32
    assert password not in repr(own)
    assert own.pid is not None
    assert password not in command_line(own.pid)
    own.stop()
    assert password not in own.log_path.read_text()
    file = own.data_dir / "password"
    assert file.read_text() == password
    assert file.stat().st_mode & 0o077 == 0


def test_a_setting_postgres_refuses_is_told_in_its_own_words(server_folder: Path) -> None:
    broken = postgres.make_server(server_folder / "data", {"shared_buffers": "many"})
    with pytest.raises(
        ServerDidNotStart, match='invalid value for parameter "shared_buffers"'
    ) as e:
        broken.start()
    assert e.value.log_path == broken.log_path
    assert not broken.is_running


def test_a_taken_port_is_told_but_a_port_of_its_own_choice_is_not_insisted_on(
    own: Server, server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.start()
    insisting = Server(server_folder / "other", port=own.port)
    with pytest.raises(ServerDidNotStart, match="Address already in use"):
        insisting.start()
    ports = iter([own.port, own.port + 1])
    monkeypatch.setattr("rowlock.embedded.server.free_port", lambda: next(ports))
    with Server(server_folder / "other") as flexible:
        assert flexible.port == own.port + 1


def test_the_url_before_the_first_start_is_refused(own: Server) -> None:
    with pytest.raises(ConfigurationError, match=r"Call start\(\) first"):
        own.url()
