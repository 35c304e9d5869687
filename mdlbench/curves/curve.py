"""Rate-distortion curves: operating points, Pareto front, comparisons of two, and their plot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import Akima1DInterpolator, CubicHermiteSpline, PchipInterpolator

from mdlbench.curves.chords import Chords, LogChords, crossing_qualities
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interpolation = Literal["pchip", "akima", "chords"]
"""Between points: by a spline through the Pareto front, or along the lower hull."""
LEAST_POINTS = 4
"""A Pareto front with fewer points is not compared."""
LEAST_OVERLAP = 0.75
"""Share of two curves' joint range of quality that must be common for an average to be of both."""
NEGLIGIBLE = 1e-9
"""Bits per token that tell no two curves apart."""
RELATIVE_SAMPLES = 2001
RateByQuality = CubicHermiteSpline | Chords
"""Rate, or its logarithm, as a function of quality; `x` are the qualities of the points."""


class RatePoint(NamedTuple):
    """One operating point: bits per token, a distortion, and the step and L0 behind them."""

    rate: float
    distortion: float
    step: float
    l0: float


@dataclass(frozen=True)
class RateDistortionCurve:
    """The operating points of one SAE, sorted by rate, then by distortion."""

    points: tuple[RatePoint, ...]
    name: str
    metric: str

    @classmethod
    def of(cls, points: Iterable[RatePoint], name: str, metric: str) -> RateDistortionCurve:
        return cls(tuple(sorted(points)), name, metric)

    @property
    def rates(self) -> Float64[np.ndarray, " point"]:
        return np.array([p.rate for p in self.points], dtype=np.float64)

    @property
    def distortions(self) -> Float64[np.ndarray, " point"]:
        return np.array([p.distortion for p in self.points], dtype=np.float64)

    def pareto_front(self) -> RateDistortionCurve:
        """The points that no other point beats in both rate and distortion."""
        front: list[RatePoint] = []
        for point in self.points:
            if not front or point.distortion < front[-1].distortion:
                front.append(point)
        return RateDistortionCurve(tuple(front), self.name, self.metric)

    def lower_hull(self) -> RateDistortionCurve:
        """The vertices of the lower convex hull of rate and distortion, both linear (maths §8).

        From the least rate to the least distortion. Whoever sends a share of the tokens at one
        vertex and the rest at the next achieves the chord between them.
        """
        hull: list[RatePoint] = []
        for point in self.pareto_front().points:
            while len(hull) > 1 and not _bends_up(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        return RateDistortionCurve(tuple(hull), self.name, self.metric)

    def within(self, distortion: float) -> RateDistortionCurve:
        """The points whose distortion is at most this."""
        points = tuple(point for point in self.points if point.distortion <= distortion)
        return RateDistortionCurve(points, self.name, self.metric)

    def by_quality(self, interpolation: Interpolation = "pchip") -> RateByQuality | None:
        """Bits per token as a function of quality, −10·log₁₀ distortion (maths §8).

        Points without a positive distortion have no quality and are left out; None where fewer
        than `LEAST_POINTS` of the Pareto front remain, or no chord of the hull.
        """
        return self._chords(Chords) if interpolation == "chords" else self._spline(interpolation)

    def _spline(self, interpolation: Literal["pchip", "akima"]) -> CubicHermiteSpline | None:
        front = [point for point in self.pareto_front().points if point.distortion > 0]
        quality = -10.0 * np.log10([point.distortion for point in front])
        rising = np.diff(quality, prepend=-np.inf) > 0
        if rising.sum() < LEAST_POINTS:
            return None
        rate = np.array([point.rate for point in front], dtype=np.float64)
        spline = PchipInterpolator if interpolation == "pchip" else Akima1DInterpolator
        return spline(quality[rising], rate[rising])

    def log_rate_by_quality(self, interpolation: Interpolation = "pchip") -> RateByQuality | None:
        """log₁₀ of bits per token by quality, which BD-rate averages; as `by_quality`.

        Points at rate 0 are left out, and the chord that leads to one.
        """
        if interpolation == "chords":
            return _with_rate(self.lower_hull())._chords(LogChords)
        rate = _with_rate(self)._spline("pchip")
        return None if rate is None else PchipInterpolator(rate.x, np.log10(rate(rate.x)))

    def _chords(self, kind: type[Chords]) -> Chords | None:
        vertices = [point for point in self.lower_hull().points if point.distortion > 0]
        if len(vertices) < 2:
            return None
        rates, distortions = np.array([point[:2] for point in vertices], dtype=np.float64).T
        return kind(rates, distortions)

    def rates_at(self, distortions: Float64[np.ndarray, " point"]) -> Float64[np.ndarray, " point"]:
        """Interpolated bits per token at some distortions; NaN where the curve does not reach."""
        rate = self._spline("pchip")
        if rate is None:
            return np.full(len(distortions), np.nan)
        return np.asarray(rate(-10.0 * np.log10(distortions), extrapolate=False))

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve on a new or given axis: rate to the right, distortion upwards (log)."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        ax.plot(self.rates, self.distortions, marker="o", markersize=3, label=self.name)
        ax.set_xlabel("bits per token")
        ax.set_ylabel(metric_of(self.metric).axis)
        if (self.distortions > 0).all():
            ax.set_yscale("log")
        ax.legend()
        return ax


def gaussian_rate_distortion(
    eigenvalues: Float64[np.ndarray, " d"], n_points: int = 200
) -> tuple[Float64[np.ndarray, " point"], Float64[np.ndarray, " point"]]:
    """R(D) of a Gaussian with this covariance by reverse water-filling (maths §8).

    A reference, not a bound: data that is not Gaussian may lie below it.

    Args:
        eigenvalues: of the covariance, non-negative.
        n_points: water levels, spaced evenly in their logarithm.

    Returns:
        Rates in bits per token, ascending, and distortions as MSE per dimension.
    """
    variances = np.maximum(np.asarray(eigenvalues, dtype=np.float64), 0.0)
    largest = variances.max(initial=0.0)
    if largest == 0.0:
        return np.zeros(1), np.zeros(1)
    levels = np.geomspace(largest, largest * 1e-6, n_points)[:, None]
    rates = 0.5 * np.log2(np.maximum(variances / levels, 1.0)).sum(axis=1)
    distortions = np.minimum(levels, variances).sum(axis=1) / len(variances)
    return rates, distortions


def overlap(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> float:
    """Length of the two curves' common range of quality over that of their joint one, 0 to 1."""
    one, other = anchor.by_quality(interpolation), test.by_quality(interpolation)
    return 0.0 if one is None or other is None else _overlap(one, other)


def _overlap(one: RateByQuality, other: RateByQuality) -> float:
    low, high = common_range(one, other)
    joint = max(one.x[-1], other.x[-1]) - min(one.x[0], other.x[0])
    return max(float(high - low), 0.0) / float(joint)


def bd_bits(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> float | None:
    """Bits per token of `test` minus those of `anchor`, averaged over common quality (maths §8).

    None where they are not comparable: fewer than `LEAST_POINTS` points on a Pareto front, or an
    overlap below `LEAST_OVERLAP`.
    """
    one, other = anchor.by_quality(interpolation), test.by_quality(interpolation)
    if one is None or other is None or _overlap(one, other) < LEAST_OVERLAP:
        return None
    return mean_gap(one, other)


def mean_gap(anchor: RateByQuality, test: RateByQuality) -> float | None:
    """Mean of `test` − `anchor` over the quality that both have; None where they share none.

    Of `by_quality` it is BD-bits; of `log_rate_by_quality`, log₁₀(1 + BD-rate) (maths §8).
    """
    low, high = common_range(anchor, test)
    if not low < high:
        return None
    return float((test.integrate(low, high) - anchor.integrate(low, high)) / (high - low))


def bd_rate(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> float | None:
    """Percent by which the rate of `test` exceeds that of `anchor` at equal quality (maths §8).

    The geometric mean of the ratio of rates: through Pareto fronts by the `bjontegaard` library,
    along chords in closed form. Points at rate 0 are left out; None as in `bd_bits`.
    """
    if interpolation == "chords":
        return _bd_rate_of_hulls(anchor, test)
    anchor, test = _with_rate(anchor), _with_rate(test)
    if overlap(anchor, test) < LEAST_OVERLAP:
        return None
    from bjontegaard import bd_rate as bjontegaard_rate

    curves = anchor.by_quality(), test.by_quality()
    points = [values for c in curves if c is not None for values in (c(c.x), c.x)]
    return float(
        bjontegaard_rate(
            *points, method=interpolation, require_matching_points=False, min_overlap=0.0
        )
    )


def _bd_rate_of_hulls(anchor: RateDistortionCurve, test: RateDistortionCurve) -> float | None:
    one, other = anchor.log_rate_by_quality("chords"), test.log_rate_by_quality("chords")
    if one is None or other is None or _overlap(one, other) < LEAST_OVERLAP:
        return None
    gap = mean_gap(one, other)
    return None if gap is None else 100.0 * (10.0**gap - 1.0)


class Crossing(NamedTuple):
    """A point that two curves share and at which the shorter of them changes."""

    rate: float
    distortion: float


@dataclass(frozen=True)
class Crossings:
    """How two curves lie to each other over their common range of quality.

    Attributes:
        points: where they cross, by rising rate.
        smallest, largest: extremes of (rate of `test` − rate of `anchor`) / rate of `anchor`.
    """

    points: tuple[Crossing, ...]
    smallest: float
    largest: float


def crossings(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> Crossings | None:
    """Where two curves cross; None where they share no range of quality (maths §8).

    Curves that touch, or coincide for a while, and part on the side where they met do not cross.
    """
    one, other = anchor.by_quality(interpolation), test.by_quality(interpolation)
    if one is None or other is None or not np.less(*common_range(one, other)):
        return None
    knots = _common_knots(one, other)
    samples = np.union1d(knots, np.linspace(knots[0], knots[-1], RELATIVE_SAMPLES))
    rates = one(samples)
    relative = (other(samples) - rates)[rates > 0] / rates[rates > 0]
    met = np.array(_meetings(one, other, knots))
    at = np.stack([one(met), 10.0 ** (-met / 10.0)], axis=1)
    points = tuple(Crossing(*point) for point in at.tolist())
    return Crossings(points, float(relative.min()), float(relative.max()))


def _meetings(
    one: RateByQuality, other: RateByQuality, knots: Float64[np.ndarray, " knot"]
) -> list[float]:
    gap = other(knots) - one(knots)
    if isinstance(one, Chords) or isinstance(other, Chords):
        return crossing_qualities(knots, gap, NEGLIGIBLE)
    slopes = other(knots, nu=1) - one(knots, nu=1)
    return _sign_changes(CubicHermiteSpline(knots, gap, slopes))


def _bends_up(one: RatePoint, middle: RatePoint, other: RatePoint) -> bool:
    """Whether the middle point lies below the chord of the others."""
    to_middle = middle.rate - one.rate, middle.distortion - one.distortion
    to_other = other.rate - one.rate, other.distortion - one.distortion
    return to_middle[0] * to_other[1] > to_middle[1] * to_other[0]


def _with_rate(curve: RateDistortionCurve) -> RateDistortionCurve:
    points = tuple(point for point in curve.points if point.rate > 0)
    return RateDistortionCurve(points, curve.name, curve.metric)


def common_range(one: RateByQuality, other: RateByQuality) -> tuple[float, float]:
    """From the least to the greatest quality that both have; empty where they share none."""
    return max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])


def _common_knots(one: RateByQuality, other: RateByQuality) -> Float64[np.ndarray, " knot"]:
    """Qualities of both curves' points within their common range, and its ends."""
    low, high = common_range(one, other)
    knots = np.union1d(one.x, other.x)
    return np.union1d(knots[(knots > low) & (knots < high)], [low, high])


def _sign_changes(difference: CubicHermiteSpline) -> list[float]:
    """Where the difference has one sign before and the other after.

    Exact: between the knots of both, either curve is one cubic, and so is their difference.
    """
    roots = np.asarray(difference.roots(discontinuity=False, extrapolate=False))
    inner = roots[(roots > difference.x[0]) & (roots < difference.x[-1])]
    edges = np.unique([difference.x[0], *inner, difference.x[-1]])
    between = difference((edges[:-1] + edges[1:]) / 2)
    told_apart = np.flatnonzero(np.abs(between) > NEGLIGIBLE)
    changed = np.diff(np.sign(between[told_apart])) != 0
    return [float(edge) for edge in edges[told_apart[1:][changed]]]
