"""Rate-distortion curves: operating points, Pareto front, comparisons of two, and their plot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import Akima1DInterpolator, CubicHermiteSpline, PchipInterpolator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_LABELS = {
    "mse": "MSE per dimension",
    "fvu": "fraction of variance unexplained",
    "delta_ce": "ΔCE of the model (nats)",
}

Interpolation = Literal["pchip", "akima"]
LEAST_POINTS = 4
"""Of a Pareto front that is compared with another."""
LEAST_OVERLAP = 0.75
"""Share of two curves' joint range of quality that must be common for an average to be of both."""
NEGLIGIBLE = 1e-9
"""Bits per token that tell no two curves apart."""
RELATIVE_SAMPLES = 2001


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

    def within(self, distortion: float) -> RateDistortionCurve:
        """The points whose distortion is at most this."""
        points = tuple(point for point in self.points if point.distortion <= distortion)
        return RateDistortionCurve(points, self.name, self.metric)

    def by_quality(self, interpolation: Interpolation = "pchip") -> CubicHermiteSpline | None:
        """Bits per token as a function of quality, −10·log₁₀ distortion, through the Pareto front.

        Points without a positive distortion have no quality and are left out; None where fewer
        than `LEAST_POINTS` remain (maths §8).
        """
        front = [point for point in self.pareto_front().points if point.distortion > 0]
        quality = -10.0 * np.log10([point.distortion for point in front])
        rising = np.diff(quality, prepend=-np.inf) > 0
        if rising.sum() < LEAST_POINTS:
            return None
        rate = np.array([point.rate for point in front], dtype=np.float64)
        spline = PchipInterpolator if interpolation == "pchip" else Akima1DInterpolator
        return spline(quality[rising], rate[rising])

    def rates_at(self, distortions: Float64[np.ndarray, " point"]) -> Float64[np.ndarray, " point"]:
        """Interpolated bits per token at some distortions; NaN where the curve does not reach."""
        rate = self.by_quality()
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
        ax.set_ylabel(METRIC_LABELS.get(self.metric, self.metric))
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


def overlap(anchor: RateDistortionCurve, test: RateDistortionCurve) -> float:
    """Length of the two curves' common range of quality over that of their joint one, 0 to 1."""
    one, other = anchor.by_quality(), test.by_quality()
    if one is None or other is None:
        return 0.0
    low, high = _common(one, other)
    joint = max(one.x[-1], other.x[-1]) - min(one.x[0], other.x[0])
    return max(float(high - low), 0.0) / float(joint)


def bd_bits(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> float | None:
    """Bits per token of `test` minus those of `anchor`, averaged over common quality (maths §8).

    None where they are not comparable: fewer than `LEAST_POINTS` points on a Pareto front, or an
    overlap below `LEAST_OVERLAP`.
    """
    if overlap(anchor, test) < LEAST_OVERLAP:
        return None
    difference = _difference(anchor, test, interpolation)
    if difference is None:
        return None
    low, high = difference.x[0], difference.x[-1]
    return float(difference.integrate(low, high) / (high - low))


def bd_rate(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation = "pchip"
) -> float | None:
    """Percent by which the rate of `test` exceeds that of `anchor` at equal quality (maths §8).

    The geometric mean of the ratio of rates, by the `bjontegaard` library. Points at rate 0 are
    left out; None as in `bd_bits`.
    """
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
    """Where two interpolated curves cross; None where they share no range of quality (maths §8).

    Curves that touch, or coincide for a while, and part on the side where they met do not cross.
    """
    difference = _difference(anchor, test, interpolation)
    rate = anchor.by_quality(interpolation)
    if difference is None or rate is None:
        return None
    low, high = difference.x[0], difference.x[-1]
    samples = np.union1d(difference.x, np.linspace(low, high, RELATIVE_SAMPLES))
    rates = rate(samples)
    relative = difference(samples)[rates > 0] / rates[rates > 0]
    points = tuple(Crossing(float(rate(q)), 10.0 ** (-q / 10.0)) for q in _sign_changes(difference))
    return Crossings(points, float(relative.min()), float(relative.max()))


def _with_rate(curve: RateDistortionCurve) -> RateDistortionCurve:
    points = tuple(point for point in curve.points if point.rate > 0)
    return RateDistortionCurve(points, curve.name, curve.metric)


def _common(one: CubicHermiteSpline, other: CubicHermiteSpline) -> tuple[float, float]:
    return max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])


def _difference(
    anchor: RateDistortionCurve, test: RateDistortionCurve, interpolation: Interpolation
) -> CubicHermiteSpline | None:
    """Rate of `test` minus rate of `anchor` as a function of quality, where both have one.

    Exact: between the knots of both, either curve is one cubic, and so is their difference.
    """
    of_anchor, of_test = anchor.by_quality(interpolation), test.by_quality(interpolation)
    if of_anchor is None or of_test is None:
        return None
    low, high = _common(of_anchor, of_test)
    if not low < high:
        return None
    knots = np.union1d(of_anchor.x, of_test.x)
    knots = np.union1d(knots[(knots > low) & (knots < high)], [low, high])
    values = of_test(knots) - of_anchor(knots)
    slopes = of_test(knots, nu=1) - of_anchor(knots, nu=1)
    return CubicHermiteSpline(knots, values, slopes)


def _sign_changes(difference: CubicHermiteSpline) -> list[float]:
    """Where the difference has one sign before and the other after."""
    roots = np.asarray(difference.roots(discontinuity=False, extrapolate=False))
    inner = roots[(roots > difference.x[0]) & (roots < difference.x[-1])]
    edges = np.unique([difference.x[0], *inner, difference.x[-1]])
    between = difference((edges[:-1] + edges[1:]) / 2)
    told_apart = np.flatnonzero(np.abs(between) > NEGLIGIBLE)
    changed = np.diff(np.sign(between[told_apart])) != 0
    return [float(edge) for edge in edges[told_apart[1:][changed]]]
