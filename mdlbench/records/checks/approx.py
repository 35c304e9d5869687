"""What counts as equal where a number is recomputed from others."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from mdlbench.statistics.bootstrap import percentile_interval

RESAMPLED = 2e-3
"""How far half precision may move an interval's ends, as a share of its width."""


def same(a: float, b: float) -> bool:
    """Equal up to the order of a few sums in float64."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-11)


def slack(interval: tuple[float, float]) -> float:
    """How far a limit taken from resamples may be off."""
    return RESAMPLED * (interval[1] - interval[0]) + 1e-11 + 1e-9 * abs(interval[1])


def is_interval_of(interval: tuple[float, float], drawn: Float64[np.ndarray, " replicate"]) -> bool:
    """Whether this is the percentile interval of resamples, up to their rounding."""
    ends = percentile_interval(drawn)
    return all(abs(a - b) <= slack(interval) for a, b in zip(interval, ends, strict=True))
