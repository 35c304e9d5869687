"""A record's curve, drawn with what else the record says: tolerances, scores, its band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from mdlbench.console.labels import label_limits
from mdlbench.console.style import house_style
from mdlbench.curves.curve import RateDistortionCurve, RatePoint
from mdlbench.curves.drawing import CURVE, Window
from mdlbench.errors import RecordError
from mdlbench.records.record import EvalRecord, OperatingPoint
from mdlbench.statistics.bootstrap import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_BAND = 100
"""Losses at which the band's ends are computed."""
ROOM = 1.3
"""The panel reaches up to this factor of the bits at the finest tolerance that is met."""
ACCEPTED = "accepted"
"""How the points at the tolerances are marked among what is drawn."""


@dataclass(frozen=True)
class MeasuredCurve(RateDistortionCurve):
    """The operating points of a record, sorted by rate, then by distortion."""

    record: EvalRecord = field(repr=False, compare=False)

    @classmethod
    def of_record(cls, record: EvalRecord, metric: str) -> MeasuredCurve:
        """A record's total rate against one metric; raises as `EvalRecord.curve` does."""
        points = [RatePoint(p.bits.total, p.loss(metric), p.step, p.l0) for p in record.points]
        return cls(tuple(sorted(points)), record.label, metric, record)

    def band(self) -> tuple[Float64[np.ndarray, "end loss"], Float64[np.ndarray, " loss"]] | None:
        """The 95% interval of bits per token along the hull, and the losses at which it holds.

        Its ends at a loss are percentiles over the bootstrap draws whose hull reaches that loss
        (maths §7). It is None if the record keeps no draws of this metric, or if no positive loss
        is between the ends of the hull.
        """
        drawn = resampled_curves(self.record.points, self.name, self.metric)
        losses = self.lower_hull().distortions
        losses = losses[losses > 0]
        if not drawn or len(losses) < 2:
            return None
        grid = np.geomspace(losses[0], losses[-1], N_BAND)
        rates = np.array([curve.rates_at(grid) for curve in drawn])
        reached = ~np.isnan(rates).all(axis=0)
        tail = (1 - CONFIDENCE) / 2
        ends = np.nanquantile(rates[:, reached], (tail, 1 - tail), axis=0)
        return ends, grid[reached]

    def accepted(self) -> list[tuple[float, float]]:
        """Bits per token at each tolerance on this metric that is met, and the tolerance."""
        results = [r for r in self.record.tolerances if r.metric == self.metric]
        return [(r.bits, r.epsilon) for r in results if r.bits is not None]

    def plot(self, ax: Axes | None = None) -> Axes:
        """The curve in the house style: rate to the right, the loss upwards (log).

        With the band of its 95% interval, the tolerances on this metric as lines, a mark where each
        is met, and the name where the curve ends.

        Args:
            ax: to draw on; a new figure's by default.
        """
        ax = super().plot(ax)
        colour = next(line.get_color() for line in reversed(ax.lines) if line.get_gid() == CURVE)
        with house_style():
            if found := self.band():
                (low, high), losses = found
                ax.fill_betweenx(losses, low, high, color=colour, alpha=0.18, linewidth=0)
            if accepted := self.accepted():
                ax.plot(
                    *zip(*accepted, strict=True),
                    linestyle="",
                    marker="o",
                    markersize=5,
                    color=colour,
                    gid=ACCEPTED,
                )
            label_limits(ax, self.epsilons())
        return ax

    def epsilons(self) -> list[float]:
        """The tolerances on this metric."""
        return [r.epsilon for r in self.record.tolerances if r.metric == self.metric]

    def window(self) -> Window | None:
        """The neighbourhood of the tolerances on this metric, where some are met."""
        accepted, whole = self.accepted(), super().window()
        if whole is None or not accepted:
            return whole
        epsilons = self.epsilons()
        most = min(whole.most, ROOM * max(bits for bits, _ in accepted))
        return Window(max(most, 1e-6), 0.8 * min(epsilons), 1.5 * max(epsilons))


def resampled_curves(
    points: Sequence[OperatingPoint], name: str, metric: str
) -> list[RateDistortionCurve]:
    """The curve of some points in every bootstrap draw; none where a point lacks draws.

    Raises:
        RecordError: the points have unequal numbers of draws.
    """
    if not points or not all(point.has_draws(metric) for point in points):
        return []
    draws = [
        np.stack([point.resampled_bits(), point.resampled(metric)], axis=-1) for point in points
    ]
    if len({len(draw) for draw in draws}) > 1:
        raise RecordError(f"{name}: its points have unequal numbers of resamples")
    facts = [(point.step, point.l0) for point in points]
    by_draw: Float64[np.ndarray, "replicate point 2"] = np.stack(draws, axis=1)
    return [
        RateDistortionCurve.of(
            (RatePoint(r, d, *fact) for (r, d), fact in zip(draw, facts, strict=True)),
            name,
            metric,
        )
        for draw in by_draw.tolist()
    ]
