"""Statistics of scores: the unit is a case, and cases of one person are drawn together.

Intervals come from a cluster bootstrap, p-values from random sign flips of the clusters' sums. Both use fixed seeds.

**Source:** Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), 8.5; the correction of the percentile
interval for few clusters: Hesterberg, "What Teachers Should Know About the Bootstrap" (arXiv 1411.5279), 3.4; Holm, "A
simple sequentially rejective multiple test procedure" (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
"""Number of bootstrap draws and of sign flips."""

SEED = 20250911
"""Seed of the draws."""

LEVEL = 0.95
"""Probability of the intervals, and 1 minus the largest p-value that distinguishes two models."""

POWER = 0.8
"""Probability with which the number of pairs needed would find the difference."""

Values = Mapping[str, float]
"""Case -> value, the mean over its seeds."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over cases.

    Args:
        mean: the mean.
        low, high: ends of the interval; None with fewer than two clusters.
        std: standard deviation over cases.
        cases, clusters: their numbers.
    """

    mean: float
    low: float | None
    high: float | None
    std: float
    cases: int
    clusters: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, if there is an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Difference:
    """Paired difference of two models, the second minus the first.

    Args:
        mean: mean of the cases' differences.
        low, high: ends of the interval; None with fewer than two clusters.
        p: p-value without correction.
        wins: fraction of cases with a higher value of the second model; ties count half.
        correlation: of the two models' values over cases; None where a model's values are all equal.
        pairs_needed: number of cases that would show a difference of this size with `POWER`; None for no difference.
        smallest: size of the difference that these cases would show with `POWER`.
        cases, clusters: their numbers.
    """

    mean: float
    low: float | None
    high: float | None
    p: float
    wins: float
    correlation: float | None
    pairs_needed: int | None
    smallest: float | None
    cases: int
    clusters: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends, if there is an interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def is_distinguishable(self, p: float) -> bool:
        """Return whether the models differ: the corrected p-value is small, and the interval leaves out zero.

        Args:
            p: the p-value after `holm`.
        """
        if self.low is None or self.high is None:
            return False
        return p <= 1 - LEVEL and not self.low <= 0 <= self.high


def estimate(values: Values, clusters: Mapping[str, str]) -> Estimate:
    """Return the mean over cases with its interval.

    Args:
        values: case -> value; at least one.
        clusters: case -> name of what is drawn together.
    """
    sums, counts = _cluster_sums(values, clusters)
    numbers = np.array(list(values.values()))
    low, high = _interval(sums, counts)
    std = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return Estimate(float(numbers.mean()), low, high, std, len(numbers), len(sums))


def paired_difference(first: Values, second: Values, clusters: Mapping[str, str]) -> Difference:
    """Compare two models on the cases that both have.

    Args:
        first, second: case -> value.
        clusters: case -> name of what is drawn together.

    Raises:
        ValueError: no case is in both.
    """
    common = [case for case in first if case in second]
    if not common:
        raise ValueError("no common case")
    a, b = (np.array([side[case] for case in common]) for side in (first, second))
    delta = b - a
    sums, counts = _cluster_sums(dict(zip(common, delta.tolist(), strict=True)), clusters)
    low, high = _interval(sums, counts)
    mean = float(delta.mean())
    error = _standard_error(sums, counts)
    constant = len(common) < 2 or a.std() == 0 or b.std() == 0
    factor = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(POWER)
    needed = None
    if error is not None and mean != 0:
        needed = max(2, math.ceil(len(common) * (factor * error / mean) ** 2))
    return Difference(
        mean,
        low,
        high,
        _sign_flip_p(sums),
        float(((delta > 0) + 0.5 * (delta == 0)).mean()),
        None if constant else float(np.corrcoef(a, b)[0, 1]),
        needed,
        None if error is None else factor * error,
        len(common),
        len(sums),
    )


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number, by name."""
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def _cluster_sums(values: Values, clusters: Mapping[str, str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of values and the number of cases of each cluster, in the order of their first cases."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for case, value in values.items():
        cluster = clusters[case]
        sums[cluster] = sums.get(cluster, 0.0) + value
        counts[cluster] = counts.get(cluster, 0) + 1
    return np.array(list(sums.values())), np.array(list(counts.values()), np.float64)


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the bootstrap interval of the mean over cases, with the percentiles widened for few clusters."""
    number = len(sums)
    if number < 2:
        return None, None
    random = np.random.default_rng(SEED)
    draws = random.multinomial(number, np.full(number, 1 / number), size=DRAWS).astype(np.float64)
    means = (draws @ sums) / (draws @ counts)
    tail = (1 - LEVEL) / 2
    widened = NormalDist().cdf(math.sqrt(number / (number - 1)) * student_quantile(tail, number - 1))
    low, high = np.quantile(means, (widened, 1 - widened))
    return float(low), float(high)


def _standard_error(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float | None:
    """Return the standard error of the mean over cases, with clusters as the unit."""
    number = len(sums)
    if number < 2:
        return None
    mean = sums.sum() / counts.sum()
    residuals = sums - mean * counts
    return float(math.sqrt(number / (number - 1) * (residuals**2).sum()) / counts.sum())


def _sign_flip_p(sums: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of the clusters' sums under random signs."""
    observed = abs(sums.sum())
    random = np.random.default_rng(SEED + 1)
    signs = random.integers(0, 2, size=(DRAWS, len(sums))) * 2.0 - 1
    totals = np.abs(signs @ sums)
    return float((1 + (totals >= observed - 1e-12 * max(1.0, observed)).sum()) / (1 + DRAWS))


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t for a probability below one half.

    **Source:** Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4, inverted by bisection.

    Args:
        probability: of a smaller value, 0 to 0.5.
        freedom: degrees of freedom, at least 1.
    """
    low, high = -1e4, 0.0
    for _ in range(200):
        middle = (low + high) / 2
        if _student_cdf(middle, freedom) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _student_cdf(value: float, freedom: int) -> float:
    angle = math.atan(value / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom == 1:
        return 0.5 + angle / math.pi
    total, term = 0.0, 1.0 if freedom % 2 == 0 else cosine
    start = 1 if freedom % 2 == 0 else 2
    for step in range(start, freedom, 2):
        total += term
        term *= cosine**2 * step / (step + 1)
    if freedom % 2 == 0:
        return 0.5 + sine * total / 2
    return 0.5 + (angle + sine * total) / math.pi
