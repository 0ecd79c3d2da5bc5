"""The fit gives back the numbers that a curve was made with."""

from __future__ import annotations

import math

import pytest

from rowlock_loadtest.contention.scalability import Law, fairness, fit

CLAIMERS = [1, 2, 4, 8, 16, 32, 64]
MADE = [
    Law(1000.0, 0.02, 0.0005, 1.0),
    Law(350.0, 0.1, 0.0, 1.0),
    Law(5000.0, 0.0, 0.001, 1.0),
    Law(42.0, 0.0, 0.0, 1.0),
]


@pytest.mark.parametrize("made", MADE)
def test_a_curve_of_the_law_is_found_again(made: Law) -> None:
    found = fit([(n, made.at(n)) for n in CLAIMERS])
    assert found is not None
    assert found.gain == pytest.approx(made.gain, rel=1e-6)
    assert found.contention == pytest.approx(made.contention, abs=1e-8)
    assert found.coherency == pytest.approx(made.coherency, abs=1e-8)
    assert found.r_squared == pytest.approx(1.0)


def test_noise_of_a_few_percent_moves_the_peak_little() -> None:
    made = MADE[0]
    noise = [1.03, 0.98, 1.01, 0.97, 1.02, 0.99, 1.01]
    found = fit([(n, made.at(n) * k) for n, k in zip(CLAIMERS, noise, strict=True)])
    assert found is not None
    assert found.peak == pytest.approx(made.peak, rel=0.15)
    assert 0.95 < found.r_squared <= 1


def test_the_peak_is_where_the_curve_turns() -> None:
    made = MADE[0]
    assert made.at(made.peak) > max(made.at(made.peak - 1), made.at(made.peak + 1))
    assert made.ceiling == made.at(made.peak)
    assert MADE[1].peak == math.inf
    assert MADE[1].ceiling == pytest.approx(3500)


def test_what_grows_faster_than_claimers_has_no_negative_contention() -> None:
    found = fit([(n, n**1.3) for n in CLAIMERS])
    assert found is not None
    assert (found.contention, found.coherency) == (0.0, 0.0)


def test_three_points_prove_nothing() -> None:
    assert fit([(1, 10.0), (2, 19.0), (4, 30.0)]) is None
    assert fit([(1, 10.0), (1, 11.0), (2, 19.0), (4, 30.0)]) is None
    assert fit([(1, 0.0), (2, 0.0), (4, 0.0), (8, 0.0)]) is None


def test_fairness_is_one_when_all_get_the_same_and_one_of_n_when_one_gets_all() -> None:
    assert fairness([5, 5, 5, 5]) == 1.0
    assert fairness([5, 0, 0, 0]) == 0.25
    assert fairness([0, 0]) == 1.0
    assert fairness([3, 1]) == pytest.approx(0.8)
