"""The Universal Scalability Law, fitted to throughput against claimers.

    X(n) = gain · n / (1 + contention · (n - 1) + coherency · n · (n - 1))

``gain`` is what one claimer does alone, ``contention`` the share of work that can't be done side by
side, ``coherency`` what each pair costs each other: only with it does throughput fall again.

Source: Neil J. Gunther, "Guerrilla Capacity Planning", Springer 2007, chapter 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

LEAST_POINTS = 4
"""Three numbers are sought: any three points would fit exactly, and prove nothing."""


@dataclass(frozen=True, slots=True)
class Law:
    """A fit; ``r_squared``: the share of the variation that it explains (1: all)."""

    gain: float
    contention: float
    coherency: float
    r_squared: float

    def at(self, n: float) -> float:
        return self.gain * n / (1 + self.contention * (n - 1) + self.coherency * n * (n - 1))

    @property
    def peak(self) -> float:
        """How many claimers give the most; infinite if more are always better."""
        if self.coherency <= 0:
            return math.inf
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherency)

    @property
    def ceiling(self) -> float:
        """The most that it says can be had; infinite without contention."""
        if self.coherency > 0:
            return self.at(max(1.0, self.peak))
        return self.gain / self.contention if self.contention > 0 else math.inf


def fit(points: Sequence[tuple[float, float]]) -> Law | None:
    """The law that misses the points (n, throughput) least, in shares of each; None: too few.

    n/X is linear in (1, n - 1, n(n - 1)), so it is least squares with coefficients that may not be
    negative: of the sets of terms whose solution has none, the one that misses least.
    """
    good = [(n, x) for n, x in points if n > 0 and x > 0]
    if len({n for n, _ in good}) < LEAST_POINTS:
        return None
    rows = [([x / n, x / n * (n - 1), x / n * n * (n - 1)], 1.0) for n, x in good]
    best: tuple[float, list[float]] | None = None
    for size in (3, 2, 1):
        for extra in combinations((1, 2), size - 1):
            terms = (0, *extra)
            solution = _least_squares([([row[t] for t in terms], y) for row, y in rows])
            if solution is None or min(solution) < 0 or solution[0] <= 0:
                continue
            full = [0.0, 0.0, 0.0]
            for term, value in zip(terms, solution, strict=True):
                full[term] = value
            missed = sum(
                (sum(a * b for a, b in zip(row, full, strict=True)) - y) ** 2 for row, y in rows
            )
            if best is None or missed < best[0] - 1e-12:
                best = (missed, full)
    if best is None:
        return None
    a, b, c = best[1]
    law = Law(1 / a, b / a, c / a, 1.0)
    mean = sum(x for _, x in good) / len(good)
    spread = sum((x - mean) ** 2 for _, x in good)
    left = sum((x - law.at(n)) ** 2 for n, x in good)
    return Law(law.gain, law.contention, law.coherency, 1 - left / spread if spread else 1.0)


def _least_squares(rows: Sequence[tuple[list[float], float]]) -> list[float] | None:
    """By the normal equations, columns scaled to one size; None if they have no one solution."""
    size = len(rows[0][0])
    scale = [math.sqrt(sum(row[i] ** 2 for row, _ in rows)) for i in range(size)]
    if not all(scale):
        return None
    scaled = [([row[i] / scale[i] for i in range(size)], y) for row, y in rows]
    matrix = [
        [sum(row[i] * row[j] for row, _ in scaled) for j in range(size)]
        + [sum(row[i] * y for row, y in scaled)]
        for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(matrix[r][i]))
        if abs(matrix[pivot][i]) < 1e-12:
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for r in range(size):
            if r != i:
                factor = matrix[r][i] / matrix[i][i]
                matrix[r] = [x - factor * y for x, y in zip(matrix[r], matrix[i], strict=True)]
    return [matrix[i][size] / matrix[i][i] / scale[i] for i in range(size)]


def fairness(shares: Sequence[float]) -> float:
    """Jain's index: 1 when all get the same, 1/n when one gets all; 1 for nothing at all.

    Source: Jain, Chiu, Hawe, "A Quantitative Measure of Fairness", DEC-TR-301, 1984.
    """
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
