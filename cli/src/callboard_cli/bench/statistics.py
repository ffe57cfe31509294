"""Statistics of samples: percentiles with their counts, and the ratios of pairs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

P90_FROM, P99_FROM = 10, 100
"""A percentile of fewer values is only their worst under another name, so it is left out."""


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest measured value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1))]


@dataclass(frozen=True, slots=True)
class Summary:
    """Values of one kind in one unit; a percentile that the count does not carry is None."""

    unit: str
    count: int
    mean: float
    p50: float
    p90: float | None
    p99: float | None
    max: float


def summary(values: Sequence[float], unit: str = "s") -> Summary | None:
    """Sums values up; None without any."""
    if not values:
        return None
    count = len(values)
    return Summary(
        unit,
        count,
        math.fsum(values) / count,
        percentile(values, 0.5),
        percentile(values, 0.9) if count >= P90_FROM else None,
        percentile(values, 0.99) if count >= P99_FROM else None,
        max(values),
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much the second value of each pair is of the first: the middle ratio, and between what half of them lie."""

    pairs: int
    median: float
    lower_quartile: float
    upper_quartile: float
    least: float
    most: float
    second_larger: int


def ratio(pairs: Sequence[tuple[float, float]]) -> Ratio | None:
    """Compares pairs that were measured in turn; None without any that can be compared."""
    ratios = [second / first for first, second in pairs if first > 0 and second > 0]
    if not ratios:
        return None
    return Ratio(
        len(ratios),
        _middle(ratios),
        percentile(ratios, 0.25),
        percentile(ratios, 0.75),
        min(ratios),
        max(ratios),
        sum(each > 1 for each in ratios),
    )


def middle(values: Sequence[float]) -> float | None:
    """The median; None without values."""
    return _middle(values) if values else None


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
