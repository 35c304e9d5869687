"""Lower hulls in a panel of bits and losses, as far as it shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.console.style import plain_log_scale
from mdlbench.curves.curve import RateDistortionCurve
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_SAMPLES = 600
BELOW = 1e-3
"""Lines that go on below a panel are known down to this share of its foot."""

Points = Float64[np.ndarray, " point"]


class Shown(NamedTuple):
    """What a panel shows: bits per token up to `most`, losses from `foot` to `top`."""

    most: float
    foot: float
    top: float


class Line(NamedTuple):
    """A hull as far as a panel shows it, or farther below, by rising rate."""

    rates: Points
    losses: Points

    def cut_at(self, loss: float) -> Line:
        """The part of it that lies above a loss, which it may not reach."""
        if loss <= self.losses[-1]:
            return self
        kept = self.losses > loss
        at = np.interp(-loss, -self.losses, self.rates)
        return Line(np.append(self.rates[kept], at), np.append(self.losses[kept], loss))


def line_of(curve: RateDistortionCurve, shown: Shown) -> Line | None:
    """A curve's hull, cut at the panel's right edge; None where nothing of it is in view."""
    rates, losses = curve.along_hull(BELOW * shown.foot, N_SAMPLES, shown.most)
    inside = losses <= shown.top
    line = Line(rates[inside], losses[inside])
    return line if (line.losses >= shown.foot).any() else None


def scales(ax: Axes, shown: Shown, metric: MetricName, share: float) -> None:
    """The panel's axes, with a share of its height below what it shows."""
    foot, top = shown.foot, shown.top
    ax.set_yscale("log")
    ax.set_xlim(0.0, shown.most)
    ax.set_ylim(top * (foot / top) ** (1 / (1 - share)), top)
    plain_log_scale(ax.yaxis, float(np.log10(top / foot)))
    ax.set_xlabel("bits per token")
    ax.set_ylabel(metric_of(metric).axis)
