"""A connection string that was not meant so gives no part of its password away."""

from __future__ import annotations

import pytest

from rowlock import Settings
from rowlock.errors import ConfigurationError
from rowlock.store.connection import conninfo


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pa@ss-secret@127.0.0.1:1/db",
        "postgresql://user:pa/ss-secret@127.0.0.1:1/db",
    ],
)
def test_a_password_that_is_not_escaped_is_not_quoted(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        conninfo(Settings(database_url=url), "test")
    assert "secret" not in str(refused.value)
    assert "pa" not in str(refused.value).replace("password", "")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pa%40ss@a,b:5433/db?host=",
        "postgresql://user:pa?ss@127.0.0.1:1/db",
        "postgresql:///db?host=/var/run/postgresql",
        "host=@abstract dbname=db",
        "postgresql://u@h1:1,h2:2/db",
        "postgresql://u@h1/db\n",
    ],
)
def test_what_libpq_can_do_passes(url: str) -> None:
    assert "dbname=db" in conninfo(Settings(database_url=url), "test").replace("\n", "|")
    assert "\n" not in conninfo(Settings(database_url=url), "test")
