"""Figures of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdlbench.console.style import ALERT, CATEGORIES, FAINT, INK, MARKERS, house_style, legend_below
from mdlbench.curves.curve import RateDistortionCurve
from mdlbench.statistics.metrics import metric_of
from mdlbench.studies.inference import Shares, Standing
from mdlbench.studies.results import Done, Level

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS = "bits per token"
PARTS = ("architecture", "width", "sparsity", "seed")
LINES = ("-", "--", ":", "-.")


def intervals(levels: Sequence[tuple[Level, Standing]]) -> Figure:
    """Bits of each architecture's best configuration at every tolerance, seeds as dots."""
    figure = _figure(len(levels), 0.34 * max(len(level.families) for level, _ in levels) + 1.3)
    with house_style():
        for ax, (level, found) in zip(_axes(figure, len(levels)), levels, strict=True):
            _intervals(ax, level, found)
    return figure


def _intervals(ax: Axes, level: Level, found: Standing) -> None:
    names = [*found.order, *(one.name for one in level.families if not one.is_met)]
    by_name = {family.name: family for family in level.families}
    for place, name in enumerate(names):
        family = by_name[name]
        if not family.is_met:
            ax.text(
                0.02,
                place,
                "meets it nowhere",
                color=ALERT,
                va="center",
                fontsize=7,
                transform=ax.get_yaxis_transform(),
            )
            continue
        value, low, high = found.shortest[name]
        own = family.bits[family.best]
        ax.plot([low, high], [place, place], color=CATEGORIES[0], linewidth=2)
        ax.plot(value, place, "o", color=CATEGORIES[0], markersize=5)
        ax.plot(own, np.full(len(own), place), "|", color=INK, markersize=8)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel(BITS)
    ax.set_title(limit_words(level.metric, level.epsilon))


def hulls(done: Sequence[Done], metric: str) -> Figure:
    """The lower hull of each architecture's operating points, one thin line a seed."""
    figure = _figure(1, 4.6)
    names = list(dict.fromkeys(one.run.architecture for one in done))
    with house_style():
        ax = figure.add_subplot()
        for i, name in enumerate(names):
            for j, curve in enumerate(family_hulls(done, name, metric).values()):
                ax.plot(
                    curve.rates,
                    curve.distortions,
                    color=CATEGORIES[i % len(CATEGORIES)],
                    linestyle=LINES[i // len(CATEGORIES) % len(LINES)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=2.5,
                    linewidth=0.9,
                    label=name if j == 0 else None,
                )
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel(BITS)
        ax.set_ylabel(metric_of(metric).label)
        ax.set_title("hulls of architectures over equal grids, one line a training seed")
        legend_below(figure)
    return figure


def family_hulls(done: Sequence[Done], name: str, metric: str) -> dict[int, RateDistortionCurve]:
    """By training seed: the lower hull of all operating points of an architecture (maths §8)."""
    own = [one for one in done if one.run.architecture == name]
    found = {}
    for seed in dict.fromkeys(one.run.seed for one in own):
        points = [
            point
            for one in own
            if one.run.seed == seed
            for point in one.record.curve(metric).points
            if point.rate > 0 and point.distortion > 0
        ]
        found[seed] = RateDistortionCurve.of(points, name, metric).lower_hull()
    return found


def shares(found: Mapping[str, Shares]) -> Figure:
    """How much of the variance of log bits is architecture, width, sparsity and seed."""
    figure = _figure(1, 0.4 * len(found) + 1.4)
    with house_style():
        ax = figure.add_subplot()
        places = range(len(found))
        left = np.zeros(len(found))
        for part, colour in zip(PARTS, (*CATEGORIES[:3], FAINT), strict=True):
            width = np.array([getattr(one, part) for one in found.values()])
            ax.barh(places, width, left=left, color=colour, label=part)
            left += width
        ax.set_yticks(places, list(found))
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.set_xlabel("share of the variance of log₂ bits over runs")
        legend_below(figure)
    return figure


def limit_words(metric: str, epsilon: float) -> str:
    return f"{metric_of(metric).label} ≤ {epsilon:g}"


def _figure(columns: int, height: float) -> Figure:
    from matplotlib.figure import Figure

    with house_style():
        return Figure(figsize=(min(3.6 * columns + 3.0, 16.0), height), layout="constrained")


def _axes(figure: Figure, n: int) -> list[Axes]:
    return list(figure.subplots(1, n, squeeze=False)[0])
