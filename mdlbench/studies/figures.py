"""Figures of a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mdlbench.console.labels import (
    End,
    cuts_at_foot,
    label_ends,
    label_limits,
    line_inches,
    note_below,
    text_inches,
)
from mdlbench.console.style import (
    CATEGORIES,
    FAINT,
    INK,
    Margins,
    family_colours,
    house_style,
    legend_below,
    panels,
)
from mdlbench.curves.curve import RateDistortionCurve
from mdlbench.report.hulls import Line, Shown, line_of, scales
from mdlbench.report.view import view_of
from mdlbench.statistics.metrics import metric_of
from mdlbench.studies.inference import Interval, Shares, Standing
from mdlbench.studies.results import Done, Family, Level
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS = "bits per token"
PARTS = ("architecture", "width", "sparsity", "seed")
ABREAST = 3
WIDTH, LINE = 1.7, 0.2
"""Inches of a panel of intervals, and of a line of it."""
HULLS = 3.9, 3.2
"""Inches of the panel of hulls."""
NOTE = (
    "Points: means over training seeds. Ticks: seeds.",
    "Bars: 95% intervals of each alone; they do not say which differ.",
)


def intervals(levels: Sequence[tuple[Level, Standing]]) -> Figure:
    """Bits of each architecture's best configuration at every tolerance, seeds as ticks.

    Architectures are sorted by bits at the tightest of the tolerances that most of them meet.
    """
    names = _sorted_names(levels)
    n_lines = -(-len(levels) // ABREAST)
    abreast = min(ABREAST, len(levels))
    left = 0.15 + text_inches(names)
    with house_style():
        figure, axes = panels(
            WIDTH,
            [max(1, len(names)) * LINE + 0.1] * n_lines,
            Margins(left, 0.3, 0.78, above=0.25, between=(0.25, 0.7)),
            "Best configuration of each architecture",
            abreast=abreast,
        )
        for ax, (level, found) in zip(axes, levels, strict=False):
            _intervals(ax, level, found, names)
        for ax in axes[len(levels) :]:
            ax.remove()
        for ax in axes[::abreast]:
            ax.set_yticklabels(names, fontsize=8)
        note_below(figure, NOTE, 0.1)
    return figure


def _sorted_names(levels: Sequence[tuple[Level, Standing]]) -> list[str]:
    names = [family.name for family in levels[0][0].families]
    tightest_first = sorted((level.epsilon, i) for i, (level, _) in enumerate(levels))
    _, at = max(tightest_first, key=lambda pair: len(levels[pair[1]][1].order))
    order = levels[at][1].order
    return [*order, *(name for name in names if name not in order)]


def _intervals(ax: Axes, level: Level, found: Standing, names: Sequence[str]) -> None:
    ax.set_ylim(max(1, len(names)) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), [""] * len(names))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel(BITS)
    ax.set_title(limit_words(level.metric, level.epsilon), fontsize=8.5)
    for family in level.families:
        line = names.index(family.name)
        if family.is_met:
            _interval(ax, line, family, found.shortest[family.name])
        else:
            place = ax.get_yaxis_transform()
            ax.text(
                0.02, line, "none within ε", color=FAINT, va="center", fontsize=7, transform=place
            )
    ax.margins(x=0.3)


def _interval(ax: Axes, line: int, family: Family, of: Interval) -> None:
    seeds = family.bits[family.best]
    ax.plot([of.low, of.high], [line, line], color=CATEGORIES[0], linewidth=1.3)
    ax.plot(of.value, line, "o", color=CATEGORIES[0], markersize=3.5)
    ax.plot(seeds, np.full(len(seeds), line), "|", color=INK, markersize=6, markeredgewidth=0.8)
    ax.annotate(
        f"{of.value:.1f}",
        (max(of.high, np.nanmax(seeds)), line),
        (4, 0),
        textcoords="offset points",
        color=INK,
        fontsize=7,
        va="center",
    )


def hulls(done: Sequence[Done], metric: MetricName) -> Figure:
    """The lower hull of each architecture's operating points, one thin line a seed."""
    view = view_of([one.record for one in done], metric)
    shown = Shown(view.rates.linear[1], *view.losses.log)
    lines = _lines(done, metric, shown)
    falling = [
        name for name, own in lines.items() if min(one.losses[-1] for one in own) < shown.foot
    ]
    band = line_inches() * len(falling)
    height = HULLS[1] + band
    with house_style():
        margins = Margins(0.78, 0.3 + text_inches(lines), 0.6)
        title = f"{metric_of(metric).label}: hulls of architectures over equal grids"
        figure, (ax,) = panels(HULLS[0], [height], margins, title)
        scales(ax, shown, metric, share=band / height)
        label_ends(ax, list(_drawn(ax, lines, falling)))
        if done:
            label_limits(ax, [r.epsilon for r in done[0].record.tolerances if r.metric == metric])
        note_below(figure, ["A line is one architecture with one training seed."], left=0.78)
    return figure


def _lines(done: Sequence[Done], metric: MetricName, shown: Shown) -> dict[str, list[Line]]:
    """By architecture: the hulls of its seeds, without those that are out of view."""
    found: dict[str, list[Line]] = {}
    for name in dict.fromkeys(one.run.architecture for one in done):
        for curve in family_hulls(done, name, metric).values():
            line = line_of(curve, shown)
            if line is not None:
                found.setdefault(name, []).append(line)
    return found


def _drawn(ax: Axes, lines: Mapping[str, Sequence[Line]], falling: Sequence[str]) -> Iterator[End]:
    """Draw the lines, and say for each architecture where its lowest one ends."""
    foot, _ = ax.get_ylim()
    colours = family_colours(lines)
    lowest = {name: min(own, key=lambda one: one.losses[-1]) for name, own in lines.items()}
    losses = cuts_at_foot(ax, [float(lowest[name].cut_at(foot).rates[-1]) for name in falling])
    cuts = dict(zip(falling, losses, strict=True))
    for name, own in lines.items():
        for line in own:
            drawn = line.cut_at(cuts.get(name, foot))
            ax.plot(drawn.rates, drawn.losses, color=colours[name], linewidth=0.8)
        end = lowest[name].cut_at(cuts.get(name, foot))
        yield End(float(end.rates[-1]), float(end.losses[-1]), name, colours[name])


def family_hulls(
    done: Sequence[Done], name: str, metric: MetricName
) -> dict[int, RateDistortionCurve]:
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
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(6.0, 0.3 * len(found) + 1.2), layout="constrained")
        ax = figure.add_subplot()
        places = range(len(found))
        left = np.zeros(len(found))
        for part, colour in zip(PARTS, (*CATEGORIES[:3], FAINT), strict=True):
            width = np.nan_to_num([getattr(one, part) for one in found.values()])
            if width.any():
                ax.barh(places, width, left=left, color=colour, label=part, height=0.7)
            left += width
        ax.set_yticks(places, list(found))
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.grid(axis="y", visible=False)
        ax.set_title("Where the variance between runs is")
        ax.set_xlabel("share of the variance of log₂ bits")
        legend_below(figure)
    return figure


def limit_words(metric: str, epsilon: float) -> str:
    return f"{metric_of(metric).label} ≤ {epsilon:g}"
