"""Rate-distortion curves: operating points, lower hull, comparisons of two, and their plot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.console.terminal import inert
from mdlbench.curves.chords import Chords, LogChords, crossing_qualities
from mdlbench.curves.drawing import Window, draw_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_POINTS = 4
"""A hull with fewer vertices is not compared."""
LEAST_OVERLAP = 0.75
"""Share of two curves' joint range of quality that must be common for an average to be of both."""
NAME_LENGTH = 40
"""Characters of a curve's name that are drawn."""
NEGLIGIBLE = 1e-9
"""Bits per token that tell no two curves apart."""


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

    def lower_hull(self) -> RateDistortionCurve:
        """The vertices of the lower convex hull of rate and distortion, both linear (maths §8).

        From the least rate to the least distortion. Whoever sends a share of the tokens at one
        vertex and the rest at the next achieves the chord between them.
        """
        hull: list[RatePoint] = []
        for point in self.points:
            if hull and point.distortion >= hull[-1].distortion:
                continue
            while len(hull) > 1 and not _bends_up(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        return RateDistortionCurve(tuple(hull), self.name, self.metric)

    def within(self, distortion: float) -> RateDistortionCurve:
        """The points whose distortion is at most this."""
        points = tuple(point for point in self.points if point.distortion <= distortion)
        return RateDistortionCurve(points, self.name, self.metric)

    def by_quality(self) -> Chords | None:
        """Bits per token along the hull by quality, −10·log₁₀ distortion (maths §8).

        Vertices without a positive distortion have no quality and are left out; None where fewer
        than two remain.
        """
        return self.lower_hull()._chords(Chords)

    def log_rate_by_quality(self) -> Chords | None:
        """log₁₀ of bits per token by quality, which BD-rate averages; as `by_quality`.

        A vertex at rate 0 is left out, and the chord that leads to it.
        """
        vertices = tuple(point for point in self.lower_hull().points if point.rate > 0)
        return RateDistortionCurve(vertices, self.name, self.metric)._chords(LogChords)

    def _chords(self, kind: type[Chords]) -> Chords | None:
        vertices = [point[:2] for point in self.points if point.distortion > 0]
        if len(vertices) < 2:
            return None
        return kind(*np.array(vertices, dtype=np.float64).T)

    def rates_at(self, distortions: Float64[np.ndarray, " point"]) -> Float64[np.ndarray, " point"]:
        """Bits per token along the hull at some distortions; NaN where it does not reach."""
        hull = self.lower_hull()
        if not hull.points:
            return np.full(np.shape(distortions), np.nan)
        beyond = (distortions < hull.distortions[-1]) | (distortions > hull.distortions[0])
        rates = np.interp(-distortions, -hull.distortions, hull.rates)
        return np.where(beyond, np.nan, rates)

    def along_hull(
        self, least: float = 0.0, n: int = 400, most: float = np.inf
    ) -> tuple[Float64[np.ndarray, " point"], Float64[np.ndarray, " point"]]:
        """Rates and distortions along the lower hull, by rising rate, as it is drawn.

        Chords are straight where the loss is linear, so that they are curved on a logarithmic axis.

        Args:
            least: positive distortions below it are left out; all that are not positive are.
            n: places at most, spaced evenly in the logarithm of the distortion.
            most: bits per token at which it is cut, on whichever chord that is.
        """
        hull = self.lower_hull()
        rates, losses = _cut(hull.rates, hull.distortions, most)
        kept = losses[losses > 0]
        if len(kept) == 0 or len(losses) == 1:
            return rates[losses > 0], kept
        foot = max(losses[-1], least, 1e-6 * losses[0])
        if foot >= losses[0]:
            return rates[:1], losses[:1]
        grid = np.clip(np.geomspace(losses[0], foot, n), foot, losses[0])
        return np.interp(-grid, -losses, rates), grid

    @property
    def shown_name(self) -> str:
        """Its name, inert and not too long to be drawn."""
        name = inert(self.name)
        return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"

    def window(self) -> Window | None:
        """What `plot` shows; None where there is no positive loss."""
        return Window.of(self)

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve in the house style: rate to the right, the loss upwards (log).

        Args:
            ax: to draw on; a new figure's by default.
        """
        return draw_curve(self, ax, self.window())


def _cut(
    rates: Float64[np.ndarray, " vertex"], losses: Float64[np.ndarray, " vertex"], most: float
) -> tuple[Float64[np.ndarray, " kept"], Float64[np.ndarray, " kept"]]:
    """A hull's vertices up to a rate, and the point of its chord there."""
    n = int((rates <= most).sum())
    if n in (0, len(rates)):
        return rates[:n], losses[:n]
    return np.append(rates[:n], most), np.append(losses[:n], np.interp(most, rates, losses))


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
    return 0.0 if one is None or other is None else _overlap(one, other)


def _overlap(one: Chords, other: Chords) -> float:
    low, high = common_range(one, other)
    joint = max(one.x[-1], other.x[-1]) - min(one.x[0], other.x[0])
    return max(float(high - low), 0.0) / float(joint)


def bd_bits(anchor: RateDistortionCurve, test: RateDistortionCurve) -> float | None:
    """Bits per token of `test` minus those of `anchor`, averaged over common quality (maths §8).

    None where they are not comparable: fewer than `LEAST_POINTS` vertices of a hull, or an
    overlap below `LEAST_OVERLAP`.
    """
    return _comparable_gap(anchor.by_quality(), test.by_quality())


def bd_rate(anchor: RateDistortionCurve, test: RateDistortionCurve) -> float | None:
    """Percent by which the rate of `test` exceeds that of `anchor` at equal quality (maths §8).

    The geometric mean of the ratio of rates. Vertices at rate 0 are left out; None as in `bd_bits`.
    """
    gap = _comparable_gap(anchor.log_rate_by_quality(), test.log_rate_by_quality())
    return None if gap is None else 100.0 * (10.0**gap - 1.0)


def _comparable_gap(anchor: Chords | None, test: Chords | None) -> float | None:
    pair = _long_enough(anchor, test)
    return None if pair is None or _overlap(*pair) < LEAST_OVERLAP else mean_gap(*pair)


def _long_enough(one: Chords | None, other: Chords | None) -> tuple[Chords, Chords] | None:
    if one is None or other is None or min(len(one.x), len(other.x)) < LEAST_POINTS:
        return None
    return one, other


def mean_gap(anchor: Chords, test: Chords) -> float | None:
    """Mean of `test` − `anchor` over the quality that both have; None where they share none.

    Of `by_quality` it is BD-bits; of `log_rate_by_quality`, log₁₀(1 + BD-rate) (maths §8).
    """
    low, high = common_range(anchor, test)
    if not low < high:
        return None
    return float((test.integrate(low, high) - anchor.integrate(low, high)) / (high - low))


class Crossing(NamedTuple):
    """A point that two curves share and at which the shorter of them changes."""

    rate: float
    distortion: float


@dataclass(frozen=True)
class Crossings:
    """How two curves lie to each other over their common range of quality.

    Attributes:
        points: where they cross, by rising rate.
        smallest, largest: extremes of (rate of `test` − rate of `anchor`) / rate of `anchor`, at
            vertices where the anchor has a rate.
    """

    points: tuple[Crossing, ...]
    smallest: float
    largest: float


def crossings(anchor: RateDistortionCurve, test: RateDistortionCurve) -> Crossings | None:
    """Where two curves cross (maths §8).

    Curves that touch, or coincide for a while, and part on the side where they met do not cross.
    None where they share no range of quality, or a hull has fewer than `LEAST_POINTS` vertices.
    """
    pair = _long_enough(anchor.by_quality(), test.by_quality())
    if pair is None or not np.less(*common_range(*pair)):
        return None
    one, other = pair
    vertices = _common_vertices(one, other)
    rates = one(vertices)
    gap = other(vertices) - rates
    relative = gap[rates > 0] / rates[rates > 0]
    met = np.array(crossing_qualities(vertices, gap, NEGLIGIBLE))
    at = np.stack([one(met), 10.0 ** (-met / 10.0)], axis=1)
    points = tuple(Crossing(*point) for point in at.tolist())
    return Crossings(points, float(relative.min()), float(relative.max()))


def common_range(one: Chords, other: Chords) -> tuple[float, float]:
    """From the least to the greatest quality that both have; empty where they share none."""
    return max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])


def _common_vertices(one: Chords, other: Chords) -> Float64[np.ndarray, " vertex"]:
    """Qualities of both curves' vertices within their common range, and its ends."""
    low, high = common_range(one, other)
    vertices = np.union1d(one.x, other.x)
    return np.union1d(vertices[(vertices > low) & (vertices < high)], [low, high])


def _bends_up(one: RatePoint, middle: RatePoint, other: RatePoint) -> bool:
    """Whether the middle point lies below the chord of the others."""
    to_middle = middle.rate - one.rate, middle.distortion - one.distortion
    to_other = other.rate - one.rate, other.distortion - one.distortion
    return to_middle[0] * to_other[1] > to_middle[1] * to_other[0]
