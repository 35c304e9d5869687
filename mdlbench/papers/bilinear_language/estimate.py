"""A number and its 95% interval."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval, side


class Estimate(NamedTuple):
    """A number, and its interval by resampling documents or features."""

    value: float
    low: float
    high: float

    @classmethod
    def of_means(
        cls,
        sums: Float64[np.ndarray, " document"],
        tokens: Float64[np.ndarray, " document"],
        resampled: Bootstrap,
    ) -> Estimate:
        """The mean per token of sums over documents."""
        return cls(float(sums.sum() / tokens.sum()), *resampled.interval(sums))

    @classmethod
    def of_difference(
        cls,
        one: Float64[np.ndarray, " feature"],
        other: Float64[np.ndarray, " other"],
        replicates: int,
        seed: int,
    ) -> Estimate:
        """The mean of one sample less that of another, drawn on its own."""
        first, second = (
            Bootstrap(np.ones(len(values)), replicates, seed + i).means(values)
            for i, values in enumerate((one, other))
        )
        return cls(float(one.mean() - other.mean()), *percentile_interval(first - second))

    @property
    def sign(self) -> int:
        """1 or −1 where the interval is on one side of 0; else 0."""
        return side(self.low, self.high)

    def text(self, form: str = "z.3f", scale: float = 1.0) -> str:
        """As a report has it: the number, and the interval in brackets."""
        value, low, high = (format(x * scale, form) for x in self)
        return f"{value} [{low}, {high}]"
