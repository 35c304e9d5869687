"""How far a score moves when the data are drawn anew: CV and the least reliable difference."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
from jaxtyping import Float64
from scipy import stats

from mdlbench.papers.reliability.panel import Redraws
from mdlbench.papers.reliability.ranks import mean
from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.studies.inference import Interval

UPPER = (1 + CONFIDENCE) / 2


def met_always(redraws: Redraws) -> Redraws:
    """Those SAEs that have a number in every draw."""
    known = ~np.isnan(redraws.bits).any(axis=1)
    names = tuple(name for name, ok in zip(redraws.saes, known, strict=True) if ok)
    return Redraws(names, redraws.bits[known], redraws.low[known], redraws.high[known])


def spread(deviation: float, degrees: int) -> Interval:
    """A standard deviation with its 95% interval by the χ² of so many degrees of freedom."""
    if degrees < 1:
        return Interval(deviation, float("nan"), float("nan"))
    low, high = (float(stats.chi2.ppf(end, degrees)) for end in (UPPER, 1 - UPPER))
    return Interval(
        deviation, deviation * math.sqrt(degrees / low), deviation * math.sqrt(degrees / high)
    )


def scaled(of: Interval, factor: float) -> Interval:
    """An interval and its value times a positive factor."""
    return Interval(*(factor * end for end in of))


def cv(redraws: Redraws) -> Interval:
    """s / mean of the score over draws: the root mean square over SAEs.

    The interval counts n − 1 degrees of freedom alone: SAEs share their draws.
    """
    found = redraws.bits.std(axis=1, ddof=1) / redraws.bits.mean(axis=1)
    return spread(_root_mean_square(found), redraws.bits.shape[1] - 1)


def least_difference(redraws: Redraws) -> Interval:
    """t₀.₉₇₅·√2·s, as a share of bits: of two SAEs that are scored on data of their own."""
    n = redraws.bits.shape[1]
    return scaled(cv(redraws), float(stats.t.ppf(UPPER, n - 1) * np.sqrt(2)))


def least_paired_difference(redraws: Redraws) -> Interval:
    """t₀.₉₇₅·s of differences over shared draws, as a share of the pair's mean bits.

    The root mean square over pairs of SAEs; degrees of freedom as in `cv`. NaN for one SAE.
    """
    n = redraws.bits.shape[1]
    shares = [
        float((one - other).std(ddof=1)) / float((one + other).mean() / 2)
        for one, other in combinations(redraws.bits, 2)
    ]
    found = _root_mean_square(np.array(shares)) if shares else float("nan")
    return scaled(spread(found, n - 1), float(stats.t.ppf(UPPER, n - 1)))


def coverage(redraws: Redraws) -> Interval:
    """Share of the records' 95% intervals that contain their SAE's mean over draws.

    The interval draws whole draws anew: their SAEs are not independent.
    """
    centre = redraws.bits.mean(axis=1, keepdims=True)
    covered = ((redraws.low <= centre) & (centre <= redraws.high)).astype(np.float64)
    return mean(covered.mean(axis=0), np.arange(covered.shape[1]))


def reseed_deviation(redraws: Redraws) -> float:
    """s of the score over draws: the root mean square over SAEs."""
    return _root_mean_square(redraws.bits.std(axis=1, ddof=1))


def signal_to_noise(
    panel: Float64[np.ndarray, "configuration seed"], reseed: float
) -> Interval | None:
    """SD of the configurations' means / √(s_reseed² + s_train²).

    The interval is that of the noise: χ² with as many degrees of freedom as training seeds leave.

    Args:
        panel: a number of each configuration with several training seeds; rows with a NaN are
            left out. None where fewer than two are left.
        reseed: standard deviation of the number when the data are drawn anew.
    """
    kept = panel[~np.isnan(panel).any(axis=1)]
    if len(kept) < 2 or kept.shape[1] < 2:
        return None
    variance = float(kept.var(axis=1, ddof=1).mean())
    noise = spread(float(np.sqrt(reseed**2 + variance)), len(kept) * (kept.shape[1] - 1))
    if not noise.value > 0:
        return None
    signal = float(kept.mean(axis=1).std(ddof=1))
    return Interval(signal / noise.value, signal / noise.high, signal / noise.low)


def _root_mean_square(values: Float64[np.ndarray, " value"]) -> float:
    return float(np.sqrt(np.square(values).mean())) if len(values) else float("nan")
