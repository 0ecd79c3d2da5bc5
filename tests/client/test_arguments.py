"""What callers give by mistake is answered before anything is sent, in words of theirs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from rowlock import App, Batch, Debounce, Dedup, Settings, call
from rowlock.client import Client
from rowlock.errors import (
    ConfigurationError,
    Disconnected,
    EventNeverSet,
    InvalidValue,
    MisplacedCall,
    ResultTimeout,
    RowlockError,
    UnknownRun,
)
from runtime.bench import Open

app = App("arguments")


@app.workflow
async def waits(number: int) -> str:
    return await app.receive("go", str)


@app.workflow
async def others(text: str) -> str:
    return text


AT = datetime(2026, 1, 1, tzinfo=UTC)
Act = Callable[[Any, Any], Awaitable[Any]]
"""With a client and a run. Types would say all this before, to those who check them."""


async def _stream(run: Any, name: Any) -> None:
    async for _ in run.stream(name):
        pass


MISTAKES: dict[str, tuple[Act, str]] = {
    "a key that is a number": (
        lambda c, r: c.start(waits(1), key=7),
        "key .* 7, but must",
    ),
    "a key with a NUL": (lambda c, r: c.start(waits(1), key="a\0"), "key .* NUL"),
    "a key that is no Unicode": (
        lambda c, r: c.start(waits(1), key="\udcff"),
        "key .* Unicode",
    ),
    "a queue that is one": (lambda c, r: c.start(waits(1), queue=app.queue("q")), "queue .* a str"),
    "a priority that is text": (lambda c, r: c.start(waits(1), priority="5"), "priority .* int"),
    "a priority that is broken": (lambda c, r: c.start(waits(1), priority=5.5), "priority .* 5.5"),
    "a priority that is true": (
        lambda c, r: c.start(waits(1), priority=True),
        "priority .* int",
    ),
    "a delay that is text": (lambda c, r: c.start(waits(1), delay="5s"), "delay .* a timedelta"),
    "a delay that is no number": (lambda c, r: c.start(waits(1), delay=math.nan), "delay .* nan"),
    "a delay for ever": (lambda c, r: c.start(waits(1), delay=math.inf), "delay .* inf"),
    "a delay to the end": (
        lambda c, r: c.start(waits(1), delay=timedelta.max),
        "delay .* waited",
    ),
    "a delay to before": (lambda c, r: c.start(waits(1), delay=-5), "delay .* -5 s, but can't be"),
    "a delay to just before": (
        lambda c, r: c.start(waits(1), delay=timedelta(seconds=-5)),
        "delay .* -5 s, but can't be",
    ),
    "an empty dedup key": (lambda c, r: c.start(waits(1), dedup=""), "dedup .* it is empty"),
    "an empty key of a Dedup": (
        lambda c, r: c.start(waits(1), dedup=Dedup("")),
        "dedup .* it is empty",
    ),
    "an empty key of a Debounce": (
        lambda c, r: c.start(waits(1), debounce=Debounce("", 5)),
        "debounce .* it is empty",
    ),
    "an empty key of a Batch": (
        lambda c, r: c.start(waits(1), batch=Batch("")),
        "batch .* it is empty",
    ),
    "an empty partition": (
        lambda c, r: c.start(waits(1), partition=""),
        "partition .* it is empty",
    ),
    "a start at some text": (
        lambda c, r: c.start(waits(1), start_at="now"),
        "start_at .* date",
    ),
    "attributes in a list": (
        lambda c, r: c.start(waits(1), attributes=[1]),
        "attributes .* map",
    ),
    "one key of many": (lambda c, r: c.start_many([waits(1)], keys=[7]), "key .* 7"),
    "a workflow with a NUL": (lambda c, r: c.start(call("a\0")), "workflow .* NUL"),
    "a topic that is a number": (lambda c, r: r.send(5), "topic .* 5"),
    "a message's key": (lambda c, r: r.send("go", 1, key="\0"), "key .* NUL"),
    "an event to set": (lambda c, r: r.set_event(5), "name .* 5"),
    "an event to wait for": (lambda c, r: r.event("\0", timeout=1), "name .* NUL"),
    "a stream to append to": (lambda c, r: r.emit(5), "stream .* 5"),
    "a stream": (lambda c, r: _stream(r, 5), "name .* 5"),
    "a timeout that is text": (lambda c, r: r.result("5"), "duration .* '5'"),
    "a timeout that never comes": (lambda c, r: r.result(math.nan), "duration .* nan"),
    "a place that is a number": (lambda c, r: r.rewind(1), "place .* 1, but must be a str"),
    "a place to fork from": (lambda c, r: r.fork(3), "place .* 3"),
    "outcomes in a list": (lambda c, r: r.fork(outcomes=[1]), "outcomes .* mapping"),
    "an outcome at a number": (lambda c, r: r.fork(outcomes={1: 1}), "place .* 1"),
    "a grace that is text": (lambda c, r: r.cancel(grace="1m"), "grace .* '1m'"),
    "a grace for ever": (lambda c, r: r.cancel(grace=1e15), "grace .* waited for"),
    "a reason that is a number": (lambda c, r: r.cancel(reason=5), "reason .* 5"),
    "a force that is text": (lambda c, r: r.cancel(force="yes"), "force .* a bool"),
    "another priority": (lambda c, r: r.reprioritise("x"), "priority .* 'x'"),
    "a priority beyond all": (lambda c, r: r.reprioritise(10**12), "priority .* out of range"),
    "a time that is text": (lambda c, r: r.reschedule("now"), "at .* 'now'"),
    "a queue to move to": (lambda c, r: r.move(app), "queue .* must be a str"),
    "a page before a handle": (lambda c, r: c.runs(before=r), "before .* must be a UUID"),
    "a page of text": (lambda c, r: c.runs(limit="5"), "limit .* '5'"),
    "runs of a workflow object": (lambda c, r: c.runs(workflow=waits), "workflow .* must be a str"),
    "runs since some text": (
        lambda c, r: c.runs(created_after="today"),
        "created_after .* date",
    ),
    "a pause of an object": (lambda c, r: c.pause(workflow=waits), "workflow .* must be a str"),
    "a pause with a NUL": (lambda c, r: c.pause(reason="\0"), "reason .* NUL"),
    "a version that is a number": (lambda c, r: c.promote(2), "version .* 2"),
    "a partition that is a number": (
        lambda c, r: c.start(waits(1), partition=7),
        "partition .* 7, but must be a str",
    ),
    "a time to begin by": (
        lambda c, r: c.start(waits(1), start_before="noon"),
        "start_before .* datetime",
    ),
    "a dedup key that is a number": (lambda c, r: c.start(waits(1), dedup=7), "dedup .* a Dedup"),
    "a key within a Dedup": (lambda c, r: c.start(waits(1), dedup=Dedup(7)), "dedup .* a str"),  # type: ignore[arg-type]
    "a policy of a Dedup": (
        lambda c, r: c.start(waits(1), dedup=Dedup("a", "perhaps")),  # type: ignore[arg-type]
        "dedup .* 'perhaps', but must be existing, reject, replace",
    ),
    "a debounce key alone": (lambda c, r: c.start(waits(1), debounce="k"), "debounce .* Debounce"),
    "a quiet that is text": (
        lambda c, r: c.start(waits(1), debounce=Debounce("k", "5s")),  # type: ignore[arg-type]
        "debounce .* '5s'",
    ),
    "a batch key alone": (lambda c, r: c.start(waits(1), batch="k"), "batch .* Batch"),
    "a size that is text": (
        lambda c, r: c.start(waits(1), batch=Batch("k", "5")),  # type: ignore[arg-type]
        "batch .* '5'",
    ),
    "a wait that is text": (
        lambda c, r: c.start(waits(1), batch=Batch("k", 5, "5s")),  # type: ignore[arg-type]
        "batch .* '5s'",
    ),
    "a delay of more than a thousand years": (
        lambda c, r: c.start(waits(1), delay=timedelta(days=366_000)),
        "delay .* waited",
    ),
    "a schedule's name": (lambda c, r: c.create_schedule(5, "* * * * *", waits), "name .* 5"),
    "a schedule's time": (lambda c, r: c.create_schedule("s", 5, waits), "when .* cron expression"),
    "a schedule's workflow": (
        lambda c, r: c.create_schedule("s", "* * * * *", len),
        "workflow .* must be a str",
    ),
    "a schedule's arguments": (
        lambda c, r: c.create_schedule("s", "* * * * *", waits, args=[1]),
        "args .* mapping",
    ),
    "a schedule's zone": (
        lambda c, r: c.create_schedule("s", "* * * * *", "waits", timezone=UTC),
        "timezone .* a str",
    ),
    "a schedule's jitter": (
        lambda c, r: c.update_schedule("s", jitter="5s"),
        "jitter .* '5s', but must be seconds",
    ),
    "a schedule's end": (lambda c, r: c.update_schedule("s", end="noon"), "end .* datetime"),
    "a schedule's priority": (
        lambda c, r: c.update_schedule("s", priority="first"),
        "priority .* int",
    ),
    "a schedule to take from": (lambda c, r: c.unset_schedule(5, "end"), "name .* 5"),
    "a schedule to pause": (lambda c, r: c.pause_schedule("s", reason=5), "reason .* 5"),
    "a schedule to resume": (lambda c, r: c.resume_schedule(5), "name .* 5"),
    "a schedule to trigger": (lambda c, r: c.trigger_schedule("\0"), "name .* NUL"),
    "a schedule to delete": (lambda c, r: c.delete_schedule(5), "name .* 5"),
    "a schedule to explain": (lambda c, r: c.explain_schedule(5), "name .* 5"),
    "schedules of a number": (lambda c, r: c.schedules(5), "name .* 5"),
    "a range of text": (lambda c, r: c.backfill("s", "2026", AT), "since .* datetime"),
    "a limit of an object": (lambda c, r: c.set_limit(waits, concurrency=1), "queue .* a str"),
    "a worker that is text": (lambda c, r: c.drain_worker("x"), "worker .* 'x'"),
}


async def test_what_can_not_be_meant_is_answered_before_anything_is_sent(database: str) -> None:
    async with app.client(Settings(database_url=database)) as client:
        run = await client.start(waits(1))
        before = await client.runs()
        for what, (act, words) in MISTAKES.items():
            with pytest.raises(InvalidValue, match=words) as caught:
                await act(client, run)
            assert "SQLSTATE" not in str(caught.value), what
        assert await client.runs() == before


async def test_a_mistake_leaves_the_callers_transaction_as_it_was(
    database: str,
) -> None:
    async with app.client(Settings(database_url=database)) as client:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            with pytest.raises(InvalidValue, match="key"):
                await client.start(waits(1), key="a\0", connection=connection)
            run = await client.start(waits(1), key="a", connection=connection)
        assert (await run.info()).key == "a"


async def _sql(**options: Any) -> None:
    waits(1).sql(**options)


UNKNOWN: dict[str, Act] = {
    "start": lambda c, r: c.start(waits(1), prority=5),
    "start_many": lambda c, r: c.start_many([waits(1)], prority=5),
    "sql": lambda c, r: _sql(prority=5),
    "runs": lambda c, r: c.runs(prority=5),
    "set_limit": lambda c, r: c.set_limit("default", prority=5),
    "create_schedule": lambda c, r: c.create_schedule("s", "* * * * *", "waits", prority=5),
    "update_schedule": lambda c, r: c.update_schedule("s", prority=5),
}


@pytest.mark.parametrize("what", UNKNOWN)
async def test_an_option_that_is_none_is_named_with_those_there_are(
    database: str, what: str
) -> None:
    async with app.client(Settings(database_url=database)) as client:
        before = await client.runs()
        verb = what.removesuffix("_many")
        with pytest.raises(TypeError, match=f"^{verb} takes no 'prority'; its options are "):
            await UNKNOWN[what](client, None)
        assert await client.runs() == before
        assert await client.schedules() == []


async def test_a_run_gets_no_input_of_another_workflow(database: str) -> None:
    settings = Settings(database_url=database)
    async with app.client(settings) as client:
        run = await client.start(waits(1))
        for other in (others("x"), call("others", text="x")):
            with pytest.raises(
                MisplacedCall, match=r"of workflow waits, but call is one of others"
            ):
                await run.fork(call=other)
            with pytest.raises(MisplacedCall, match="Nothing was changed"):
                await run.rewind("1", call=other)
        async with await psycopg.AsyncConnection.connect(database) as connection:
            theirs = await client.start(waits(2), connection=connection)
            with pytest.raises(MisplacedCall, match="of workflow waits"):
                await theirs.fork(call=others("x"), connection=connection)
        with app.blocking_client(settings) as blocking:
            with pytest.raises(MisplacedCall, match="of workflow waits"):
                blocking.run(run.id).fork(call=others("x"))
            with pytest.raises(MisplacedCall, match="of workflow waits"):
                blocking.run(run.id).rewind("1", call=others("x"))
        assert {one.workflow for one in await client.runs()} == {"waits"}
        copy = await run.fork(call=waits(3))
        assert (await copy.info()).input == {"number": 3}
        with pytest.raises(UnknownRun):
            await client.run(uuid4()).fork(call=waits(3))


async def test_a_client_is_opened_once_at_a_time_and_as_often_as_you_like(database: str) -> None:
    settings = Settings(database_url=database)
    client = app.client(settings)
    for number in range(2):
        async with client:
            with pytest.raises(MisplacedCall, match="open already"):
                await client.__aenter__()
            run = await client.start(waits(number))
            with pytest.raises(ResultTimeout):
                await run.result(0)
    with pytest.raises(MisplacedCall, match="not open"):
        await client.runs()
    blocking = app.blocking_client(settings)
    for _ in range(2):
        with blocking:
            with pytest.raises(MisplacedCall, match="open already"):
                blocking.open()
            assert len(blocking.runs()) == 2
    with pytest.raises(MisplacedCall, match="not open"):
        blocking.runs()


async def test_a_client_that_could_not_be_opened_is_closed() -> None:
    nowhere = Settings(database_url="postgresql://nobody@127.0.0.1:1/none")
    client = app.client(nowhere)
    for _ in range(2):
        with pytest.raises(Disconnected):
            await client.__aenter__()
    with pytest.raises(MisplacedCall, match="not open"):
        await client.runs()


async def test_what_is_no_run_is_answered(database: str) -> None:
    async with app.client(Settings(database_url=database)) as client:
        for nonsense in ("order-7", 7, None):
            with pytest.raises(InvalidValue, match=r"the run's id .* must be a UUID"):
                client.run(nonsense)  # type: ignore[arg-type]
        run = await client.start(waits(1))
        assert client.run(str(run.id)).id == run.id
        with pytest.raises(MisplacedCall, match="the workflow itself"):
            client.run(run.id, "waits")  # type: ignore[call-overload]
        with pytest.raises(MisplacedCall, match="call of the run's workflow"):
            await run.fork(call=waits)  # type: ignore[arg-type]


async def test_runs_before_a_time_without_a_zone_are_not_guessed(database: str) -> None:
    async with app.client(Settings(database_url=database)) as client:
        naive = datetime.now(UTC).replace(tzinfo=None)
        with pytest.raises(ConfigurationError, match="no time zone"):
            await client.runs(created_after=naive)
        with pytest.raises(ConfigurationError, match="no time zone"):
            await client.runs(created_before=naive)


async def test_an_event_of_no_run_is_told_from_one_that_never_came(bench: Open) -> None:
    async with bench(app) as work:
        with pytest.raises(UnknownRun):
            await work.client.run(uuid4()).event("weight", timeout=20)
        run = await work.client.start(waits(1))
        await run.send("go", "now")
        assert await run.result(25) == "now"
        with pytest.raises(EventNeverSet):
            await run.event("weight", timeout=20)


async def test_who_waits_while_the_database_is_away_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nowhere = Settings(database_url="postgresql://nobody:s3cret@127.0.0.1:1/none")
    async with Client(nowhere, app="arguments") as client:
        with pytest.raises(RowlockError):
            await client.run(uuid4()).result(0)
    (said,) = [one.getMessage() for one in caplog.records if "is waited for, but" in one.message]
    assert "refused" in said
    assert "s3cret" not in said
