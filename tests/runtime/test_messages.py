"""Messages: what is sent to a run is received once, in order, by whoever waits for its topic."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from rowlock import App
from rowlock.errors import InvalidValue, NotDelivered, ReceiveTimeout, Refused, UnknownRun
from runtime.bench import Open, Way
from workers.until import Sql

app = App("messages")


@dataclass
class Approval:
    by: str
    amount: Decimal


@app.workflow
async def collects(n: int) -> list[Any]:
    return [await app.receive("item") for _ in range(n)]


@app.workflow
async def decides() -> str:
    approval = await app.receive("approval", Approval)
    return f"{approval.by}: {approval.amount}"


@app.workflow
async def gives_up(seconds: float) -> str:
    try:
        return await app.receive("never", str, timeout=seconds)
    except ReceiveTimeout as error:
        return str(error)


@app.workflow
async def two_topics() -> list[str]:
    async def listen(topic: str) -> str:
        return topic + await app.receive(topic, str)

    return list(await asyncio.gather(listen("a"), listen("b"), listen("a")))


@app.workflow
async def tells(to: UUID, values: list[int], key: str | None = None) -> int:
    for value in values:
        await app.send(to, "item", value, key=None if key is None else f"{key}{value}")
    return len(values)


@app.workflow
async def tells_nobody(to: UUID) -> str:
    try:
        await app.send(to, "item", 1)
    except NotDelivered as error:
        return str(error)
    return "delivered"


@app.workflow
async def asks_its_child() -> list[int]:
    child = await app.start_child(collects(3))
    await asyncio.gather(*(app.send(child, "item", n) for n in range(3)))
    return await child.result()


@app.workflow
def collects_in_a_thread(n: int) -> list[int]:
    return [app.receive("item", int).wait() for _ in range(n)]


async def test_messages_come_in_the_order_of_sending(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                run = await work.start(collects(20))
                for n in range(20):
                    await run.send("item", n)
                assert await run.result(25) == list(range(20))


async def test_a_message_wakes_a_run_that_sleeps_and_holds_nothing(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(decides())
        await work.status(run, "waiting")
        await run.send("other topic", 1)
        await run.send("approval", Approval("ann", Decimal("7.50")))
        assert await run.result(25) == "ann: 7.50"
        steps = await run.steps()
        assert [(s.kind, s.name) for s in steps] == [("receive", "approval")]


async def test_messages_wait_for_a_run_that_has_not_begun(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(collects(2), delay=0.3)
        await run.send("item", "early")
        await run.send("item", None)
        assert await run.result(25) == ["early", None]


async def test_a_receive_times_out_and_goes_on(bench: Open) -> None:
    async with bench(app) as work:
        assert "topic never did not come within 0.05 s" in await work.every_way(
            lambda: gives_up(0.05)
        )
        async with work.living(Way.UNLOADED):
            run = await work.start(gives_up(0.0))
            assert "within 0 s" in await run.result(25)


async def test_a_message_beats_the_timeout_also_when_it_sleeps(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(gives_up(60.0))
        await work.status(run, "waiting")
        await run.send("never", "after all")
        assert await run.result(25) == "after all"


async def test_branches_wait_for_topics_of_their_own(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                run = await work.start(two_topics())
                await run.send("b", "2")
                await asyncio.sleep(0.02)
                await run.send("a", "1")
                await run.send("a", "3")
                assert await run.result(25) == ["a1", "b2", "a3"]


async def test_a_key_is_sent_once(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(collects(2))
        for _ in range(3):
            await run.send("item", "once", key="k1")
        await work.status(run, "waiting")
        await run.send("item", "other", key="k2")
        assert await run.result(25) == ["once", "other"]
        await run.send("item", "once", key="k1")  # it was: that is no error, even now
        assert sql("select count(*) from rowlock.message") == [(2,)]


async def test_workflows_send_exactly_once_and_in_order(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            async with work.living(way):
                receiver = await work.start(collects(10))
                sender = await work.start(tells(receiver.id, list(range(10))))
                assert await sender.result(25) == 10
                assert await receiver.result(25) == list(range(10))


async def test_a_parent_talks_to_its_child(bench: Open) -> None:
    async with bench(app) as work:
        assert sorted(await work.result(asks_its_child())) == [0, 1, 2]


async def test_sync_workflows_receive(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(collects_in_a_thread(2))
        await work.status(run, "waiting")
        await run.send("item", 1)
        await run.send("item", 2)
        assert await run.result(25) == [1, 2]


async def test_a_run_that_has_ended_is_told_nothing(bench: Open, sql: Sql) -> None:
    async with bench(app) as work:
        run = await work.start(collects(0))
        await run.result(25)
        with pytest.raises(Refused, match=r"has ended \(succeeded\)"):
            await run.send("item", 1)
        assert "has ended, or there is none" in await work.result(tells_nobody(run.id))
        assert "has ended, or there is none" in await work.result(tells_nobody(uuid4()))
        with pytest.raises(UnknownRun):
            await work.client.run(uuid4()).send("item", 1)
        assert sql("select count(*) from rowlock.message") == [(0,)]


async def test_what_does_not_fit_the_type_is_for_the_workflow_to_cope_with(bench: Open) -> None:
    async with bench(app) as work:
        run = await work.start(decides())
        await run.send("approval", {"by": "ann"})
        error = await work.error_of(run)
        assert isinstance(error, InvalidValue)
        assert "a message on topic approval" in str(error)


async def test_a_message_rides_in_the_callers_transaction(bench: Open, database: str) -> None:
    async with bench(app) as work:
        run = await work.start(collects(1))
        await work.status(run, "waiting")
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await run.send("item", "rolled back", connection=connection)
            await connection.rollback()
            await run.send("item", "kept", connection=connection)
        assert await run.result(25) == ["kept"]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_a_message_from_an_old_snapshot_wakes_too(
    bench: Open, database: str, level: str
) -> None:
    """Its transaction can't see that the run went to sleep after it began."""
    async with bench(app) as work:
        run = await work.start(collects(1), delay=0.2)
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await connection.execute(f"begin isolation level {level}".encode())
            await connection.execute("select count(*) from rowlock.task")
            await work.status(run, "waiting")
            await run.send("item", "late", connection=connection)
        assert await run.result(25) == ["late"]


@pytest.mark.parametrize(
    ("topic", "key", "why"),
    [("", None, "the topic has"), ("x" * 201, None, "the topic has"), ("item", "", "the key has")],
)
async def test_bad_names_are_refused(
    bench: Open, sql: Sql, topic: str, key: str | None, why: str
) -> None:
    async with bench(app) as work:
        run = await work.start(collects(0), delay=0.2)
        with pytest.raises(Refused, match=why) as caught:
            await run.send(topic, 1, key=key)
        assert caught.value.sqlstate == "RLV02"
        await run.result(25)
        assert sql("select count(*) from rowlock.message") == [(0,)]
