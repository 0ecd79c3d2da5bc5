"""A PgBouncer before a test's database."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from rowlock.embedded.ports import free_port
from workers.until import until

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 8
max_client_conn = 200
ignore_startup_parameters = {ignored}
"""


@contextmanager
def pgbouncer(
    database: str, folder: Path, *, mode: str = "transaction", ignored: str = "extra_float_digits"
) -> Iterator[str]:
    """The URL of a database through a PgBouncer of its own; skips the test where there is none.

    ``ignored``: parameters of a new session that it passes over instead of refusing them.
    """
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts = urlsplit(database)
    listen = free_port()
    configuration = folder / f"pgbouncer-{listen}.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            password=parts.password,
            listen=listen,
            mode=mode,
            ignored=ignored,
        )
    )
    configuration.chmod(0o644)
    nobody = pwd.getpwnam("nobody")
    as_nobody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    process = subprocess.Popen(
        [PGBOUNCER, "-q", str(configuration)],
        stderr=subprocess.DEVNULL,
        **(as_nobody if os.geteuid() == 0 else {}),  # type: ignore[call-overload]
    )
    url = f"postgresql://{parts.username}@127.0.0.1:{listen}{parts.path}"

    def answers() -> bool:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        until(answers, deadline_s=20)
        yield url
    finally:
        process.terminate()
        process.wait(20)
