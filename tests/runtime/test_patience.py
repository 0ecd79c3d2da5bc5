"""How long a claimer waits that was refused, and when it asks for less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rowlock.runtime.patience import LARGE, MOST_DOUBLINGS, SHORTEST_S, Patience

TRIES = 300
NEVER_S, AT_ONCE_S = 3600.0, 0.0


def longest(make: Callable[[], Patience]) -> float:
    """The longest of many pauses, which are drawn at random."""
    pauses = [make().refused() for _ in range(TRIES)]
    assert min(pauses) < max(pauses) / 10
    return max(pauses)


def after(refusals: int, *, took_s: float = 0.0, let_in: int = 0) -> Patience:
    """One that was refused so often, and then let in so often."""
    patience = Patience()
    patience.let_in(LARGE, took_s)
    for _ in range(refusals):
        patience.refused()
    for _ in range(let_in):
        patience.let_in(LARGE, took_s)
    return patience


@pytest.mark.parametrize("took_s", [0.0, 0.02])
def test_a_pause_is_measured_in_claims_and_doubles_up_to_a_bound(took_s: float) -> None:
    for refusals in range(MOST_DOUBLINGS + 3):
        most = max(took_s, SHORTEST_S) * 2 ** min(refusals, MOST_DOUBLINGS)
        assert 0.8 * most < longest(lambda n=refusals: after(n, took_s=took_s)) <= most  # type: ignore[misc]


@pytest.mark.parametrize(("let_in", "doublings"), [(1, 3), (2, 2), (3, 1), (4, 0), (9, 0)])
def test_pauses_get_shorter_with_each_claim_that_was_not_refused_before(
    let_in: int, doublings: int
) -> None:
    most = SHORTEST_S * 2**doublings
    assert 0.8 * most < longest(lambda: after(3, let_in=let_in)) <= most


def wants(patience: Patience, free: int = 100) -> set[int]:
    return {patience.want(free) for _ in range(TRIES)}


def test_who_is_refused_for_long_asks_for_little_but_now_and_then() -> None:
    for longest_s, wanted in ((NEVER_S, {100}), (AT_ONCE_S, {100, LARGE - 1})):
        patience = Patience(longest_s)
        assert wants(patience) == {100}
        patience.refused()
        assert wants(patience) == wanted
        assert wants(patience, free=5) == {5}


def test_only_a_large_claim_that_is_let_in_makes_it_ask_for_much_again() -> None:
    patience = Patience(AT_ONCE_S)
    patience.refused()
    patience.let_in(LARGE - 1, 0.0)
    assert wants(patience) == {100, LARGE - 1}
    patience.let_in(LARGE, 0.0)
    assert wants(patience) == {100}
