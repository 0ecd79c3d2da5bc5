"""A Secret is never printed, is stored only where a codec hides it, and comes back as one."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import pickle
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple, TypedDict

import msgspec
import pytest

from rowlock import Secret
from rowlock.codecs import AesGcm, Zlib
from rowlock.errors import ConfigurationError, InvalidValue
from rowlock.model.envelope import Codecs
from rowlock.model.failure import Failure
from rowlock.model.inputs import Arguments, Inputs
from rowlock.model.values import Shape

WORD = "hunter2"
MASK = "Secret(***)"
HIDING = Codecs(AesGcm("test", bytes(32)))


@dataclasses.dataclass
class Login:
    user: str
    password: Secret[str]
    backup: list[Secret[str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Loose:
    password: Secret[str] | None
    more: Any = None


class Pair(NamedTuple):
    user: str
    token: Secret[str]


class Named(TypedDict):
    token: Secret[str]


class Tagged(msgspec.Struct):
    token: Secret[dict[str, int]]


@dataclasses.dataclass(frozen=True)
class Pin:
    digits: str


def shape(annotation: Any, codecs: Codecs | None = HIDING) -> Shape:
    return Shape(annotation, "the result of step login", codecs=codecs)


def refusal(annotation: Any, value: Any, codecs: Codecs | None = HIDING) -> InvalidValue:
    with pytest.raises(InvalidValue) as refused:
        shape(annotation, codecs).store(value)
    assert_hidden(refused.value)
    return refused.value


def assert_hidden(error: BaseException) -> None:
    """Neither a printout of the error nor what is recorded of it tells the word."""
    printed = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    lines = printed.splitlines()
    assert not [line for line in lines if WORD in line and "refusal(" not in line]
    assert WORD not in repr([list(everything(error)), error.args])
    failure = Failure.of(error)
    assert WORD not in failure.message + repr(failure.args) + repr(failure.state)
    assert failure.cause is None or WORD not in failure.cause.to_json()


def everything(error: BaseException | None) -> Iterator[Any]:
    while error is not None:
        yield error.args
        yield [str(value) for value in vars(error).values()]
        error = error.__cause__


# --- in Python


def test_a_secret_shows_its_mask_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(WORD)
    logging.getLogger("shop").warning("%s %r", secret, {"login": Login("bob", secret)})

    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret:>20}", caplog.text]
    shown += [repr([secret]), repr(Login("bob", secret)), f"%s {secret}" % secret]
    assert all(MASK in one and WORD not in one for one in shown)


def test_only_reveal_gives_the_value() -> None:
    secret = Secret(WORD)

    assert secret.reveal() == WORD
    assert not hasattr(secret, "__dict__")
    for leak in (pickle.dumps, json.dumps, msgspec.json.encode, msgspec.to_builtins):
        with pytest.raises(TypeError) as refused:
            leak(secret)
        assert WORD not in str(refused.value)


def test_secrets_are_equal_if_their_values_are() -> None:
    assert Secret(WORD) == Secret(WORD)
    assert Secret(WORD) != Secret("other")
    assert Secret(WORD) != WORD
    assert len({Secret(WORD), Secret(WORD)}) == 1
    assert copy.deepcopy(Secret([WORD])) == Secret([WORD])


def test_an_error_that_holds_a_secret_records_its_mask() -> None:
    error = ValueError("no login with", Secret(WORD))
    error.login = Login("bob", Secret(WORD))  # type: ignore[attr-defined]

    failure = Failure.of(error)

    assert WORD not in failure.to_json()
    assert MASK in failure.message


# --- stored


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Secret[str], Secret(WORD)),
        (Secret, Secret({"a": [1]})),
        (Secret[Any], Secret(None)),
        (Secret[str] | None, Secret(WORD)),
        (Secret[str] | None, None),
        (Secret[bytes], Secret(b"\0\xff")),
        (Secret[Pin], Secret(Pin(WORD))),
        (Secret[dict[int, float]], Secret({1: 1e20})),
        (list[Secret[int]], [Secret(1), Secret(10**30)]),
        (dict[str, Secret[str]], {"b": Secret("x"), "a": Secret("y")}),
        (Login, Login("bob", Secret(WORD), [Secret("x")])),
        (Pair, Pair("bob", Secret(WORD))),
        (Named, {"token": Secret(WORD)}),
        (Tagged, Tagged(Secret({"a": 1}))),
        (Secret[Secret[str]], Secret(Secret(WORD))),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_secret_comes_back_as_one_and_nobody_can_read_it_meanwhile(
    annotation: Any, value: Any
) -> None:
    text, loaded = shape(annotation).store_and_load(value)

    assert WORD not in text
    assert loaded == shape(annotation).load(text) == value
    assert type(loaded) is type(value)
    assert WORD not in repr(loaded)


@pytest.mark.parametrize("codecs", [None, Codecs(Zlib(at_least=0))], ids=["none", "zlib"])
@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (Secret[str], Secret(WORD), ""),
        (Secret[str], WORD, ""),
        (Login, Login("bob", Secret(WORD)), "password"),
        (list[Secret[str]], [Secret(WORD)], "[0]"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_without_a_codec_that_hides_it_a_secret_is_refused(
    annotation: Any, value: Any, path: str, codecs: Codecs | None
) -> None:
    error = refusal(annotation, value, codecs)

    assert error.path == path
    assert "there is no codec that hides it" in str(error)
    assert "codec=AesGcm.from_environment()" in str(error)


def test_a_declared_secret_that_is_not_there_needs_no_codec() -> None:
    assert shape(Loose, None).store(Loose(None)) == '{"more":null,"password":null}'


@pytest.mark.parametrize("codecs", [None, HIDING], ids=["none", "hiding"])
@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (Any, Secret(WORD), ""),
        (Any, {"login": [Secret(WORD)]}, "login[0]"),
        (dict[str, Any], {"login": Login("bob", Secret(WORD))}, "login.password"),
        (str, Secret(WORD), ""),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_secret_that_is_not_declared_is_refused_for_it_would_come_back_bare(
    annotation: Any, value: Any, path: str, codecs: Codecs | None
) -> None:
    error = refusal(annotation, value, codecs)
    assert error.path == path
    assert "not declared as one" in str(error)


def test_one_declared_and_one_undeclared_secret_are_told_apart() -> None:
    error = refusal(Loose, Loose(Secret(WORD), more={"x": Secret(WORD)}))
    assert error.path == "more.x"
    assert "not declared as one" in str(error)


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (Login, Login("bob", Secret(f"{WORD}\ud800")), "password"),
        (Login, Login("bob", Secret(f"{WORD}\0")), "password"),
        (Login, Login("bob", Secret(5)), "password"),  # type: ignore[arg-type]
        (Login, Login(f"{WORD}\ud800", Secret("")), "user"),
        (Secret[int], Secret(WORD), ""),
        (Secret[Any], Secret({"a": math.nan, "b": WORD}), ""),
        (Secret[Any], Secret({1: WORD, "1": WORD}), ""),
        (Secret[Any], Secret([object(), WORD]), ""),
        (Secret[Pin], Secret({"digits": [WORD]}), ""),
        (Secret[object], Secret(lambda: WORD), ""),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_is_wrong_with_a_secret_is_said_without_it(
    annotation: Any, value: Any, path: str
) -> None:
    assert refusal(annotation, value).path == path


def test_a_secret_that_does_not_load_is_not_shown_either() -> None:
    with pytest.raises(InvalidValue) as refused:
        shape(list[Secret[int]]).load(f'[1, "{WORD}"]')
    assert refused.value.path == "[1]"
    assert_hidden(refused.value)


def test_a_secret_of_what_json_can_not_become_is_refused_when_it_is_to_be_stored() -> None:
    class Opaque:
        pass

    assert "not as" in str(refusal(Secret[Opaque], WORD))


# --- as arguments


def test_arguments_and_defaults_may_be_secrets() -> None:
    async def login(user: str, password: Secret[str] = Secret("none")) -> None: ...  # noqa: B008

    inputs = Inputs.of(login, codecs=HIDING)
    text = inputs.bind(("bob", Secret(WORD)), {})

    assert WORD not in text
    assert inputs.load(text) == {"user": "bob", "password": Secret(WORD)}
    assert inputs.load('{"user": "x"}')["password"] == Secret("none")
    with pytest.raises(ConfigurationError, match="no codec that hides it") as refused:
        Inputs.of(login)
    assert "none" not in str(refused.value)


def test_a_plain_value_from_sql_is_good_for_a_secret() -> None:
    async def login(password: Secret[str]) -> None: ...

    loaded = Inputs.of(login).load(f'{{"password": "{WORD}"}}')
    assert loaded == {"password": Secret(WORD)}


def test_a_call_without_the_code_takes_secrets_if_they_are_hidden_when_it_is_started() -> None:
    given = Arguments("login", {"user": "bob", "deep": [Secret(WORD)]})

    assert WORD not in repr(given)
    for codecs in (None, Codecs(Zlib())):
        with pytest.raises(InvalidValue, match=r"at deep\[0\]: it is a Secret") as refused:
            given.stored(codecs)
        assert_hidden(refused.value)

    async def login(user: str, deep: list[Secret[str]]) -> None: ...

    text = given.stored(HIDING)
    assert WORD not in text
    assert Inputs.of(login, codecs=HIDING).load(text)["deep"] == [Secret(WORD)]


def test_a_value_that_is_loaded_elsewhere_takes_secrets_anywhere_if_they_are_hidden() -> None:
    sent = Shape(Any, "a message", codecs=HIDING, outgoing=True).store({"deep": [Secret(WORD)]})

    assert WORD not in sent
    assert shape(dict[str, list[Secret[str]]]).load(sent) == {"deep": [Secret(WORD)]}
    with pytest.raises(InvalidValue, match=r"at deep\[0\]: it is a Secret"):
        Shape(Any, "a message", outgoing=True).store({"deep": [Secret(WORD)]})
