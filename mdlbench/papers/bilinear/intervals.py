"""Means over training seeds with their 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from mdlbench.statistics.bootstrap import CONFIDENCE, side


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Attributes:
        value: the mean.
        low, high: by Student's t over n seeds; NaN for one seed.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedMean:
        """The mean of one number for each seed."""
        found = np.asarray(values, dtype=np.float64)
        return cls._with_error(float(found.mean()), _error(found), len(found))

    @classmethod
    def of_pairs(cls, pairs: Float64[np.ndarray, "seed seed"]) -> SeedMean:
        """The mean over pairs of seeds, its error by leaving out one seed after the other.

        Pairs that share a seed are not independent: the jackknife over seeds heeds that.
        """
        n = len(pairs)
        everything = _mean_of_pairs(pairs)
        if n < 3:
            return cls(everything, float("nan"), float("nan"))
        without = [_mean_of_pairs(np.delete(np.delete(pairs, i, 0), i, 1)) for i in range(n)]
        spread = np.square(np.array(without) - np.mean(without)).sum()
        return cls._with_error(everything, float(np.sqrt((n - 1) / n * spread)), n)

    @classmethod
    def _with_error(cls, value: float, error: float, n: int) -> SeedMean:
        reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error if n > 1 else float("nan")
        return cls(value, value - reach, value + reach)

    def within(self, least: float, most: float) -> SeedMean:
        """The same, its interval cut off where the number cannot be."""
        return SeedMean(self.value, max(least, self.low), min(most, self.high))

    @property
    def sign(self) -> int:
        """1 or −1 where the interval is on one side of 0; else 0."""
        return self.side(0)

    def side(self, limit: float) -> int:
        """1 or −1 where the interval is above or below `limit`; else 0."""
        return side(self.low, self.high, limit)

    def text(self, form: str = ".3f", scale: float = 1.0) -> str:
        """As a report has it: the mean, and the interval in brackets."""
        value, low, high = (format(x * scale, form) for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def _error(values: Float64[np.ndarray, " seed"]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _mean_of_pairs(pairs: Float64[np.ndarray, "seed seed"]) -> float:
    return float(pairs[np.triu_indices(len(pairs), 1)].mean())
