"""Promise 12: every refusal says what, why and what to do; and nothing was written."""

from __future__ import annotations

import math
from typing import Any

import psycopg
import pytest

import rowlock
from rowlock import BlockingClient
from rowlock.errors import InvalidValue, MisplacedCall, Refused, RunFailed, UnknownRun
from workers import sample
from workers.process import Worker
from workers.until import Sql

pytestmark = pytest.mark.promise(12)

START: list[tuple[str, str, str]] = [
    ("rowlock.start('', app => 'sample')", "RLV01", "names no workflow"),
    ("rowlock.start('echo', '[1]', app => 'sample')", "RLV01", "not a JSON object"),
    ("rowlock.start('echo', '7', app => 'sample')", "RLV01", "not a JSON object"),
    ("rowlock.start('echo', key => '', app => 'sample')", "RLV01", "key"),
    ("rowlock.start('echo', key => repeat('x', 1001), app => 'sample')", "RLV01", "1000 bytes"),
    ("rowlock.start(repeat('x', 201), app => 'sample')", "RLV01", "200 characters"),
    ("rowlock.start('echo', priority => -1, app => 'sample')", "RLV01", "between 0"),
    ("rowlock.start('echo', priority => 40000, app => 'sample')", "RLV01", "between 0"),
    ("rowlock.start('echo', priority => 101, app => 'sample')", "RLV01", "priority of 101"),
    ("rowlock.start('echo', start_at => 'infinity', app => 'sample')", "RLV01", "of infinity"),
    ("rowlock.start('echo', start_at => '-infinity', app => 'sample')", "RLV01", "start_at of"),
    ("rowlock.start('echo', start_at => '20000-01-01', app => 'sample')", "RLV01", "start_at of"),
    ("rowlock.start('echo', start_before => 'infinity', app => 'sample')", "RLV01", "of infinity"),
    (
        "rowlock.start('echo', delay => '1000000 years', app => 'sample')",
        "RLV01",
        "delay of 1000000 years",
    ),
    (
        "rowlock.start('echo', deadline => '1000000 years', app => 'sample')",
        "RLV01",
        "deadline of 1000000 years",
    ),
    (
        "rowlock.start('echo', debounce => 'k', quiet => '1000000 years', app => 'sample')",
        "RLV01",
        "quiet of 1000000 years",
    ),
    (
        "rowlock.start('echo', app => 'sample', debounce => 'k', quiet => '1 s', most => '1001 y')",
        "RLV01",
        "most of 1001 y",
    ),
    ("rowlock.start('echo', attributes => '[]', app => 'sample')", "RLV01", "attributes"),
    ("rowlock.start('echo', queue => 'typo', app => 'sample')", "RLN01", "queue typo"),
    (
        "rowlock.start('echo', delay => '1 s', start_at => now(), app => 'sample')",
        "RLV01",
        "both delay and start_at",
    ),
    ("rowlock.start_many('{}', 'sample')", "RLV01", "array"),
    ("rowlock.start_many('[1]', 'sample')", "RLV01", "not an object"),
    (
        'rowlock.start_many(\'[{"workflow": "echo"}, {"input": {}}]\', \'sample\')',
        "RLV01",
        "run 2 of 2",
    ),
    (
        'rowlock.start_many(\'[{"workflow": "echo", "prority": 5}]\', \'sample\')',
        "RLV01",
        "field prority",
    ),
    (
        'rowlock.start_many(\'[{"workflow": "echo", "priority": 5.5}]\', \'sample\')',
        "RLV01",
        "priority of 5.5",
    ),
    ("rowlock.start_many(null, 'sample')", "RLV01", "null"),
    ("rowlock.resume('01930000-0000-7000-8000-000000000001')", "RLN03", "there is no run"),
    ("rowlock.promote('sample', 'never seen')", "RLN02", "has no version"),
]


@pytest.mark.parametrize(("call", "sqlstate", "words"), START, ids=[c[0][:60] for c in START])
def test_sql_refuses_with_a_state_a_reason_and_a_hint(
    client: BlockingClient, sql: Sql, call: str, sqlstate: str, words: str
) -> None:
    with pytest.raises(psycopg.Error) as refused:
        sql(f"select {call}")
    assert refused.value.sqlstate == sqlstate
    assert words in str(refused.value.diag.message_primary)
    assert refused.value.diag.message_hint
    assert sql.one("select count(*) from rowlock.run") == 0
    assert sql.one("select count(*) from rowlock.run_key") == 0


BAD: list[Any] = [math.nan, math.inf, "a\0b", "\ud800", object(), {"deep": [1, {"x": math.nan}]}]


@pytest.mark.parametrize("value", BAD, ids=["nan", "inf", "nul", "surrogate", "object", "nested"])
def test_arguments_that_cannot_be_stored_are_refused_before_anything_is_written(
    client: BlockingClient, sql: Sql, value: Any
) -> None:
    with pytest.raises(InvalidValue) as refused:
        client.start(rowlock.call("echo", value=value))
    assert "value" in refused.value.path
    assert sql.one("select count(*) from rowlock.run") == 0


def test_a_call_with_wrong_arguments_is_refused_where_it_is_made(client: BlockingClient) -> None:
    with pytest.raises((InvalidValue, MisplacedCall)):
        sample.echo("seven")  # type: ignore[arg-type]
    with pytest.raises((InvalidValue, MisplacedCall)):
        sample.echo(1, 2)  # type: ignore[call-arg]
    with pytest.raises(MisplacedCall, match="start takes a call"):
        client.start(sample.echo)  # type: ignore[arg-type]


def test_an_input_that_does_not_fit_the_workflow_fails_the_run_with_the_reason(
    database: str, client: BlockingClient
) -> None:
    run = client.start(rowlock.call("echo", wrong=1))
    with Worker(database), pytest.raises(RunFailed, match=r"wrong|value"):
        run.result(timeout=60)


def test_asking_for_a_run_that_is_not_there_says_so(client: BlockingClient) -> None:
    nobody = client.run("01930000-0000-7000-8000-000000000001")
    with pytest.raises(UnknownRun):
        nobody.status()
    with pytest.raises(UnknownRun):
        nobody.result(timeout=30)
    with pytest.raises(UnknownRun):
        nobody.resume()


def test_resuming_what_is_not_blocked_is_refused(client: BlockingClient) -> None:
    run = client.start(sample.echo(1))
    with pytest.raises(Refused, match="is ready and can"):
        run.resume()


@pytest.mark.parametrize("text", ["'; drop table rowlock.run; --", '"', "\\", "%s", "$$", "🚣"])
def test_text_is_never_taken_for_sql(client: BlockingClient, sql: Sql, text: str) -> None:
    run = client.start(
        rowlock.call("echo", value=text), key=text, attributes={text: text}, priority=1
    )
    assert run.info().key == text
    assert run.info().input == {"value": text}
    assert [r.id for r in client.runs(key=text, attributes={text: text})] == [run.id]
