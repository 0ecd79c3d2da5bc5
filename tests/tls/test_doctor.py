"""`rowlock doctor` over TLS."""

from __future__ import annotations

from rowlock import Settings
from rowlock.doctor import State, examine
from tls.conftest import SecureServer


def test_an_encrypted_connection_is_told_from_one_that_is_not(secure: SecureServer) -> None:
    url = secure.url("postgres")
    found = {one.check: one for one in examine(Settings(database_url=url))}
    assert found["tls"].state is State.OK
    assert found["tls"].facts == {"tls": True}
    assert found["server"].state is State.OK


def test_a_certificate_that_does_not_fit_is_told_with_what_to_change(secure: SecureServer) -> None:
    url = secure.url("postgres", sslrootcert=secure.stranger.certificate)
    [found] = examine(Settings(database_url=url))
    assert (found.check, found.state) == ("server", State.FAIL)
    assert "sslrootcert" in found.found
    assert secure.password not in str(found)
