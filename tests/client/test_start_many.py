"""Many runs at once: ten thousand at a time, and no more than that is held or lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from rowlock import App, BlockingClient, Settings
from rowlock.client import client as client_module
from rowlock.errors import ConfigurationError, MisplacedCall, Refused
from rowlock.workflow import WorkflowCall
from workers.until import Sql

app = App("many")
MANY = 20_000
FEW = 10


@app.workflow
async def adds(n: int) -> int:
    return n


@pytest.fixture
def client(database: str) -> Iterator[BlockingClient]:
    with app.blocking_client(Settings(database_url=database)) as client:
        yield client


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten at a time instead of ten thousand."""
    monkeypatch.setattr(client_module, "CHUNK", FEW)


def count(sql: Sql) -> Any:
    return sql.one("select count(*) from rowlock.run")


async def test_twenty_thousand_with_keys_and_again(database: str, sql: Sql) -> None:
    async with app.client(Settings(database_url=database)) as client:
        calls, keys = (adds(n) for n in range(MANY)), (f"k{n}" for n in range(MANY))
        runs = await client.start_many(calls, keys=keys, priority=7)
        again = await client.start_many(
            [adds(n) for n in range(MANY)], keys=[f"k{n}" for n in range(MANY)]
        )
    assert [run.id for run in again] == [run.id for run in runs]
    assert count(sql) == MANY
    assert sql.one(
        "select bool_and(r.input ->> 'n' = (x.n - 1)::text and r.key = 'k' || (x.n - 1)"
        " and r.priority = 7) from unnest(%s::uuid[]) with ordinality as x (id, n)"
        " join rowlock.run as r on r.id = x.id",
        [run.id for run in runs],
    )


@pytest.mark.usefixtures("few")
def test_calls_are_read_when_those_before_are_committed(client: BlockingClient, sql: Sql) -> None:
    seen = []

    def calls() -> Iterator[WorkflowCall[int]]:
        for n in range(25):
            seen.append((n, count(sql)))
            yield adds(n)

    assert len(client.start_many(calls())) == count(sql) == 25
    assert seen == [(n, n // FEW * FEW) for n in range(25)]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({15: "adds(15)"}, MisplacedCall),
        ({15: adds(15)}, Refused),  # with a key that is too long
    ],
    ids=["here", "in the database"],
)
def test_an_error_says_how_many_were_started_before(
    client: BlockingClient, sql: Sql, bad: dict[int, Any], error: type[Exception]
) -> None:
    calls = [bad.get(n, adds(n)) for n in range(25)]
    keys = ["k" * 2000 if n in bad else f"k{n}" for n in range(25)]
    with pytest.raises(error) as caught:
        client.start_many(calls, keys=keys)
    assert caught.value.__notes__ == ["The first 10 runs were started before."]
    assert count(sql) == 10
    good = client.start_many([adds(n) for n in range(25)], keys=[f"k{n}" for n in range(25)])
    assert len({run.id for run in good}) == count(sql) == 25


@pytest.mark.usefixtures("few")
def test_in_the_callers_transaction_all_or_none(
    client: BlockingClient, sql: Sql, database: str
) -> None:
    with psycopg.connect(database) as tx:
        client.start_many([adds(n) for n in range(25)], connection=tx)
        tx.rollback()
        assert count(sql) == 0
        client.start_many([adds(n) for n in range(25)], connection=tx)
        assert count(sql) == 0
    assert count(sql) == 25


@pytest.mark.usefixtures("few")
def test_keys_that_are_no_match_for_the_calls_are_refused(client: BlockingClient, sql: Sql) -> None:
    for keys in (["a"], ["a"] * 30):
        with pytest.raises(ConfigurationError, match=f"25 calls but {len(keys)} keys"):
            client.start_many([adds(n) for n in range(25)], keys=keys)
        assert count(sql) == 0
    for n, why in ((15, "fewer keys"), (26, "more keys")):
        with pytest.raises(ConfigurationError, match=why) as caught:
            client.start_many((adds(n) for n in range(25)), keys=(None for _ in range(n)))
        assert caught.value.__notes__[0].startswith("The first ")
    assert count(sql) == 10 + 20
    assert client.start_many([]) == []
