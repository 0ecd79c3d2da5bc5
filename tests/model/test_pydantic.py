"""Models of pydantic, where it is installed: stored as JSON, checked by pydantic when loaded."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pydantic
import pydantic.dataclasses
import pytest

from rowlock import Secret
from rowlock.codecs import AesGcm
from rowlock.errors import InvalidValue
from rowlock.model.envelope import Codecs
from rowlock.model.values import Shape

HIDING = Codecs(AesGcm("test", bytes(32)))
WORD = "hunter2"


class Line(pydantic.BaseModel):
    sku: str
    price: Decimal


class Order(pydantic.BaseModel):
    id: UUID
    placed: datetime
    lines: list[Line]
    rates: dict[str, float] = {}
    tags: set[int] = set()


class Aliased(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(alias_generator=str.upper, populate_by_name=True)
    name: str


@pydantic.dataclasses.dataclass
class Checked:
    amount: int


class Masked(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


class Login(pydantic.BaseModel):
    user: str
    password: Secret[str]
    backup: list[Secret[int]] = []


class Outer(pydantic.BaseModel):
    login: Login | None = None


ORDER = Order(
    id=UUID(int=7),
    placed=datetime(2024, 2, 29, tzinfo=UTC),
    lines=[Line(sku="a", price=Decimal("1.50"))],
    rates={"bb": 1e20, "a": -0.0},
    tags={1, 2},
)


def shape(annotation: Any, codecs: Codecs | None = None) -> Shape:
    return Shape(annotation, "the result of step charge", codecs=codecs)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Order, ORDER),
        (Order | None, None),
        (list[Order], [ORDER]),
        (dict[str, Line], {"x": ORDER.lines[0]}),
        (Aliased, Aliased(name="x")),
        (Checked, Checked(5)),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_model_comes_back(annotation: Any, value: Any) -> None:
    text, loaded = shape(annotation).store_and_load(value)

    assert loaded == shape(annotation).load(text) == value
    assert type(loaded) is type(value)


def test_what_does_not_fit_is_said_in_a_line_and_without_the_value() -> None:
    with pytest.raises(InvalidValue) as refused:
        shape(list[Order]).load(f'[{{"id": "{WORD}", "lines": [{{"sku": 5}}]}}]')

    error = refused.value
    assert error.path == "[0]"
    assert "id: Input should be a valid UUID" in str(error)
    assert "lines.0.price: Field required" in str(error)
    assert WORD not in str(error) + repr(error.__cause__)
    assert "errors.pydantic.dev" not in str(error)


@pytest.mark.parametrize(("annotation", "path"), [(Masked, "password"), (Any, "[0].password")])
def test_a_secret_of_pydantics_own_is_refused_for_only_its_stars_would_be_stored(
    annotation: Any, path: str
) -> None:
    value = Masked(user="bob", password=pydantic.SecretStr(WORD))

    with pytest.raises(InvalidValue, match=r"declare it as rowlock.Secret\[str\]") as refused:
        shape(annotation).store(value if annotation is Masked else [value])
    assert refused.value.path == path


def test_stars_that_are_meant_are_stored() -> None:
    assert shape(Any).store_and_load({"note": "**********"})[1] == {"note": "**********"}


def test_a_model_may_hold_secrets() -> None:
    login = Login(user="bob", password=Secret(WORD), backup=[Secret(1)])
    assert Login.model_validate({"user": "bob", "password": WORD, "backup": [1]}) == login

    for value, annotation in ((login, Login), (Outer(login=login), Outer), ([login], list[Login])):
        text, loaded = shape(annotation, HIDING).store_and_load(value)
        assert WORD not in text
        assert loaded == shape(annotation, HIDING).load(text) == value
        assert WORD not in repr(loaded)


def test_pydantic_itself_shows_only_the_mask() -> None:
    login = Login(user="bob", password=Secret(WORD))

    assert WORD not in login.model_dump_json() + repr(login) + repr(login.model_dump())
    assert login.model_dump()["password"] == Secret(WORD)


def test_a_secret_in_a_model_needs_a_codec_and_a_declaration_too() -> None:
    login = Login(user="bob", password=Secret(WORD))

    with pytest.raises(InvalidValue, match="there is no codec that hides it") as refused:
        shape(Outer).store(Outer(login=login))
    assert refused.value.path == "login.password"
    for codecs in (None, HIDING):
        with pytest.raises(InvalidValue, match="not declared as one"):
            shape(Any, codecs).store([login])
