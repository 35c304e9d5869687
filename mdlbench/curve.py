"""Rate-distortion curves: operating points, Pareto front, interpolation, and their plot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRIC_LABELS = {
    "mse": "MSE per dimension",
    "fvu": "fraction of variance unexplained",
    "delta_ce": "ΔCE of the model (nats)",
}


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
