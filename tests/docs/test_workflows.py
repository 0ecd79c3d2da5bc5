"""The examples of docs/workflows.md hold, on a real worker."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from docs.examples import examples_of, run
from rowlock.errors import RunFailed
from runtime.bench import Bench, Way, opened
from workers.until import Sql


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module for the page's code."""
    module = ModuleType("docs_workflows")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


async def test_the_page_does_what_it_says(
    page: Any,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run(examples_of("workflows.md"), page)
    sql = Sql(database)
    sql("create table ledger (id serial, order_id int, receipt text)")
    sql.close()
    noise = ("was cancelled",)
    async with opened(database, monkeypatch, caplog, page.app, noise=noise) as work:
        order = page.Order(7, "tea", 250)
        await steps_and_branches(page, work, order)
        await what_runs_say_to_each_other(page, work, order)
        await how_runs_end(page, work, order)


async def steps_and_branches(page: Any, work: Bench, order: Any) -> None:
    assert await work.result(page.fulfil(order)) == "receipt 7, parcel 7"
    error = await work.error_of(await work.start(page.fulfil(page.Order(8, "gold", 10**6))))
    assert isinstance(error, page.PaymentDeclined)
    assert await work.result(page.book_order(order)) == 1
    assert await work.result(page.book_an_entry(order)) == 2
    assert work.sql("select order_id, receipt from ledger") == [(7, "receipt 7")] * 2
    async with work.living(Way.LOADED):
        assert await work.result(page.first_of_two(order)) == "shipped"
        assert await work.result(page.in_time(order)) == "receipt 7"
    assert await work.result(page.ships_twice(order)) == ["parcel 7"] * 2
    assert await work.result(page.ships_all([order, order])) == ["parcel 7"] * 2
    sleeper = await work.start(page.tomorrow())
    await work.status(sleeper, "waiting")
    await sleeper.cancel()
    with pytest.raises(RunFailed, match="cancelled"):
        await sleeper.result(25)


async def what_runs_say_to_each_other(page: Any, work: Bench, order: Any) -> None:
    asked = await work.start(page.needs_approval(order))
    await work.status(asked, "waiting")
    await asked.send("approval", page.Approval("ann", False), key="click-17")
    assert await asked.result(25) == "ann said no"
    asked = await work.start(page.needs_approval(order))
    await work.result(page.approves(asked.id))
    assert await asked.result(25) == "the machine said yes"

    reporting = await work.start(page.reports(3))
    assert await work.result(page.follows(reporting.id)) in (1, 2, 3)
    await reporting.result(25)
    assert await reporting.event("progress", int) == 3

    translating = await work.start(page.translation("one two"))
    words = [entry.value async for entry in translating.stream("words", str)]
    assert words == ["<begin>", "ONE", "TWO"]

    watching = await work.start(page.watches_for_ever(0))
    for item in ("a", "b", "stop"):
        await watching.send("item", item)
    await watching.result(25)
    assert await watching.event("seen") == 2


async def how_runs_end(page: Any, work: Bench, order: Any) -> None:
    reserved = await work.start(page.reserves(order))
    await work.status(reserved, "waiting")
    await reserved.cancel(grace=30.0, reason="changed my mind")
    with pytest.raises(RunFailed, match="changed my mind"):
        await reserved.result(25)
    assert [step.name for step in await reserved.steps()] == ["request", "release"]

    assert await work.result(page.sells(order)) == "sold"
    selling = await work.start(page.sells(page.Order(9, "unicorn", 100)))
    error = await work.error_of(selling)
    assert isinstance(error, LookupError)
    assert (await work.places(selling))[-2:] == ["undo.1 step put_back", "undo.2 step refund"]
    copy = await selling.fork("2", outcomes={"2": None})
    assert await copy.result(25) == "sold"
