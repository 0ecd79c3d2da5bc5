"""What may be done while outcomes that were delivered are not written yet."""

from __future__ import annotations

import pytest

from rowlock.model.ahead import MOST, MOST_CHARACTERS, Ahead, is_surely_kept


def test_an_effect_waits_for_all_before_it_and_for_nothing_behind() -> None:
    ahead: Ahead[str] = Ahead()
    ahead.delivered(1)
    ahead.delivered(3)
    ahead.hold(3, "one")
    ahead.delivered(4)
    ahead.hold(4, "other")
    assert ahead.released() == []
    ahead.written(1)
    assert ahead.released() == []
    ahead.written(3)
    ahead.delivered(5)
    assert ahead.released() == ["one"]
    ahead.written(4)
    assert ahead.released() == ["other"]
    assert ahead
    ahead.written(5)
    assert not ahead


def test_code_gets_only_so_far_ahead() -> None:
    ahead: Ahead[str] = Ahead()
    for position in range(MOST):
        assert not ahead.is_full
        ahead.delivered(position)
    assert ahead.is_full
    ahead.written(0)
    assert not ahead.is_full


def test_what_is_unloaded_does_nothing_more() -> None:
    ahead: Ahead[str] = Ahead()
    ahead.delivered(1)
    ahead.hold(1, "one")
    ahead.forget()
    ahead.written(1)
    assert ahead.released() == []


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (None, True),
        ("null", True),
        ('"' + "x" * (MOST_CHARACTERS - 2) + '"', True),
        ('"' + "x" * MOST_CHARACTERS + '"', False),
        ('"\\u0000"', False),
        ("[" * 1001 + "]" * 1001, False),
    ],
)
def test_only_what_postgres_takes_for_certain_is_gone_ahead_of(
    text: str | None, kept: bool
) -> None:
    assert is_surely_kept(text) == kept
