"""Decide whether, and after what delay, a failed step is tried again.

Pure: the caller passes in the error, the number of the attempt and a random number, and puts
the delay into practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from rowlock.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When to try again: exponential backoff with jitter.

    The delay after attempt n is ``first_delay * factor ** (n - 1)``, at most ``max_delay``, less
    a random part of up to ``jitter`` of it. Jitter keeps the many that failed together from
    coming back together; 1.0 is the "full jitter" of the source.

    An exception group, as asyncio.TaskGroup raises it, is worth another attempt if all errors in
    it are, and is given up on for any one of them; a type of group can also be named itself.

    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015,
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/

    Raises ConfigurationError for values that make no sense.
    """

    attempts: int = 1
    """How often to try in total, the first time included; 1 means never again."""

    first_delay: timedelta = timedelta(seconds=1)
    """The longest delay before the second attempt."""

    factor: float = 2.0
    """By how much each delay is longer than the one before; 1.0 keeps them equal."""

    max_delay: timedelta = timedelta(minutes=5)
    """No delay is longer than this."""

    jitter: float = 0.1
    """Which share of a delay is left to chance, from 0.0 to 1.0."""

    retry_on: tuple[type[Exception], ...] = (Exception,)
    """Only errors of these types, and of types derived from them, are worth another attempt."""

    give_up_on: tuple[type[Exception], ...] = ()
    """Errors of these types are not, even if ``retry_on`` names them, too."""

    def __post_init__(self) -> None:
        _require(
            type(self.attempts) is int and self.attempts >= 1,
            f"attempts is {self.attempts!r}, but counts all attempts: it must be an int from 1 up",
        )
        for name in ("first_delay", "max_delay"):
            delay = getattr(self, name)
            _require(
                isinstance(delay, timedelta) and delay >= timedelta(0),
                f"{name} is {delay!r}, but must be a timedelta that is not negative",
            )
        _require(
            self.first_delay <= self.max_delay,
            f"first_delay is {self.first_delay}, but must not be longer than max_delay, which is "
            f"{self.max_delay}",
        )
        _require(
            _is_number(self.factor) and 1.0 <= self.factor < math.inf,
            f"factor is {self.factor!r}, but must be a number from 1.0 up",
        )
        _require(
            _is_number(self.jitter) and 0.0 <= self.jitter <= 1.0,
            f"jitter is {self.jitter!r}, but must be a number from 0.0 to 1.0",
        )
        for name in ("retry_on", "give_up_on"):
            types = getattr(self, name)
            _require(
                isinstance(types, tuple) and all(map(_is_exception_type, types)),
                f"{name} is {types!r}, but must be a tuple of exception types, such as "
                "(TimeoutError,)",
            )

        _require(
            self.attempts == 1
            or not all(issubclass(kind, self.give_up_on) for kind in self.retry_on),
            f"retry_on is {self.retry_on!r} and give_up_on {self.give_up_on!r}, so no error would "
            f"ever be tried again, though attempts is {self.attempts}",
        )

    def after(self, error: BaseException, attempt: int, chance: float) -> timedelta | None:
        """Return how long to wait after ``attempt`` (from 1) ended in ``error``; None: give up.

        ``chance`` is a random number in [0, 1). What is no Exception, such as a cancellation,
        is never tried again.
        """
        if attempt >= self.attempts or not self._is_worth(error) or self._is_hopeless(error):
            return None
        return self._longest_after(attempt) * (1.0 - self.jitter * chance)

    def _is_worth(self, error: BaseException) -> bool:
        if isinstance(error, self.retry_on):
            return True
        return isinstance(error, BaseExceptionGroup) and all(map(self._is_worth, error.exceptions))

    def _is_hopeless(self, error: BaseException) -> bool:
        if isinstance(error, self.give_up_on):
            return True
        return isinstance(error, BaseExceptionGroup) and any(
            map(self._is_hopeless, error.exceptions)
        )

    def _longest_after(self, attempt: int) -> timedelta:
        if not self.first_delay:
            return self.first_delay
        try:
            growth = float(self.factor) ** (attempt - 1)
        except OverflowError:
            return self.max_delay
        if growth >= self.max_delay / self.first_delay:  # asked first: a timedelta can overflow
            return self.max_delay
        return self.first_delay * growth


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise ConfigurationError(f"this Retry can't be used: {why}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_exception_type(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)
