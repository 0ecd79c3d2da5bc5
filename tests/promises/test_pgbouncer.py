"""Behind PgBouncer in transaction mode, by one setting: the same promises, polling only."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from cli.running import SHOP, rowlock, running
from pooler import pgbouncer
from rowlock import Settings
from rowlock.embedded.ports import free_port
from telemetry.pages import page_when
from workers import sample
from workers.process import Worker
from workers.until import Sql, until

pytestmark = [pytest.mark.promise(1), pytest.mark.promise(2)]

ENVIRONMENT = {"ROWLOCK_PGBOUNCER": "yes"}


@pytest.fixture
def bouncer(database: str, server_folder: Path) -> Iterator[str]:
    """The URL of the test's database through a PgBouncer."""
    with pgbouncer(database, server_folder) as url:
        yield url


def test_workers_and_clients_work_through_it(bouncer: str, sql: Sql) -> None:
    settings = Settings(database_url=bouncer, pgbouncer=True)
    with sample.app.blocking_client(settings) as client:
        runs = client.start_many([sample.mixed(f"r{n}", n) for n in range(12)])
        with Worker(bouncer, environment=ENVIRONMENT) as doomed:
            until(sql.at_least(6, "select count(*) from ledger"))
            doomed.kill()
        with Worker(bouncer, environment=ENVIRONMENT) as worker:
            for run in runs:
                run.result(timeout=60)
            worker.terminate()
            assert worker.wait() == 0
    assert sql.one("select count(*) from ledger") == 36
    assert sql("select run, n from ledger group by run, n having count(*) > 1") == []


def test_sync_workflows_and_sync_transactions_work_through_it(bouncer: str, sql: Sql) -> None:
    settings = Settings(database_url=bouncer, pgbouncer=True)
    with sample.app.blocking_client(settings) as client:
        sync = [client.start(sample.sync_mixed(f"s{n}")) for n in range(5)]
        killed = client.start(sample.killed_in_a_transaction("killed"))
        with Worker(bouncer, environment=ENVIRONMENT) as doomed:
            doomed.wait()  # its transaction kills it, before the commit
        with Worker(bouncer, environment=ENVIRONMENT) as worker:
            assert [run.result(timeout=60) for run in sync] == [3] * 5
            assert killed.result(timeout=60) == 3
            worker.terminate()
            assert worker.wait() == 0
    written = "select run, array_agg(n order by n) from ledger group by run order by run"
    assert sql(written) == [("killed", [1, 2, 3]), *((f"s{n}", [1, 2]) for n in range(5))]


async def test_a_start_rides_in_its_callers_transaction_through_it(bouncer: str, sql: Sql) -> None:
    settings = Settings(database_url=bouncer, pgbouncer=True)
    connecting = psycopg.AsyncConnection.connect(bouncer, prepare_threshold=None)
    async with sample.app.client(settings) as client, await connecting as own:
        kept = await client.start(sample.echo(1), key="kept", connection=own)
        await own.commit()
        await client.start(sample.echo(2), key="dropped", connection=own)
        await own.rollback()
        with Worker(bouncer, environment=ENVIRONMENT) as worker:
            assert await kept.result(timeout=60) == 1
            assert [info.key for info in await client.runs()] == ["kept"]
            worker.terminate()
            assert await asyncio.to_thread(worker.wait) == 0
    assert sql.one("select count(*) from rowlock.run") == 1


def test_commands_work_through_it(bouncer: str, empty_database: str, tmp_path: Path) -> None:
    empty = f"{bouncer.rpartition('/')[0]}{urlsplit(empty_database).path}"
    done = rowlock("migrate", database=empty, ROWLOCK_PGBOUNCER="yes")
    assert done.returncode == 0, done.stderr
    (tmp_path / "shop.py").write_text(SHOP)
    port = free_port()
    options = (f"--port={port}", "--log-format=text")
    with (
        running(tmp_path, "worker", "shop:app", database=empty, **ENVIRONMENT) as worker,
        running(tmp_path, "exporter", *options, database=empty, **ENVIRONMENT),
    ):
        page_when(port, lambda page: page.value("rowlock_workers", state="alive") == 1)
        asked = ("start", "sums", "--arg", "a=1", "--wait")
        done = rowlock(*asked, database=empty, ROWLOCK_PGBOUNCER="yes")
        assert (done.returncode, done.stdout.strip()) == (0, "3"), done.stderr
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
