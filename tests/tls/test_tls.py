"""With sslmode=verify-full all of Rowlock speaks to the right server only, over TLS only."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cli.running import SHOP, ask, eventually, rowlock, running
from rowlock import App, Settings
from rowlock.embedded.ports import free_port
from rowlock.errors import Disconnected
from rowlock.store.migrate import migrate
from telemetry.pages import page_when, scrape
from tls.conftest import SecureServer
from workers import sample
from workers.looking import looking_into
from workers.process import Worker
from workers.until import Sql, until

UNREACHABLE = 5
FAR_BEYOND_THE_TEST_S = 300.0

SESSIONS = """
select a.application_name, s.ssl, s.client_dn
  from pg_stat_activity a join pg_stat_ssl s using (pid)
 where a.datname = current_database() and a.application_name like 'rowlock%'
"""


def seen_sessions(look: Sql, sessions: set[str]) -> Callable[[], set[str]]:
    """Collects who is connected; fails when anybody is so without TLS."""

    def look_again() -> set[str]:
        for name, encrypted, _ in look(SESSIONS):
            assert encrypted, f"{name} goes without TLS"
            sessions.add(name)
        return sessions

    return look_again


def test_workers_clients_and_commands_work_over_verified_tls(
    secure: SecureServer, database: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = secure.url(database)
    done = rowlock("migrate", database=url)
    assert done.returncode == 0, done.stderr
    with (
        looking_into(url, monkeypatch) as look,
        sample.app.blocking_client(Settings(database_url=url)) as client,
        Worker(url, lease_s=FAR_BEYOND_THE_TEST_S, poll_s=FAR_BEYOND_THE_TEST_S) as worker,
    ):
        look_again = seen_sessions(look, set())
        runs = client.start_many([sample.mixed(f"r{n}", n + 1) for n in range(4)])
        sync = client.start(sample.sync_mixed("sync"))
        until(lambda: look_again() and all(r.status() == "succeeded" for r in [*runs, sync]))
        assert sync.result(timeout=10) == 3
        until(lambda: "rowlock listen" in look_again())
        # Nobody looks by himself for minutes: only a notification can bring it to the worker.
        until(lambda: look.one("select listening from rowlock.worker"))
        assert client.start(sample.echo(7)).result(timeout=60) == 7
        worker.terminate()
        assert worker.wait() == 0
        purposes = {"journal", "control", "listen", "transaction", "client"}
        assert {f"rowlock {purpose}" for purpose in purposes} <= look_again()
        assert look.one("select count(*) from ledger") == 14

    (tmp_path / "shop.py").write_text(SHOP)
    port = free_port()
    with (
        running(tmp_path, "worker", "shop:app", database=url),
        running(tmp_path, "exporter", f"--port={port}", database=url),
    ):
        page_when(port, lambda page: page.value("rowlock_workers", app="shop", state="alive") == 1)
        done = rowlock("start", "sums", "--app=shop", "--arg", "a=1", "--wait", database=url)
        assert (done.returncode, done.stdout.strip()) == (0, "3")
        assert scrape(port).value("rowlock_database_up") == 1


# --- what is refused

WRONG = {
    "authority": (
        "certificate verify failed",
        "set sslrootcert=FILE to the certificate of the authority that signed it",
    ),
    "name": (
        'server certificate for "localhost" does not match host name "db.example"',
        "Use a host name that is in the server's certificate",
    ),
    "file": (
        'root certificate file "/nowhere/ca.crt" does not exist',
        "or sslrootcert=system for the authorities that this machine trusts",
    ),
    "no encryption": ("no encryption", "The server demands TLS: set sslmode=verify-full"),
    "no certificate": (
        "connection requires a valid client certificate",
        "set sslcert=FILE and sslkey=FILE",
    ),
}


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, secure: SecureServer, database: str) -> tuple[str, ...]:
    """A URL that must not work, and what is said about it."""
    urls = {
        "authority": secure.url(database, sslrootcert=secure.stranger.certificate),
        "name": secure.url(database, host="db.example"),
        "file": secure.url(database, sslrootcert="/nowhere/ca.crt"),
        "no encryption": secure.url(database, sslmode="disable"),
        "no certificate": secure.url(database, user="certified:some-password"),
    }
    return (urls[request.param], *WRONG[request.param])


def assert_told(secure: SecureServer, text: str, why: str, what_to_do: str) -> None:
    assert why in text
    assert what_to_do in text
    assert secure.password not in text
    assert "some-password" not in text


def test_a_server_that_is_not_the_right_one_gets_nothing_from_a_client(
    secure: SecureServer, wrong: tuple[str, ...]
) -> None:
    url, *told = wrong
    app = App("shop")

    @app.workflow
    async def fulfil() -> None: ...

    async def start() -> None:
        async with app.client(Settings(database_url=url)) as client:
            await client.start(fulfil())

    with pytest.raises(Disconnected) as refused:
        asyncio.run(start())
    assert_told(secure, str(refused.value), *told)
    with pytest.raises(Disconnected) as refused:
        migrate(url)
    assert_told(secure, str(refused.value), *told)


def test_commands_say_what_is_wrong_and_those_that_stay_try_on(
    secure: SecureServer, wrong: tuple[str, ...], tmp_path: Path
) -> None:
    url, *told = wrong
    for command in ("migrate", "list"):
        done = rowlock(command, database=url)
        assert done.returncode == UNREACHABLE
        assert_told(secure, done.stderr, *told)
    (tmp_path / "shop.py").write_text(SHOP)
    with running(tmp_path, "worker", "shop:app", "--log-format=text", database=url) as worker:
        eventually(lambda: "again in" in worker.errors)
        assert_told(secure, worker.errors, *told)
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
    port = free_port()
    options = (f"--port={port}", "--log-format=text")
    with running(tmp_path, "exporter", *options, database=url) as exporter:
        page_when(port, lambda page: page.value("rowlock_database_up") == 0)
        assert_told(secure, exporter.errors, *told)
        assert secure.password not in ask(port, "/livez")[1]


# --- client certificates


def test_a_client_may_show_a_certificate_instead_of_a_password(
    secure: SecureServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = secure.authority.signs("certified")
    with psycopg.connect(secure.url(database), autocommit=True) as administrator:
        administrator.execute("drop role if exists certified")
        administrator.execute("create role certified login superuser")
    url = secure.url(database, user="certified", sslcert=shown.certificate, sslkey=shown.key)
    migrate(url)
    with (
        looking_into(url, monkeypatch) as look,
        sample.app.blocking_client(Settings(database_url=url)) as client,
        Worker(url, lease_s=FAR_BEYOND_THE_TEST_S) as worker,
    ):
        assert client.start(sample.sync_mixed("sync")).result(timeout=60) == 3
        assert {subject for _, _, subject in look(SESSIONS)} == {"/CN=certified"}
        worker.terminate()
        assert worker.wait() == 0

    forged = secure.stranger.signs("certified")
    with pytest.raises(Disconnected, match="does not know the authority that signed our sslcert"):
        migrate(
            secure.url(database, user="certified", sslcert=forged.certificate, sslkey=forged.key)
        )
    other = secure.authority.signs("other")
    with pytest.raises(Disconnected, match="The name in our sslcert is not the user's"):
        migrate(secure.url(database, user="certified", sslcert=other.certificate, sslkey=other.key))
