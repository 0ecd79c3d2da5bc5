"""Runs that start runs: awaited, by handle, by key, many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rowlock import App
from rowlock.errors import RowlockError
from rowlock.model.commands import StartChild
from rowlock.runtime import in_flight, outbox
from rowlock.runtime.outbox import child_entry
from runtime.bench import Open, Way

app = App("children")
urgent = app.queue("urgent")
tenants = app.queue("tenants")
log: list[str] = []


@pytest.fixture(autouse=True)
def fresh_log() -> None:
    log.clear()


@app.workflow
async def square(n: int) -> int:
    if n < 0:
        raise ValueError(f"{n} is negative")
    return n * n


@app.workflow(queue=urgent)
async def in_its_queue() -> None:
    return None


@app.workflow
async def sleeper(seconds: float) -> str:
    await app.sleep(seconds)
    return "awake"


@app.workflow
async def by_handle() -> list[Any]:
    first = await app.start_child(square(3))
    second = await app.start_child(square(4))
    assert first.run_id != second.run_id
    await app.sleep(0.02)
    both = await asyncio.gather(second.result(), first.result())
    return [*both, await first.result()]


@app.workflow
async def by_key(key: str) -> list[bool]:
    first = await app.start_child(sleeper(0.05), key=key)
    again = await app.start_child(sleeper(0.05), key=key)
    await app.sleep(0.02)
    same = await first.result() == await again.result() == "awake"
    return [first.run_id == again.run_id, same]


@app.workflow
async def with_options(key: str | None) -> None:
    child = await app.start_child(
        square(1), key=key, queue=urgent, priority=7, attributes={"customer": 42}
    )
    await child.result()


@app.workflow
async def without_options(key: str | None) -> None:
    await (await app.start_child(square(1), key=key)).result()
    await in_its_queue()


@app.workflow(queue=tenants)
async def of_a_tenant(n: int) -> int:
    return n


@app.workflow(queue=tenants)
async def for_tenants(key: str | None) -> list[int]:
    own, other = key and f"{key} own", key and f"{key} other"
    mine = await app.start_child(of_a_tenant(1), key=own)
    theirs = await app.start_child(of_a_tenant(2), key=other, partition="bolt")
    outside = await square(1)
    together = await app.map([of_a_tenant(3), of_a_tenant(4)], partition="cup")
    return [await mine.result(), await theirs.result(), outside, *together]


@app.workflow
async def for_no_tenant(key: str | None) -> str:
    try:
        await app.start_child(square(1), key=key, partition="acme")
    except RowlockError as error:
        return str(error)
    return "nothing was refused"


@app.workflow
async def fans_out(count: int) -> int:
    return sum(await asyncio.gather(*(square(n) for n in range(count))))


@app.workflow
async def some_fail() -> list[str]:
    found = await asyncio.gather(square(2), square(-1), square(3), return_exceptions=True)
    await app.sleep(0.02)
    return [repr(one) for one in found]


@app.workflow
async def first_of_two() -> list[str]:
    """One is awaited no longer, and goes on."""
    fast, slow = (asyncio.create_task(sleeper(s)) for s in (0.02, 0.3))
    done, pending = await asyncio.wait([fast, slow], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return [task.result() for task in done]


@app.workflow
async def grandparent(depth: int) -> int:
    return depth if depth == 0 else 1 + await grandparent(depth - 1)


@app.workflow
async def starts_badly(key: str | None, priority: int) -> str:
    try:
        await app.start_child(square(1), key=key, priority=priority)
    except (RowlockError, ValueError) as error:
        await app.sleep(0.02)
        return str(error)
    return "nothing was refused"


@app.workflow
async def refused_while_cancelled() -> str:
    """The child's start is refused by the database when nobody waits for it any more."""
    drawn = asyncio.create_task(app.random())
    child = asyncio.create_task(starts())
    await drawn
    child.cancel()
    await asyncio.wait([child])
    await app.sleep(0.5)
    return f"cancelled {child.cancelled()}"


async def starts() -> None:
    await app.start_child(square(1))


def unfit_entry(child: StartChild) -> dict[str, Any]:
    """What PostgreSQL can't take: its priority is no smallint."""
    return {**child_entry(child), "priority": 100_000}


@app.workflow
async def leaves_its_children() -> str:
    await app.start_child(sleeper(0.1))
    return "gone"


async def test_a_handle_gives_the_result_whenever_it_is_wanted(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(by_handle) == [16, 9, 9]
        started = work.sql.one("select count(*) from rowlock.run where workflow = 'square'")
        assert started == 2 * len(Way)


async def test_a_key_gives_the_same_child(bench: Open) -> None:
    async with bench(app) as work:
        for way in Way:
            assert await work.result_when(way, by_key("one")) == [True, True]
        assert await work.result(by_key("two")) == [True, True]
        assert work.sql.one("select count(*) from rowlock.run where workflow = 'sleeper'") == 2


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(None, id="without key"),
        pytest.param("k", id="with key"),
    ],
)
async def test_options_of_the_child_are_its_own_or_its_parents(
    bench: Open, key: str | None
) -> None:
    async with bench(app) as work:
        await (await work.start(with_options(key), priority=30)).result(20)
        [child] = await work.client.runs(workflow="square")
        assert (child.queue, child.priority) == ("urgent", 7)
        assert child.attributes == {"customer": 42}
        await (await work.start(without_options(key and "other"), priority=30)).result(20)
        child = (await work.client.runs(workflow="square"))[0]
        assert (child.queue, child.priority) == ("default", 30)
        [other] = await work.client.runs(workflow="in_its_queue")
        assert other.queue == "urgent"


@pytest.mark.parametrize("key", [None, "k"], ids=["without key", "with key"])
async def test_a_child_is_of_its_parents_partition_or_of_its_own(
    bench: Open, key: str | None
) -> None:
    async with bench(app) as work:
        work.sql("update rowlock.queue set partitions = true where name = 'tenants'")
        run = await work.start(for_tenants(key), partition="acme")
        assert await run.result(20) == [1, 2, 1, 3, 4]
        children = await work.client.runs(workflow="of_a_tenant")
        assert [one.partition for one in reversed(children)] == ["acme", "bolt", "cup", "cup"]
        [outside] = await work.client.runs(workflow="square")
        assert outside.partition is None


@pytest.mark.parametrize("key", [None, "k"], ids=["without key", "with key"])
async def test_a_partition_that_the_childs_queue_does_not_have_is_an_error_of_the_call(
    bench: Open, key: str | None
) -> None:
    async with bench(app, noise=("refused an entry",)) as work:
        told = await work.result(for_no_tenant(key))
        assert (
            "the run has a partition, but queue default of app children has no partitions" in told
        )


async def test_fifty_children_at_once(bench: Open) -> None:
    async with bench(app, slots=8) as work:
        assert await work.every_way(lambda: fans_out(50)) == sum(n * n for n in range(50))


async def test_children_that_fail_and_children_nobody_waits_for(bench: Open) -> None:
    async with bench(app) as work:
        assert await work.every_way(some_fail) == ["4", "ValueError('-1 is negative')", "9"]
        assert await work.every_way(first_of_two) == ["awake"]
        assert await work.result(leaves_its_children()) == "gone"
        for run in await work.client.runs(workflow="sleeper"):
            assert await work.client.run(run.id).result(20) == "awake"


async def test_a_chain_of_parents_needs_one_slot(bench: Open) -> None:
    async with bench(app, slots=1) as work:
        assert await work.result(grandparent(12)) == 12


@pytest.mark.parametrize("key", [None, "k"], ids=["without key", "with key"])
async def test_a_start_that_the_database_refuses_is_an_error_of_the_call(
    bench: Open, key: str | None
) -> None:
    async with bench(app) as work:
        async with asyncio.timeout(8):
            assert "priority is 1000" in await work.result(starts_badly(key, 1000))
        async with asyncio.timeout(8):
            assert "key" in await work.result(starts_badly("", 50))


async def test_an_entry_refused_after_it_was_cancelled_does_not_keep_the_run_awake(
    bench: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "child_entry", unfit_entry)
    monkeypatch.setattr(in_flight, "child_entry", unfit_entry)
    async with bench(app, noise=("refused an entry",)) as work:
        run = await work.start(refused_while_cancelled())
        await work.status(run, "waiting")
        assert await run.result(20) == "cancelled True"
