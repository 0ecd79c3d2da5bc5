"""Latencies, counted in buckets that grow with the value, as HdrHistogram does it.

A bucket is at most 1/128 of its value wide, so any quantile is true to within 0.8 %, in a few
hundred numbers however many values there were; and two histograms are added by adding their counts.

Source: Gil Tene, HdrHistogram (hdrhistogram.org): the values' first bits choose the bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

SUB_BITS = 7
"""Every doubling of the value is divided into 2**SUB_BITS buckets."""


class Histogram:
    """Counts of durations, in whole microseconds; negative ones count as 0."""

    __slots__ = ("counts",)

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def record(self, seconds: float) -> None:
        self.counts[_bucket(max(0, round(seconds * 1e6)))] += 1

    def add(self, other: Histogram) -> None:
        self.counts.update(other.counts)

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The value that this share (0 to 1) of all stays at or below, in seconds; 0 if none is."""
        wanted = share * self.total
        seen = 0
        highest = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            highest = bucket
            if seen >= wanted:
                break
        return _highest_of(highest) / 1e6 if self.counts else 0.0

    def summary(self) -> dict[str, float]:
        """What the report says of it, in milliseconds."""
        quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "most": 1.0}
        figures = {f"{name}_ms": 1000 * self.quantile(share) for name, share in quantiles.items()}
        return {"count": self.total} | figures


def merged(many: Iterable[Histogram]) -> Histogram:
    """One histogram of several."""
    together = Histogram()
    for one in many:
        together.add(one)
    return together


def _bucket(value: int) -> int:
    """The value itself while it is small; then its leading bits and how many follow them."""
    follow = max(0, value.bit_length() - SUB_BITS - 1)
    return (follow << SUB_BITS) + (value >> follow)


def _highest_of(bucket: int) -> int:
    """The highest value of a bucket."""
    follow = max(0, (bucket >> SUB_BITS) - 1)
    leading = bucket - (follow << SUB_BITS)
    return ((leading + 1) << follow) - 1
