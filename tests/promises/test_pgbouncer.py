"""Behind PgBouncer in transaction mode, by one setting: the same promises, polling only."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from rowlock import Settings
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(2)]

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
"""


@pytest.fixture
def bouncer(database: str, server_folder: Path) -> Iterator[str]:
    """The URL of the test's database through a PgBouncer."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    parts = urlsplit(database)
    listen = (parts.port or 0) + 1000
    configuration = server_folder / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            password=parts.password,
            listen=listen,
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


def test_workers_and_clients_work_through_it(bouncer: str, sql: Sql) -> None:
    settings = Settings(database_url=bouncer, pgbouncer=True)
    environment = {"ROWLOCK_PGBOUNCER": "yes"}
    with sample.app.blocking_client(settings) as client:
        runs = client.start_many([sample.mixed(f"r{n}", n) for n in range(12)])
        with Worker(bouncer, environment=environment) as doomed:
            until(sql.at_least(6, "select count(*) from ledger"))
            doomed.kill()
        with Worker(bouncer, environment=environment) as worker:
            for run in runs:
                run.result(timeout=60)
            worker.terminate()
            assert worker.wait() == 0
    assert sql.one("select count(*) from ledger") == 36
    assert sql("select run, n from ledger group by run, n having count(*) > 1") == []
