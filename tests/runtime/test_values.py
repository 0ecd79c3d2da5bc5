"""What goes in and comes out: the live code gets the value as every later load gives it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from rowlock import App
from rowlock.errors import InvalidValue
from runtime.bench import Open, Way

app = App("values")


@dataclass
class Line:
    item: str
    price: Decimal


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    tags: tuple[str, ...] = ()
    due: datetime | None = None


ORDER = Order(UUID(int=7), [Line("tea", Decimal("2.50"))], ("new",))


@app.step
async def anything(what: str) -> Any:
    return {
        "tuple": (1, (2, 3)),
        "keys": {"b": 1, "a": {"d": (), "c": None}},
        "order": ORDER,
        "time": timedelta(seconds=90),
        "float": 1e300,
    }[what]


@app.step
async def typed() -> Order:
    return ORDER


@app.step
async def gives_back(order: Order) -> Order:
    order.lines.append(Line("mug", Decimal(9)))
    return order


@app.step
async def pair() -> tuple[int, Line]:
    return 1, ORDER.lines[0]


@app.step
async def keep(seen: Any) -> Any:
    return seen


@app.step
async def bad(what: str) -> Any:
    return {"object": {"a": [1, object()]}, "nan": [float("nan")], "nul": {"x": "a\0b"}}[what]


@app.step
async def liar() -> list[int]:
    return ["x"]  # type: ignore[list-item]


@app.workflow
async def sees(what: str) -> list[Any]:
    value = await anything(what)
    seen = [repr(value)]
    kept = await keep(seen)
    await app.sleep(0.02)
    assert kept == seen, (kept, seen)
    return [value, *seen]


@app.workflow
async def typed_values(order: Order) -> Order:
    first = await typed()
    assert first == ORDER
    assert first is not ORDER  # as loaded, not as returned
    number, line = await pair()
    assert (number, line) == (1, ORDER.lines[0])
    given_back = await gives_back(order)
    assert order.lines is not given_back.lines
    await app.sleep(0.02)
    assert type(given_back.lines[1].price) is Decimal
    return given_back


@app.workflow
async def meets(what: str) -> str:
    try:
        await (liar() if what == "liar" else bad(what))
    except InvalidValue as error:
        await app.sleep(0.02)
        return f"{error.what} at {error.path}"
    return "nothing was refused"


@app.workflow
async def returns_an_object() -> Any:
    await app.sleep(0.02)
    return {"here": [object()]}


@app.workflow
async def returns_another_type() -> int:
    return "x"  # type: ignore[return-value]


@app.workflow
def sync_returns_an_object() -> Any:
    return [object()]


async def test_without_an_annotation_json_comes_back_live_too(bench: Open) -> None:
    async with bench(app) as work:
        value, shown = await work.every_way(lambda: sees("tuple"))
        assert (value, shown) == ([1, [2, 3]], "[1, [2, 3]]")
        value, shown = await work.every_way(lambda: sees("keys"))
        assert shown == "{'a': {'c': None, 'd': []}, 'b': 1}"
        value, _ = await work.every_way(lambda: sees("order"))
        assert value["lines"] == [{"item": "tea", "price": "2.50"}]
        await work.every_way(lambda: sees("time"))
        await work.every_way(lambda: sees("float"))


async def test_annotated_values_come_back_as_their_types_and_as_copies(bench: Open) -> None:
    async with bench(app) as work:
        for way in (Way.LOADED, Way.UNLOADED):
            order = await work.result_when(way, typed_values(ORDER))
            assert isinstance(order, Order)
            assert [line.item for line in order.lines] == ["tea", "mug"]
    assert len(ORDER.lines) == 1


@pytest.mark.parametrize(
    ("what", "path"), [("object", "a[1]"), ("nan", "[0]"), ("nul", "x"), ("liar", "[0]")]
)
async def test_a_step_whose_value_cant_be_stored_fails_with_its_path(
    bench: Open, what: str, path: str
) -> None:
    async with bench(app) as work:
        told = await work.every_way(lambda: meets(what))
        name = "liar" if what == "liar" else "bad"
        assert told == f"the result of step {name} at {path}"


async def test_a_result_that_cant_be_stored_fails_the_run(bench: Open) -> None:
    async with bench(app) as work:
        error = await work.error(returns_an_object())
        assert isinstance(error, InvalidValue)
        assert "here[0]" in str(error)
        for flow in (returns_another_type, sync_returns_an_object):
            assert isinstance(await work.error(flow()), InvalidValue)


async def test_an_input_that_does_not_fit_fails_the_run(bench: Open) -> None:
    async with bench(app) as work:
        run_id = work.sql.one(
            "select rowlock.start('typed_values', '{\"order\": {\"id\": 7}}', app => 'values')"
        )
        error = await work.error_of(work.client.run(run_id))
        assert isinstance(error, InvalidValue)
        assert "order" in str(error)
