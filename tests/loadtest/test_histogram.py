"""Quantiles of the histogram against those of all values in order."""

from __future__ import annotations

import math
import pickle

from hypothesis import given
from hypothesis import strategies as st

from rowlock_loadtest.contention.histogram import Histogram, merged

SECONDS = st.floats(0, 10_000, allow_nan=False)
SHARES = [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0]


def of(values: list[float]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@given(st.lists(SECONDS, min_size=1, max_size=300))
def test_every_quantile_is_true_to_within_a_hundredth(values: list[float]) -> None:
    histogram = of(values)
    for share in SHARES:
        exact = sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
        found = histogram.quantile(share)
        assert exact - 1e-6 <= found <= exact * 1.008 + 2e-6


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_two_that_are_added_are_one_of_all_values(one: list[float], other: list[float]) -> None:
    assert merged([of(one), of(other)]).counts == of(one + other).counts


def test_what_takes_no_time_or_less_counts_as_nothing() -> None:
    assert of([0.0, -1.0]).quantile(1.0) == 0.0
    assert Histogram().quantile(0.99) == 0.0


def test_it_passes_from_one_process_to_another() -> None:
    histogram = of([0.001, 0.2])
    assert pickle.loads(pickle.dumps(histogram)).counts == histogram.counts


def test_a_summary_is_in_milliseconds() -> None:
    summary = of([0.001] * 99 + [1.0]).summary()
    assert summary["count"] == 100
    assert 1.0 <= summary["p99_ms"] < 1.01
    assert 1000 <= summary["most_ms"] < 1008
