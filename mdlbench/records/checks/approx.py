"""What counts as equal where a number is recomputed from others."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from mdlbench.statistics.bootstrap import percentile_interval

HALF_RELATIVE, HALF_ABSOLUTE = 2.0**-10, 2.0**-24
"""How far half precision may move a share: relatively, and where it is too small for that. Twice
the rounding of one number."""


def same(a: float, b: float) -> bool:
    """Equal up to the order of a few sums in float64."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-11)


def slack(end: float, value: float, unit: float) -> float:
    """How far a quantile of resamples may be off that are kept as shares in half precision.

    Rounding keeps their order, so the quantile moves by no more than the resamples there.

    Args:
        end: the quantile.
        value: what the shares are deviations from.
        unit: what they are shares of.
    """
    kept = HALF_RELATIVE * abs(end - value) + HALF_ABSOLUTE * abs(unit)
    return kept + 1e-11 + 1e-9 * max(abs(end), abs(value))


def is_interval_of(
    interval: tuple[float, float],
    drawn: Float64[np.ndarray, " replicate"],
    value: float,
    unit: float,
) -> bool:
    """Whether this is the percentile interval of resamples, up to their rounding."""
    ends = percentile_interval(drawn)
    return all(abs(a - b) <= slack(b, value, unit) for a, b in zip(interval, ends, strict=True))
