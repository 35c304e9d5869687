"""Two contenders' curves beside each other: averages, crossings, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.boards.compare.contender import ByQuality, ComparedCurve
from mdlbench.curves.curve import (
    LEAST_OVERLAP,
    LEAST_POINTS,
    Crossing,
    bd_bits,
    bd_rate,
    common_range,
    crossings,
    mean_gap,
    overlap,
)
from mdlbench.errors import RecordError
from mdlbench.statistics.bootstrap import CONFIDENCE

Replicates = Float64[np.ndarray, " replicate"]

N_BAND = 201
"""Qualities at which the difference of two curves is drawn."""


class Estimate(NamedTuple):
    """A number with its 95% interval over paired resamples.

    Attributes:
        low, high: None without resamples, or where so many of them have no such number that the
            interval has no end.
        n_missing: resamples without such a number. Each counts as if it lay beyond either end.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n_missing: int = 0


@dataclass(frozen=True)
class Band:
    """Rate of `test` minus rate of `anchor` over their common quality, with its interval at each.

    NaN where an interval has no end.
    """

    distortions: Float64[np.ndarray, " quality"]
    bits: Float64[np.ndarray, " quality"]
    low: Float64[np.ndarray, " quality"]
    high: Float64[np.ndarray, " quality"]


class FoundCrossing(NamedTuple):
    """Where two curves cross.

    `beyond_chance`: before it, up to the crossing before, the interval of the difference lies on
    one side of 0 at some quality, and after it, up to the next, on the other side.
    """

    rate: float
    distortion: float
    beyond_chance: bool


@dataclass(frozen=True)
class CurveComparison:
    """One contender's curve against the anchor's.

    Attributes:
        overlap: common over joint range of quality.
        reason: why there are no averages; None where there are.
        bd_bits: bits per token above the anchor's at equal quality, on average (maths §8).
        bd_rate: percent above the anchor's, likewise.
        crossings: by rising rate; None, as the following, where no quality is common or vertices
            are too few.
        smallest, largest: extremes of the difference as a share of the anchor's rate.
        band: the difference over quality.
    """

    anchor: str
    test: str
    overlap: float
    reason: str | None
    bd_bits: Estimate | None
    bd_rate: Estimate | None
    crossings: tuple[FoundCrossing, ...] | None
    smallest: float | None
    largest: float | None
    band: Band | None

    @property
    def rate_reason(self) -> str | None:
        """Why there is no BD-rate; None where there is."""
        if self.reason or self.bd_rate is not None:
            return self.reason
        return "not comparable without the points at rate 0"


def compare_curves(anchor: ComparedCurve, test: ComparedCurve) -> CurveComparison:
    """Everything about two curves; averages only where they are comparable.

    Raises:
        RecordError: their numbers of resamples differ, so nothing is paired.
    """
    _refuse_unequal(anchor, test)
    curves = anchor.vertices, test.vertices
    share = overlap(*curves)
    reason = _reason(anchor, test, share)
    found = crossings(*curves)
    band = None if found is None else _band(anchor, test)
    return CurveComparison(
        anchor=anchor.contender.name,
        test=test.contender.name,
        overlap=share,
        reason=reason,
        bd_bits=None if reason else _bd_bits(anchor, test),
        bd_rate=None if reason else _bd_rate(anchor, test),
        crossings=None if found is None or band is None else _judged(found.points, band),
        smallest=None if found is None else found.smallest,
        largest=None if found is None else found.largest,
        band=band,
    )


def _refuse_unequal(anchor: ComparedCurve, test: ComparedCurve) -> None:
    counts = len(anchor.resampled), len(test.resampled)
    if all(counts) and counts[0] != counts[1]:
        raise RecordError(
            f"{anchor.contender.name} and {test.contender.name} cannot be compared: "
            f"{counts[0]} and {counts[1]} bootstrap resamples cannot be paired"
        )


def _reason(anchor: ComparedCurve, test: ComparedCurve, share: float) -> str | None:
    for curve in (test, anchor):
        if curve.n_points < LEAST_POINTS:
            whose = "" if curve is test else "the anchor has "
            points = "point" if curve.n_points == 1 else "points"
            return f"{whose}{curve.n_points} {points}, needs {LEAST_POINTS}"
    if share < LEAST_OVERLAP:
        return f"overlap {percent_below(share)}, needs {LEAST_OVERLAP:.0%}"
    return None


def percent_below(share: float) -> str:
    """Never rounded up to what it falls short of."""
    return f"{np.floor(100 * share):.0f}%"


def _bd_bits(anchor: ComparedCurve, test: ComparedCurve) -> Estimate | None:
    replicates = _paired(anchor, test, lambda one, other: mean_gap(one.rate, other.rate))
    return _estimate(bd_bits(anchor.vertices, test.vertices), replicates)


def _bd_rate(anchor: ComparedCurve, test: ComparedCurve) -> Estimate | None:
    logs = _paired(anchor, test, _log_gap)
    value = bd_rate(anchor.vertices, test.vertices)
    return _estimate(value, 100.0 * (10.0**logs - 1.0))


def _log_gap(anchor: ByQuality, test: ByQuality) -> float | None:
    if anchor.log_rate is None or test.log_rate is None:
        return None
    return mean_gap(anchor.log_rate, test.log_rate)


def _paired(
    anchor: ComparedCurve, test: ComparedCurve, gap: Callable[[ByQuality, ByQuality], float | None]
) -> Replicates:
    """A number of both curves in every resample; NaN where there is none."""
    values = [None if both is None else gap(*both) for both in _both(anchor, test)]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _both(
    anchor: ComparedCurve, test: ComparedCurve
) -> Iterator[tuple[ByQuality, ByQuality] | None]:
    if not anchor.resampled or not test.resampled:
        return
    for one, other in zip(anchor.resampled, test.resampled, strict=True):
        yield None if one is None or other is None else (one, other)


def _estimate(value: float | None, replicates: Replicates) -> Estimate | None:
    if value is None or not len(replicates):
        return None if value is None else Estimate(value)
    low, high = (None if np.isnan(end[0]) else float(end[0]) for end in _ends(replicates[:, None]))
    return Estimate(value, low, high, int(np.isnan(replicates).sum()))


def _ends(
    replicates: Float64[np.ndarray, "replicate quality"],
) -> tuple[Float64[np.ndarray, " quality"], Float64[np.ndarray, " quality"]]:
    """Ends of percentile intervals, a missing value (NaN) taken to lie beyond either.

    NaN where that leaves no end.
    """
    missing = np.isnan(replicates)
    tail = (1 - CONFIDENCE) / 2
    with np.errstate(invalid="ignore"):
        low = np.quantile(np.where(missing, -np.inf, replicates), tail, axis=0)
        high = np.quantile(np.where(missing, np.inf, replicates), 1 - tail, axis=0)
    return np.where(np.isfinite(low), low, np.nan), np.where(np.isfinite(high), high, np.nan)


def _band(anchor: ComparedCurve, test: ComparedCurve) -> Band | None:
    """On a grid of qualities from end to end of the common range."""
    one, other = (c.vertices.by_quality() for c in (anchor, test))
    if one is None or other is None:
        return None
    quality = np.linspace(*common_range(one, other), N_BAND)
    replicates = [
        np.full(N_BAND, np.nan) if both is None else _gaps(*both, quality)
        for both in _both(anchor, test)
    ]
    low, high = _ends(np.array(replicates)) if replicates else np.full((2, N_BAND), np.nan)
    return Band(10.0 ** (-quality / 10.0), other(quality) - one(quality), low, high)


def _gaps(
    anchor: ByQuality, test: ByQuality, quality: Float64[np.ndarray, " quality"]
) -> Float64[np.ndarray, " quality"]:
    """Difference of rates; NaN where either does not reach."""
    low, high = common_range(anchor.rate, test.rate)
    gaps = test.rate(quality) - anchor.rate(quality)
    return np.where((quality >= low) & (quality <= high), gaps, np.nan)


def _judged(points: Sequence[Crossing], band: Band) -> tuple[FoundCrossing, ...]:
    """Crossings, and whether the band leaves 0 on either side before and after each."""
    edges = [np.inf, *(point.distortion for point in points), 0.0]
    signs = [_signs(band, above, below) for above, below in pairwise(edges)]
    return tuple(
        FoundCrossing(*point, beyond_chance=bool({(1, -1), (-1, 1)} & set(product(before, after))))
        for point, (before, after) in zip(points, pairwise(signs), strict=True)
    )


def _signs(band: Band, above: float, below: float) -> set[int]:
    """On which sides of 0 the interval lies, at some distortion between two."""
    within = (band.distortions < above) & (band.distortions > below)
    found = (within & (band.low > 0)).any(), (within & (band.high < 0)).any()
    return {sign for sign, is_found in zip((1, -1), found, strict=True) if is_found}
