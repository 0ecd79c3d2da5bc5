"""A workflow's input is one JSON object by parameter name, which anyone may write."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from rowlock.errors import ConfigurationError, InvalidValue, MisplacedCall
from rowlock.model import values
from rowlock.model.inputs import Inputs, hints_of

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


@dataclass
class Line:
    sku: str
    price: Decimal


@dataclass
class Order:
    lines: list[Line]


async def fulfil(order: Order, note: str = "none", *, tags: list[str] | None = None) -> str:
    return ""


def test_arguments_are_stored_by_name_and_come_back_typed() -> None:
    order = Order([Line("a", Decimal("1.50"))])
    inputs = Inputs.of(fulfil)

    text = inputs.bind((order, "quick"), {"tags": ["x"]})

    assert msgspec.json.decode(text) == {
        "order": {"lines": [{"sku": "a", "price": "1.50"}]},
        "note": "quick",
        "tags": ["x"],
    }
    assert inputs.load(text) == {"order": order, "note": "quick", "tags": ["x"]}


def test_defaults_are_stored_so_that_a_later_default_changes_no_begun_run() -> None:
    async def then(note: str = "old") -> None: ...
    async def now(note: str = "new") -> None: ...

    assert Inputs.of(now).load(Inputs.of(then).bind((), {})) == {"note": "old"}


def test_what_a_caller_in_sql_leaves_out_takes_its_default() -> None:
    loaded = Inputs.of(fulfil).load('{"order": {"lines": []}}')
    assert loaded == {"order": Order([]), "note": "none", "tags": None}


def test_a_default_is_never_shared_between_runs() -> None:
    async def collect(into: list[int] = []) -> None: ...  # noqa: B006 - what is tested

    inputs = Inputs.of(collect)
    inputs.load("{}")["into"].append(1)
    assert inputs.load("{}") == {"into": []}


@pytest.mark.parametrize("text", ["null", "{}", None, b" null "])
def test_no_input_is_an_empty_object(text: str | bytes | None) -> None:
    async def tick() -> None: ...

    assert Inputs.of(tick).load(text) == {}
    assert Inputs.of(tick).bind((), {}) == "{}"


def test_parameters_without_annotation_take_any_json() -> None:
    def anything(value, other=1):  # type: ignore[no-untyped-def]
        pass

    loaded = Inputs.of(anything).load('{"value": {"a": [1]}}')
    assert loaded == {"value": {"a": [1]}, "other": 1}


def test_the_first_parameter_can_be_left_out() -> None:
    class Service:
        async def run(self, order: str) -> None: ...

    assert Inputs.of(Service.run, skip_first=True).bind(("x",), {}) == '{"order":"x"}'


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "missing a required argument: 'order'"),
        ((Order([]),), {"other": 1}, "unexpected keyword argument 'other'"),
        ((Order([]), "x", []), {}, "too many positional arguments"),
    ],
)
def test_a_wrong_call_is_refused_like_a_call_of_the_function(
    args: tuple[Any, ...], kwargs: dict[str, Any], why: str
) -> None:
    with pytest.raises(MisplacedCall, match=why):
        Inputs.of(fulfil).bind(args, kwargs)


def test_an_argument_that_does_not_fit_is_refused_by_its_path() -> None:
    with pytest.raises(InvalidValue) as refused:
        Inputs.of(fulfil).bind((Order([Line("a", Decimal(1)), Line(7, Decimal(1))]),), {})  # type: ignore[arg-type]
    assert refused.value.path == "order.lines[1].sku"

    async def weigh(grams: float) -> None: ...

    with pytest.raises(InvalidValue) as refused:
        Inputs.of(weigh).bind((math.nan,), {})
    assert refused.value.path == "grams"


@pytest.mark.parametrize(
    ("text", "path", "why"),
    [
        ('{"order": {"lines": []}, "ordr": 1}', "ordr", "there is no such parameter"),
        ('{"note": "x"}', "order", "it is missing and has no default"),
        ("null", "order", "it is missing and has no default"),
        ("[]", "", "it is not a JSON object"),
        ("{", "", "it is not a JSON object"),
    ],
)
def test_input_with_wrong_names_is_refused_with_the_right_ones(
    text: str, path: str, why: str
) -> None:
    with pytest.raises(InvalidValue, match=why) as refused:
        Inputs.of(fulfil).load(text)
    assert refused.value.path == path
    assert "Expected names: order, note, tags." in str(refused.value)


def test_input_of_a_wrong_type_is_refused_by_its_path() -> None:
    with pytest.raises(InvalidValue, match="expected `array`, got `int`") as refused:
        Inputs.of(fulfil).load('{"order": {"lines": 5}}')
    assert refused.value.path == "order.lines"


def test_the_limit_is_for_all_arguments_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pair(a: str, b: str) -> None: ...

    monkeypatch.setattr(values, "MAX_VALUE_BYTES", 100)
    with pytest.raises(InvalidValue, match="limit is 100"):
        Inputs.of(pair).bind(("x" * 60, "y" * 60), {})


def variadic(*args: int) -> None: ...
def keywords(**kwargs: int) -> None: ...
def positional(a: int, /) -> None: ...


@pytest.mark.parametrize("function", [variadic, keywords, positional])
def test_parameters_without_a_name_of_their_own_are_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="stored by parameter name"):
        Inputs.of(function)


def test_an_annotation_that_json_can_not_become_is_refused_with_its_parameter() -> None:
    async def lock(mutex: object, by: type[int]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"the input of .*lock\.by is declared as"):
        Inputs.of(lock)


def test_an_annotation_that_does_not_exist_at_run_time_is_refused() -> None:
    async def later(value: Unknown) -> None: ...

    with pytest.raises(ConfigurationError, match="outside `if TYPE_CHECKING:`"):
        Inputs.of(later)


def test_a_default_that_does_not_fit_its_annotation_is_refused() -> None:
    async def tick(times: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013

    with pytest.raises(ConfigurationError, match=r"add `\| None` to the annotation"):
        Inputs.of(tick)


def test_hints_tell_the_type_of_the_result_too() -> None:
    assert hints_of(fulfil)["return"] is str
