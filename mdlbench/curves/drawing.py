"""One curve on an axis in the house style: its hull and points, its name, tolerances."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mdlbench.console.labels import BEHIND, SIZE, text_inches
from mdlbench.console.style import FAMILIES, Margins, above_zero, house_style, plain_log_scale
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mdlbench.curves.curve import RateDistortionCurve

PANEL = 3.7, 2.7
"""Inches of the panel of a new figure."""
CURVE = "curve"
"""How hulls are marked among what is drawn."""


class Window(NamedTuple):
    """What is shown: bits per token up to `most`, losses from `foot` to `top`, all positive."""

    most: float
    foot: float
    top: float

    @classmethod
    def of(cls, curve: RateDistortionCurve) -> Window | None:
        """All of a curve's hull that has a positive loss; None where nothing has."""
        hull = curve.lower_hull()
        losses = hull.distortions[hull.distortions > 0]
        if not len(losses):
            return None
        return cls(1.05 * max(hull.rates[-1], 1e-6), 0.9 * losses[-1], 1.1 * losses[0])


def draw_curve(curve: RateDistortionCurve, ax: Axes | None, window: Window | None) -> Axes:
    """Draw a hull, the points that it is of, and its name where it ends.

    Args:
        curve: to be drawn.
        ax: to draw on; a new figure's by default. What it shows grows to the window.
        window: what is to be seen of the curve; None where it has no positive loss.
    """
    with house_style():
        ax = _new_panel(curve.shown_name) if ax is None else ax
        n_before = sum(line.get_gid() == CURVE for line in ax.lines)
        colour = FAMILIES[n_before % len(FAMILIES)]
        rates, losses = curve.along_hull()
        (line,) = ax.plot(rates, losses, color=colour, linewidth=1.4, gid=CURVE)
        measured = curve.distortions if window is None else above_zero(curve.distortions)
        ax.plot(curve.rates, measured, ".", color=colour, markersize=3, alpha=0.6)
        ax.set_xlabel("bits per token")
        ax.set_ylabel(metric_of(curve.metric).axis)
        if window is None:
            return ax
        ax.set_yscale("log")
        _show(ax, window, is_first=n_before == 0)
        plain_log_scale(ax.yaxis, float(np.log10(ax.get_ylim()[1] / ax.get_ylim()[0])))
        inside = (rates <= window.most) & (losses >= window.foot)
        if inside.any():
            ax.annotate(
                curve.shown_name,
                (rates[inside][-1], losses[inside][-1]),
                xytext=(4, 6),
                textcoords="offset points",
                color=line.get_color(),
                fontsize=SIZE,
                annotation_clip=False,
                bbox=BEHIND,
                zorder=5,
            )
    return ax


def _new_panel(name: str) -> Axes:
    """A panel of a new figure of pyplot's, with room for a name on its right."""
    import matplotlib.pyplot as plt

    margins = Margins(left=0.7, right=0.2 + text_inches([name]), below=0.5)
    width, height = margins.left + PANEL[0] + margins.right, margins.below + PANEL[1] + 0.15
    figure = plt.figure(figsize=(width, height))
    box = margins.left / width, margins.below / height, PANEL[0] / width, PANEL[1] / height
    return figure.add_axes(box)


def _show(ax: Axes, window: Window, is_first: bool) -> None:
    """Set the limits of an axis, or widen them where something is drawn already."""
    most, (foot, top) = window.most, window[1:]
    if not is_first:
        most = max(most, ax.get_xlim()[1])
        foot, top = min(foot, ax.get_ylim()[0]), max(top, ax.get_ylim()[1])
    ax.set_xlim(0.0, most)
    ax.set_ylim(foot, top)
