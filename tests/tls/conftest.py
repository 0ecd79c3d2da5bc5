"""A PostgreSQL that takes nobody without TLS, and the URLs of those who come with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

import postgres
from rowlock.embedded import Server
from rowlock.embedded.account import server_account
from tls.authority import Authority, Certificate

DEBIAN = Path("/usr/lib/postgresql/15/bin")
"""The PostgreSQL that tests bring with them is built without TLS."""

RULES = """
hostssl all certified 127.0.0.1/32 cert
hostssl all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True)
class SecureServer:
    """A server with a certificate for ``localhost``; ``stranger`` has not signed it."""

    server: Server
    authority: Authority
    stranger: Authority

    def url(self, database: str, **options: str | Path) -> str:
        """How to reach it with the server's name and authority checked, unless told otherwise."""
        parts = urlsplit(self.server.url(database))
        given = {
            "host": "localhost",
            "hostaddr": "127.0.0.1",
            "sslmode": "verify-full",
            "sslrootcert": str(self.authority.certificate),
        } | {name: str(value) for name, value in options.items()}
        user = given.pop("user", "") or f"{parts.username}:{parts.password}"
        return f"postgresql://{user}@:{parts.port}/{database}?{urlencode(given, quote_via=quote)}"

    @property
    def password(self) -> str:
        return urlsplit(self.server.url()).password or ""


@pytest.fixture(scope="module")
def secure() -> Iterator[SecureServer]:
    if not (DEBIAN / "postgres").exists():
        pytest.skip(f"no PostgreSQL with TLS in {DEBIAN} (Debian: apt-get install postgresql-15)")
    with postgres.temporary_folder() as folder:
        authority = Authority(folder / "authority", "authority-of-the-test")
        stranger = Authority(folder / "stranger", "stranger")
        certificate = authority.signs("localhost")
        _hand_over(certificate)
        rules = folder / "rules.conf"
        rules.write_text(RULES)
        settings = {
            "ssl": "on",
            "ssl_cert_file": str(certificate.certificate),
            "ssl_key_file": str(certificate.key),
            "ssl_ca_file": str(authority.certificate),
            "hba_file": str(rules),
        }
        with postgres.running_server(settings, bin_dir=DEBIAN) as server:
            yield SecureServer(server, authority, stranger)


def _hand_over(certificate: Certificate) -> None:
    """To the user the server runs as: it wants its key to be its own."""
    account = server_account()
    if account.user is not None and account.group is not None:
        os.chown(certificate.key, account.user, account.group)


@pytest.fixture
def database(secure: SecureServer) -> Iterator[str]:
    """The name of a fresh database on it, without Rowlock's schema."""
    with postgres.new_database(secure.server) as url:
        yield urlsplit(url).path.removeprefix("/")
