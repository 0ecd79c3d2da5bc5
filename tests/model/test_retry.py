"""A Retry says after which errors, how often and after what delay a step is tried again."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowlock.errors import ConfigurationError, StepTimeout
from rowlock.model.retry import Retry

SECOND = timedelta(seconds=1)
ERROR = ValueError("x")


def test_by_default_nothing_is_tried_again() -> None:
    assert Retry().after(ERROR, 1, 0.0) is None


def test_delays_grow_by_the_factor_up_to_the_longest() -> None:
    retry = Retry(attempts=6, first_delay=SECOND, factor=3, max_delay=10 * SECOND, jitter=0)

    delays = [retry.after(ERROR, attempt, 0.5) for attempt in range(1, 7)]

    assert delays == [SECOND, 3 * SECOND, 9 * SECOND, 10 * SECOND, 10 * SECOND, None]


def test_jitter_takes_up_to_its_share_off_a_delay() -> None:
    retry = Retry(attempts=2, first_delay=10 * SECOND, jitter=0.5)

    assert retry.after(ERROR, 1, 0.0) == 10 * SECOND
    assert retry.after(ERROR, 1, 0.5) == 7.5 * SECOND
    assert retry.after(ERROR, 1, 0.999999) == pytest.approx(5 * SECOND, abs=SECOND / 1000)


def test_only_errors_of_the_named_types_are_tried_again() -> None:
    retry = Retry(attempts=5, retry_on=(OSError, ValueError), give_up_on=(FileNotFoundError,))

    assert retry.after(TimeoutError(), 1, 0) is not None  # an OSError
    assert retry.after(ERROR, 1, 0) is not None
    assert retry.after(KeyError(), 1, 0) is None
    assert retry.after(FileNotFoundError(), 1, 0) is None


class Declined(ValueError):
    pass


class Unreachable(ConnectionError):
    pass


PICKY = Retry(attempts=5, retry_on=(ConnectionError,), give_up_on=(ConnectionRefusedError,))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable(), True),
        (ConnectionRefusedError(), False),
        (ExceptionGroup("", [Unreachable(), ConnectionResetError()]), True),
        (ExceptionGroup("", [Unreachable(), Declined()]), False),
        (ExceptionGroup("", [Unreachable(), ConnectionRefusedError()]), False),
        (ExceptionGroup("", [ExceptionGroup("", [Unreachable()]), Unreachable()]), True),
        (ExceptionGroup("", [ExceptionGroup("", [ConnectionRefusedError()])]), False),
        (BaseExceptionGroup("", [Unreachable(), asyncio.CancelledError()]), False),
        (StepTimeout("charge", 3), False),
    ],
    ids=str,
)
def test_a_type_stands_for_all_derived_from_it_and_a_group_for_all_in_it(
    error: BaseException, again: bool
) -> None:
    assert (PICKY.after(error, 1, 0) is not None) == again


def test_by_default_groups_are_tried_again_but_for_errors_to_give_up_on() -> None:
    retry = Retry(attempts=5, give_up_on=(ValueError,))

    assert retry.after(ExceptionGroup("", [OSError(), KeyError()]), 1, 0) is not None
    assert retry.after(ExceptionGroup("", [OSError(), Declined()]), 1, 0) is None
    assert retry.after(BaseExceptionGroup("", [KeyboardInterrupt(), OSError()]), 1, 0) is None


def test_a_type_of_group_can_be_named() -> None:
    retry = Retry(attempts=5, retry_on=(ExceptionGroup, OSError))
    group = ExceptionGroup("", [ERROR])

    assert retry.after(group, 1, 0) is not None
    assert Retry(attempts=5, give_up_on=(ExceptionGroup,)).after(group, 1, 0) is None


def test_a_steps_timeout_is_a_timeout_error() -> None:
    assert Retry(attempts=2, retry_on=(TimeoutError,)).after(StepTimeout("charge", 3), 1, 0)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit()])
def test_what_is_no_exception_is_never_tried_again(error: BaseException) -> None:
    assert Retry(attempts=5).after(error, 1, 0) is None


def test_a_delay_of_zero_stays_zero() -> None:
    retry = Retry(attempts=10**9, first_delay=timedelta(0))
    assert retry.after(ERROR, 10**8, 0.5) == timedelta(0)


def test_no_delay_overflows() -> None:
    retry = Retry(attempts=10**9, max_delay=timedelta.max, factor=1e300, jitter=0)
    assert retry.after(ERROR, 10**8, 0.0) == timedelta.max


@given(
    attempt=st.integers(1, 10**9),
    first=st.timedeltas(timedelta(0), timedelta(days=1)),
    more=st.timedeltas(timedelta(0), timedelta(days=365)),
    factor=st.floats(1, 1e300),
    jitter=st.floats(0, 1),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_every_delay_lies_between_its_share_and_the_longest(
    attempt: int, first: timedelta, more: timedelta, factor: float, jitter: float, chance: float
) -> None:
    retry = Retry(
        attempts=10**9 + 1, first_delay=first, max_delay=first + more, factor=factor, jitter=jitter
    )

    delay = retry.after(ERROR, attempt, chance)

    assert delay is not None
    rounding = timedelta(microseconds=1)
    assert first * (1 - jitter) - rounding <= delay <= first + more


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"attempts": True}, "attempts is True"),
        ({"attempts": 2.0}, "attempts is 2.0"),
        ({"first_delay": 1}, "first_delay is 1"),
        ({"first_delay": -SECOND}, "first_delay is"),
        ({"max_delay": -SECOND}, "max_delay is"),
        ({"first_delay": 2 * SECOND, "max_delay": SECOND}, "must not be longer than max_delay"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"factor": math.nan}, "factor is nan"),
        ({"factor": math.inf}, "factor is inf"),
        ({"factor": "2"}, "factor is '2'"),
        ({"jitter": 1.1}, "jitter is 1.1"),
        ({"jitter": math.nan}, "jitter is nan"),
        ({"retry_on": ValueError}, "retry_on is <class 'ValueError'>"),
        ({"retry_on": [ValueError]}, "retry_on is"),
        ({"retry_on": (BaseException,)}, "retry_on is"),
        ({"give_up_on": ("ValueError",)}, "give_up_on is"),
        ({"give_up_on": (ERROR,)}, "give_up_on is"),
        ({"attempts": 2, "retry_on": ()}, "no error would ever be tried again"),
        (
            {"attempts": 2, "retry_on": (KeyError,), "give_up_on": (OSError, LookupError)},
            "no error would ever be tried again",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match="this Retry can't be used") as refused:
        Retry(**settings)
    assert why in str(refused.value)
