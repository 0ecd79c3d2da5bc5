"""What may be stored comes back as declared, and looks the same live and on replay."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypedDict
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rowlock.errors import InvalidValue
from rowlock.model.values import Shape


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Line:
    sku: str
    price: float | None = None


@dataclasses.dataclass
class Order:
    lines: list[Line]
    note: str = ""


class Point(NamedTuple):
    x: int
    y: float


class Address(TypedDict):
    street: str
    zip: str


class Node(msgspec.Struct):
    name: str
    inner: Node | None = None


class PydanticLike:
    """Has what Rowlock uses of a pydantic model; the real one is no dependency."""

    def __init__(self, tags: dict[str, int]) -> None:
        self.tags = tags

    def model_dump(self, **_: object) -> dict[str, Any]:
        return {"tags": self.tags}

    @classmethod
    def model_validate_json(cls, text: bytes) -> PydanticLike:
        plain = msgspec.json.decode(text)
        if not isinstance(plain, dict) or set(plain) != {"tags"}:
            raise ValueError("tags: Field required")
        return cls(plain["tags"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PydanticLike) and self.tags == other.tags


def shape(annotation: Any) -> Shape:
    return Shape(annotation, "the result of step charge")


ROUND_TRIPS: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, 5),
    (int, 2**64),
    (int, -(2**63) - 1),
    (int, 10**400),
    (Any, 10**400),
    (float, 0.1),
    (float, 1e300),
    (str, "naïve \N{SNOWMAN} \\u0000 \N{GRINNING FACE}"),
    (bytes, bytes(range(256))),
    (Decimal, Decimal("12.340")),
    (datetime, datetime(2024, 2, 29, 12, 30, 1, 5, UTC)),
    (datetime, datetime(2024, 2, 29, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    (datetime, datetime(2024, 2, 29, 12)),
    (date, date(2024, 2, 29)),
    (time, time(23, 59, 59, 999_999)),
    (timedelta, timedelta(days=-1, microseconds=1)),
    (UUID, UUID(int=7)),
    (Colour, Colour.RED),
    (Level, Level.HIGH),
    (Word, Word.YES),
    (Order, Order([Line("a", 1.5), Line("b", None)], note="x")),
    (Point, Point(1, 2.5)),
    (Address, {"street": "s", "zip": "z"}),
    (Node, Node("a", Node("b"))),
    (Literal["a", "b"], "a"),
    (int | str, "x"),
    (int | None, None),
    (list[Decimal], [Decimal(1)]),
    (tuple[int, str], (1, "x")),
    (tuple[int, ...], (1, 2)),
    (set[UUID], {UUID(int=1), UUID(int=2)}),
    (frozenset[int], frozenset({1, 2})),
    (dict[str, Order], {"a": Order([])}),
    (dict[int, str], {10: "a", 9: "b"}),
    (dict[UUID, int], {UUID(int=1): 1}),
    (Path, Path("/tmp/x")),
    (Path | None, Path("x")),
    (object, {"a": [1, None]}),
    (PydanticLike, PydanticLike({"a": 1})),
    (Any, {"a": [1, 2.5, None, True, "x", {}]}),
]


@pytest.mark.parametrize(("annotation", "value"), ROUND_TRIPS, ids=lambda part: str(part)[:30])
def test_a_value_comes_back_as_it_was_declared(annotation: Any, value: Any) -> None:
    stored, loaded = shape(annotation).store_and_load(value)
    again = shape(annotation).load(stored)

    assert loaded == value
    assert again == value
    assert type(loaded) is type(again) is type(value)


plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner)
    ),
    max_leaves=20,
)


def same_with_types(one: Any, other: Any) -> bool:
    """Equality that tells 1 from 1.0, and dicts with another order of keys apart."""
    return repr(one) == repr(other)


@given(plain_data)
@example(1e16)
@example([1e23, -1e300, "1e20 and -0.0", 'a"1e20'])
@example({"a\\": -1.5e22})
@example(-0.0)
def test_all_plain_data_comes_back_and_always_looks_the_same(value: Any) -> None:
    text, loaded = shape(Any).store_and_load(value)

    assert loaded == value
    assert same_with_types(loaded, shape(Any).load(text))
    assert same_with_types(loaded, shape(Any).load(as_jsonb_prints(text)))


def as_jsonb_prints(text: str) -> str:
    """A stand-in for the server: its order of keys, its way to print numbers."""

    def printed(value: Any) -> Any:
        if isinstance(value, dict):
            keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
            return {key: printed(value[key]) for key in keys}
        if isinstance(value, list):
            return [printed(part) for part in value]
        if isinstance(value, Decimal):
            return msgspec.Raw(f"{value if value else abs(value):f}".encode())
        return value

    numbers_kept = msgspec.json.Decoder(float_hook=Decimal).decode(text)
    return msgspec.json.encode(printed(numbers_kept)).decode()


@given(st.one_of(st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.floats())))
@example("\\u0000")
@example("\\\0")
def test_what_is_accepted_holds_nothing_that_jsonb_refuses(value: Any) -> None:
    try:
        text = shape(Any).store(value)
    except InvalidValue:
        return
    assert "\0" not in repr_of_all_text(msgspec.json.decode(text))
    text.encode()  # no lone surrogate
    assert msgspec.json.decode(text) == value


def repr_of_all_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(map(repr_of_all_text, value))
    if isinstance(value, dict):
        return repr_of_all_text([*value, *value.values()])
    return ""


@given(st.timedeltas())
def test_every_timedelta_comes_back(value: timedelta) -> None:
    assert shape(timedelta).store_and_load(value)[1] == value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_decimal_comes_back(value: Decimal) -> None:
    assert str(shape(Decimal).store_and_load(value)[1]) == str(value)


def test_dicts_come_back_in_alphabetical_order_whatever_jsonb_made_of_them() -> None:
    given_order = {"beta": 1, "b": 2, "alpha": 3}

    for annotation in (Any, dict[str, int], dict[str, Any], object):
        text, live = shape(annotation).store_and_load(given_order)
        replayed = shape(annotation).load(as_jsonb_prints(text))
        assert list(live) == list(replayed) == ["alpha", "b", "beta"]


def test_a_dataclass_delivered_as_plain_data_has_its_fields_in_the_same_order_too() -> None:
    text, live = shape(Any).store_and_load(Order([Line("a")]))

    assert list(live) == list(shape(Any).load(as_jsonb_prints(text))) == ["lines", "note"]
    assert list(live["lines"][0]) == ["price", "sku"]


def test_without_an_annotation_values_come_back_as_plain_json() -> None:
    value = {1: (UUID(int=1), Colour.RED), "when": date(2024, 2, 29)}

    loaded = shape(Any).store_and_load(value)[1]

    assert loaded == {"1": [str(UUID(int=1)), "red"], "when": "2024-02-29"}


def test_subclasses_of_plain_types_are_stored_as_what_they_extend() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "something else"

    class Number(float):
        pass

    assert shape(Any).store([Text("x"), Number(1.5)]) == '["x",1.5]'


def test_an_int_is_good_for_a_declared_float() -> None:
    loaded = shape(float).store_and_load(3)[1]
    assert isinstance(loaded, float)


def test_a_loop_for_ever_may_be_declared_as_such() -> None:
    assert shape(NoReturn).store(None) == "null"
