"""An error is recorded as data and raised again from it; the data never decides what runs."""

from __future__ import annotations

import asyncio
import json
import traceback
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowlock import errors
from rowlock.errors import ConfigurationError, InvalidValue, StepFailed
from rowlock.model import failure as module
from rowlock.model.failure import ErrorRegistry, Failure

WHAT = "step charge"


class SoldOut(Exception):
    """Its constructor takes something else than its args."""

    def __init__(self, sku: str, left: Decimal) -> None:
        self.sku = sku
        self.left = left
        super().__init__(f"{sku} is sold out")


class Repeats(Exception):
    """Its constructor, given its args, makes another message."""

    def __init__(self, code: Any) -> None:
        super().__init__(f"declined: {code}")


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def rebuilt(error: BaseException, *types: type[Exception]) -> BaseException:
    """What live code and a replay get; they get the same."""
    failure = Failure.of(error)
    again = Failure.from_json(failure.to_json())
    assert again == failure
    return ErrorRegistry(types).rebuild(again, WHAT)


# --- raising again


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        ValueError(),
        KeyError("x"),
        KeyError(("a", 1)),
        RuntimeError("a", 2, None, 1.5, [1, {"b": (1,)}], {1: "x"}, 1e20, -0.0),
        FileNotFoundError(2, "No such file", "/x"),
        TimeoutError("late"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ImportError("no", name="nope"),
        ZeroDivisionError("division by zero"),
        SoldOut("b-1", Decimal("0.5")),
        Repeats(5),
        errors.StepTimeout(WHAT, 1.5),
        errors.UnknownRun(UUID(int=1)),
        errors.RunFailed(UUID(int=1), "fulfil", "failed", "ValueError", "x"),
        errors.InvalidValue("x", "lines[0]", "why"),
        errors.StepFailed("other", "a.B", "m", "trace"),
    ],
    ids=repr,
)
def test_a_known_error_is_raised_as_itself_with_all_its_facts(error: Exception) -> None:
    again = rebuilt(error, SoldOut, Repeats)

    assert type(again) is type(error)
    assert str(again) == str(error)
    assert repr(again.args) == repr(error.args)
    assert vars(again) == vars(error)


def test_notes_come_back() -> None:
    error = ValueError("x")
    error.add_note("while paying")
    assert rebuilt(error).__notes__ == ["while paying"]


def test_a_fact_that_can_not_be_kept_exactly_is_left_out_but_the_type_stays() -> None:
    error = SoldOut("b-1", Decimal(1))
    vars(error).update(response=object(), reason=None)
    again = rebuilt(error, SoldOut)
    assert vars(again) == {"sku": "b-1", "left": Decimal(1), "reason": None}

    other = rebuilt(ValueError("x", object()))
    assert type(other) is ValueError
    assert "x" in str(other)


def test_an_unknown_error_becomes_step_failed_with_the_recorded_facts() -> None:
    again = rebuilt(raised(SoldOut("b-1", Decimal(1))))

    assert isinstance(again, StepFailed)
    assert again.error_type == f"{__name__}.SoldOut"
    assert again.error_message == "b-1 is sold out"
    assert "in raised" in again.error_traceback


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(1),
        errors.Suspended(),
        StopIteration(1),
    ],
    ids=repr,
)
def test_what_steers_the_process_is_never_raised_from_data(error: BaseException) -> None:
    assert isinstance(rebuilt(error), StepFailed)


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "exec", "rowlock.errors.UUID", ""])
def test_only_registered_types_are_ever_made(name: str) -> None:
    failure = Failure(type=name, message="m", args=["echo"])
    assert isinstance(ErrorRegistry().rebuild(failure, WHAT), StepFailed)


def test_recorded_facts_that_make_no_sense_do_no_harm() -> None:
    failure = Failure(
        type="ValueError",
        message="m",
        args=[{"uuid": "nonsense"}, {"what": 1, "ever": 2}],
        state={"__class__": "x", "__traceback__": 5, "ok": 1, "bad": {"os.system": "x"}},
    )

    again = ErrorRegistry().rebuild(failure, WHAT)

    assert type(again) is ValueError
    assert str(again) == "m"
    assert vars(again) == {"ok": 1}


def test_a_type_that_breaks_when_it_is_made_becomes_step_failed() -> None:
    class Broken(Exception):
        armed = False

        def __str__(self) -> str:
            if self.armed:
                raise RuntimeError
            return "fine"

    failure = Failure.of(Broken())
    Broken.armed = True
    assert isinstance(ErrorRegistry([Broken]).rebuild(failure, WHAT), StepFailed)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, asyncio.CancelledError, int, "ValueError"])
def test_only_exceptions_can_be_registered(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a subclass of Exception"):
        ErrorRegistry([kind])


def test_two_types_of_one_name_are_refused() -> None:
    one, other = (type("Twin", (Exception,), {}) for _ in range(2))
    registry = ErrorRegistry([one, one])
    with pytest.raises(ConfigurationError, match="two error types are called"):
        registry.register(other)


# --- where it happened


def test_a_printout_shows_where_the_error_was_raised() -> None:
    again = rebuilt(raised(ValueError("deep")))

    assert "in raised" in "".join(traceback.format_exception(again))


def test_causes_come_back_and_a_printout_shows_where_each_was_raised() -> None:
    error = raised(ValueError("outer"), cause=raised(SoldOut("b-1", Decimal(1))))

    again = rebuilt(error, SoldOut)

    assert isinstance(again.__cause__, SoldOut)
    printed = "".join(traceback.format_exception(again))
    assert printed.count("in raised") == 2
    assert printed.index("in raised") < printed.index("ValueError: outer")


def test_a_context_is_kept_unless_it_was_suppressed() -> None:
    def fail(suppress: bool) -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            if suppress:
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904 - what is tested

    with pytest.raises(ValueError, match="outer") as caught:
        fail(suppress=False)
    assert isinstance(rebuilt(caught.value).__cause__, KeyError)

    with pytest.raises(ValueError, match="outer") as caught:
        fail(suppress=True)
    assert Failure.of(caught.value).cause is None


def test_the_members_of_a_group_come_back() -> None:
    error = ExceptionGroup("all of it", [ValueError("a"), SoldOut("b", Decimal(1))])

    again = rebuilt(error, SoldOut)

    assert isinstance(again, ExceptionGroup)
    assert again.message == "all of it"
    assert [type(member) for member in again.exceptions] == [ValueError, SoldOut]


# --- bounds


def test_chains_and_groups_are_bounded() -> None:
    error: Exception = ValueError("innermost")
    for _ in range(20):
        error = ExceptionGroup("g", [error] * 20)
        error.__cause__ = ExceptionGroup("h", [ValueError(str(n)) for n in range(20)])

    failure = Failure.of(error)

    def count(one: Failure) -> int:
        return 1 + sum(map(count, one.sub)) + (count(one.cause) if one.cause else 0)

    assert len(failure.sub) <= module.MAX_MEMBERS
    assert count(failure) <= module.MAX_FAILURES


def test_causes_that_go_round_in_a_circle_end() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    depth, failure = 0, Failure.of(one)
    while failure.cause is not None:
        depth, failure = depth + 1, failure.cause
    assert depth == module.MAX_CAUSES


def test_a_long_traceback_keeps_its_head_and_its_tail() -> None:
    def down(depth: int) -> None:
        if depth == 0:
            raise ValueError("at the bottom")
        up(depth - 1)  # two in turn, or Python would print "repeated 300 times"

    def up(depth: int) -> None:
        down(depth)

    with pytest.raises(ValueError, match="bottom") as caught:
        down(300)
    text = Failure.of(caught.value).traceback

    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("ValueError: at the bottom\n")
    assert "characters left out" in text
    assert len(text) < module.MAX_TRACEBACK_CHARS + 100


def test_large_messages_and_facts_are_bounded_and_the_type_stays() -> None:
    error = ValueError("x" * 10**7)
    error.body = "y" * 10**6  # type: ignore[attr-defined]
    failure = Failure.of(error)

    assert len(failure.to_json()) < 100_000
    assert type(ErrorRegistry().rebuild(failure, WHAT)) is ValueError


# --- exceptions that misbehave


class BrokenText(Exception):
    def __str__(self) -> str:
        raise SystemExit


class BrokenEverything(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise RuntimeError


class NotText(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class OddReduce(Exception):
    def __reduce__(self) -> Any:
        return "nonsense"


class OddNames(Exception):
    __qualname__ = "\0" * 10_000


@pytest.mark.parametrize("kind", [BrokenText, BrokenEverything, NotText, OddReduce, OddNames])
def test_recording_never_fails_whatever_the_exception_does(kind: type[Exception]) -> None:
    text = Failure.of(raised(kind("x"))).to_json()

    assert r"\u0000" not in text
    assert isinstance(ErrorRegistry().rebuild(Failure.from_json(text), WHAT), StepFailed)


@given(st.text(st.characters()), st.lists(st.text(st.characters()) | st.floats() | st.binary()))
def test_what_is_recorded_holds_nothing_that_jsonb_refuses(message: str, args: list[Any]) -> None:
    error = RuntimeError(message, *args)
    error.more = {message: args}  # type: ignore[attr-defined]
    error.add_note(message)

    text = Failure.of(error).to_json()

    text.encode()  # no lone surrogate
    assert "\0" not in "".join(all_text(json.loads(text, parse_constant=pytest.fail)))
    assert type(rebuilt(error)) is RuntimeError


def all_text(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [*value, *all_text(list(value.values()))]
    return [text for part in value for text in all_text(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("text", ["", "{}", "5", "[" * 5000])
def test_text_that_is_no_failure_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        Failure.from_json(text)
