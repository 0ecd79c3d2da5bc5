"""What would not come back from ``jsonb`` is refused, by its path within the value."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import socket
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypedDict
from uuid import UUID

import msgspec
import pytest

from rowlock.errors import ConfigurationError, InvalidValue
from rowlock.model import values
from rowlock.model.values import Shape


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


class Named(Protocol):
    name: str


class Opaque:
    pass


def shape(annotation: Any) -> Shape:
    return Shape(annotation, "the result of step charge")


def refusal(annotation: Any, value: Any) -> InvalidValue:
    with pytest.raises(InvalidValue) as refused:
        shape(annotation).store(value)
    return refused.value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("annotation", "wrap", "path"),
    [
        (Any, lambda number: number, ""),
        (float, lambda number: number, ""),
        (float | None, lambda number: number, ""),
        (Any, lambda number: {"lines": [{}, {"price": number}]}, "lines[1].price"),
        (Order, lambda number: Order([Line("a"), Line("b", number)]), "lines[1].price"),
        (Any, lambda number: Order([Line("a", number)]), "lines[0].price"),
        (Any, lambda number: Point(1, number), "y"),
        (dict[str, Any], lambda number: {"not a name": (1, number)}, "['not a name'][1]"),
    ],
)
def test_numbers_that_json_does_not_have_are_refused(
    annotation: Any, wrap: Any, path: str, number: float
) -> None:
    error = refusal(annotation, wrap(number))
    assert error.path == path
    assert f"JSON has no number for {number}" in str(error)


def test_a_nan_is_found_in_a_class_that_compares_by_identity_of_its_key() -> None:
    @dataclasses.dataclass(eq=False)
    class Entity:
        id: int
        price: float | None

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Entity) and other.id == self.id

    assert refusal(Entity, Entity(1, math.nan)).path == "price"


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("a\0b", ""),
        ({"lines": ["", "a\\\0"]}, "lines[1]"),
        ({"outer": {"a\0": 1}}, "outer"),
    ],
)
def test_a_nul_character_is_refused(value: Any, path: str) -> None:
    error = refusal(Any, value)
    assert error.path == path
    assert "NUL" in str(error)


def test_text_that_only_looks_like_an_escaped_nul_is_accepted() -> None:
    assert shape(str).store_and_load("\\u0000")[1] == "\\u0000"


def test_a_lone_surrogate_is_refused() -> None:
    error = refusal(Any, {"names": ["ok", "\ud800"]})
    assert error.path == "names[1]"
    assert "surrogate" in str(error)


@pytest.mark.parametrize(
    "culprit",
    [lambda: 1, object(), ValueError("x"), iter([1]), 1j, Opaque, Opaque()],
    ids=lambda value: type(value).__name__,
)
def test_objects_without_a_form_in_json_are_refused(culprit: Any) -> None:
    error = refusal(Any, {"lines": [1, {"price": culprit}]})
    assert error.path == "lines[1].price"
    assert "no form in JSON" in str(error)


def test_a_socket_is_refused() -> None:
    with socket.socket() as culprit:
        assert "socket" in str(refusal(Any, [culprit]))


def test_a_forgotten_await_is_named() -> None:
    error = refusal(Any, {"later": asyncio.sleep(0)})
    assert error.path == "later"
    assert "Is an `await` missing?" in str(error)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert "or contains itself" in str(refusal(Any, endless))


def nested(levels: int) -> Any:
    value: Any = r"\"]]{"
    for level in range(levels):
        value = [value, '\\\\"['] if level % 2 else {"a": value}
    return value


def test_a_value_nested_too_deeply_is_refused() -> None:
    assert shape(Any).store(nested(values.MAX_DEPTH))
    assert shape(Any).store([nested(2)] * 500)
    for levels in (values.MAX_DEPTH + 1, 5_000, 100_000):
        assert "more than 200 levels" in str(refusal(Any, nested(levels)))


def test_an_int_too_long_to_print_is_refused() -> None:
    assert refusal(Any, {"n": 10**5000}).path == "n"


def test_keys_that_become_the_same_text_are_refused() -> None:
    error = refusal(Any, {"a": [{1: "x", "1": "y"}]})
    assert error.path == "a[0]"
    assert "1 and '1'" in str(error)


def test_keys_that_json_can_not_have_are_refused_at_their_dict() -> None:
    error = refusal(Any, {"a": {(1, 2): 3}})
    assert error.path == "a"
    assert "keys" in str(error)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "why"),
    [
        (int, "x", "", "expected `int`, got `str`"),
        (int, 1.0, "", "expected `int`, got `float`"),
        (str, 1, "", "expected `str`, got `int`"),
        (bool, 1, "", "expected `bool`, got `int`"),
        (Order, None, "", "expected `object`, got `null`"),
        (Order, Order([Line("a"), Line(5)]), "lines[1].sku", "expected `str`, got `int`"),  # type: ignore[arg-type]
        (Address, {"street": "s"}, "", "object missing required field `zip`"),
        (dict[int, int], {"x": 1}, "", "a key: expected `int`, got `str`"),
        (Literal["a"], "b", "", "invalid enum value 'b'"),
        (Path, 5, "", "expected `Path` as text, got `int`"),
    ],
)
def test_a_value_of_another_type_than_declared_is_refused(
    annotation: Any, value: Any, path: str, why: str
) -> None:
    error = refusal(annotation, value)
    assert error.path == path
    assert why in str(error)


def test_a_value_beyond_the_limit_is_refused_with_limit_and_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(values, "MAX_VALUE_BYTES", 100)

    assert shape(str).store("x" * 98)
    error = refusal(str, "x" * 99)

    assert "101 bytes" in str(error)
    assert "limit is 100" in str(error)


def test_text_that_does_not_fit_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(InvalidValue, match="expected `str`, got `int`") as refused:
        shape(Order).load('{"lines": [], "note": 5}')
    assert refused.value.path == "note"


@pytest.mark.parametrize("text", ["", "{", "1 2", "NaN", "[" * 5000])
def test_text_that_is_no_json_is_refused_when_it_is_loaded(text: str) -> None:
    with pytest.raises(InvalidValue):
        shape(Any).load(text)


@pytest.mark.parametrize(
    "annotation",
    [Opaque, list[Opaque], Named, Order | Line, str | UUID, complex, msgspec.Raw, "Nowhere"],
    ids=str,
)
def test_an_annotation_that_json_can_not_become_is_refused_at_once(annotation: Any) -> None:
    with pytest.raises(ConfigurationError, match="the result of step charge is declared as") as e:
        shape(annotation)
    assert "Use plain types, a dataclass" in str(e.value)


def test_the_error_names_the_value_and_the_place() -> None:
    with pytest.raises(InvalidValue, match=r"^the input of f can't be used at order\.lines"):
        Shape(Order, "the input of f", "order").store(Order([Line("a", math.nan)]))
    with pytest.raises(InvalidValue, match=r"at order\[0\]: "):
        Shape(Any, "the input of f", "order").store([math.nan])
