"""Curves that are compared, and what each costs more than the anchor over quality."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mdlbench.boards.compare.contender import ComparedCurve, Contender
from mdlbench.boards.compare.contest import Contest
from mdlbench.boards.compare.curves import Band, CurveComparison
from mdlbench.console.style import CATEGORIES, FAINT, INK, above_zero, house_style, plain_log_scale
from mdlbench.report.tables import TITLE_LENGTH, printable
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
"""Line styles of contenders that share a colour."""
FAR = 2.0
"""A contender's bits at a tolerance widen the view up to this factor of the anchor's."""
FAINTLY = 0.45
"""Opacity of curves without an average."""
BEHIND_WORDS: dict[str, Any] = {
    "facecolor": "white",
    "edgecolor": "none",
    "alpha": 0.8,
    "pad": 0.2,
}


MOSTLY = 0.5
"""An overlap from which a difference has a say in how much is shown."""
ROOM = 2.2
"""A linear panel reaches up to this factor of the coarsest tolerance."""
LABEL_GAP = 0.045
"""Share of an axis between two tolerances whose names do not touch."""
SHOWN = (0.1, 0.9)
"""Quantiles over quality that each difference is shown at least between: near a floor it soars."""


class Window(NamedTuple):
    """What the panels show of bits per token, of distortions, and of bits above the anchor."""

    rates: tuple[float, float]
    distortions: tuple[float, float]
    compared: tuple[float, float]
    gaps: tuple[float, float]


def comparison_figure(contest: Contest) -> Figure:
    """Hulls over a logarithmic and a linear loss, and differences to the anchor."""
    from matplotlib.figure import Figure

    styles, window = _styles(contest), _window(contest)
    with house_style():
        width = 14.2
        entries = _legend_entries(contest, styles)
        n_columns = _columns(list(entries), width)
        height = 4.4 + 0.19 * -(-len(entries) // n_columns)
        figure = Figure(figsize=(width, height), layout="constrained")
        logarithmic, linear, gaps = figure.subplots(1, 3)
        _curves(logarithmic, contest, styles, window)
        _hulls(linear, contest, styles, window)
        _differences(gaps, contest, styles, window)
        figure.suptitle(_title(contest), x=0.01, ha="left", weight="bold")
        figure.legend(
            list(entries.values()), list(entries), loc="outside lower center", ncols=n_columns
        )
    return figure


def _styles(contest: Contest) -> list[dict[str, Any]]:
    """The anchor in ink; then every colour with one line, every colour with the next, …

    What has no average is faint.
    """
    looks = cycle(product(LINES, CATEGORIES))
    others = [
        {"color": colour, "linestyle": line, "linewidth": 1.6, "alpha": FAINTLY if c.reason else 1}
        for c, (line, colour) in zip(contest.comparisons, looks, strict=False)
    ]
    return [{"color": INK, "linestyle": "-", "linewidth": 2.2, "zorder": 3}, *others]


def _title(contest: Contest) -> str:
    record = contest.record
    partial = " (partial: made with --limit)" if contest.is_partial else ""
    title = f"{record.identity.suite}: compared with {contest.anchor.name}{partial}"
    return printable(title, TITLE_LENGTH)


def _window(contest: Contest) -> Window:
    """Around the tolerances, as far as the anchor and what is near it goes."""
    anchor = contest.curves[0].vertices
    epsilons = [at.epsilon for at in contest.tolerances]
    lowest = min([*epsilons, *anchor.distortions[anchor.distortions > 0]], default=1.0)
    highest = max([*epsilons, *anchor.distortions], default=1.0)
    distortions = 0.85 * lowest, 1.1 * highest
    bands = _bands(contest)
    ends = [end for band in bands for end in (band.distortions[-1], band.distortions[0])]
    return Window(
        rates=(0.0, 1.2 * _far_rate(contest)),
        distortions=distortions,
        compared=(0.97 * min(ends), 1.03 * max(ends)) if ends else distortions,
        gaps=_gaps(bands),
    )


def _far_rate(contest: Contest) -> float:
    placings = [s for at in contest.tolerances for s in at.placings if s.bits is not None]
    own = [s.bits for s in placings if s.name == contest.anchor.name and s.bits is not None]
    if not own:
        return float(contest.curves[0].vertices.rates.max(initial=1.0))
    near = [s.bits for s in placings if s.bits is not None and s.bits <= FAR * max(own)]
    return max(near)


def _bands(contest: Contest) -> list[Band]:
    """Bands of the comparisons that mostly overlap, or of all where none does."""
    comparable = [one for one in contest.comparisons if one.overlap > MOSTLY]
    return [one.band for one in comparable or contest.comparisons if one.band is not None]


def _gaps(bands: Sequence[Band]) -> tuple[float, float]:
    found = [0.0, *(float(gap) for band in bands for gap in np.quantile(band.bits, SHOWN))]
    least, most = min(found), max(found)
    margin = 0.3 * (most - least) or 1.0
    return least - margin, most + margin


def _curves(ax: Axes, contest: Contest, styles: Sequence[dict[str, Any]], window: Window) -> None:
    ax.set_title("lower hulls")
    ax.set_yscale("log")
    for curve, style in zip(contest.curves, styles, strict=True):
        _line(ax, curve, style)
        look = {"color": style["color"], "alpha": style.get("alpha"), "markersize": 4}
        ax.plot(curve.vertices.rates, above_zero(curve.vertices.distortions), ".", **look)
    for comparison, style in zip(contest.comparisons, styles[1:], strict=True):
        for found in comparison.crossings or ():
            _crossing(ax, found.rate, found.distortion, style, found.beyond_chance)
    _plane(ax, contest, window)
    _name_tolerances(ax, contest)
    plain_log_scale(ax.yaxis)


def _hulls(ax: Axes, contest: Contest, styles: Sequence[dict[str, Any]], window: Window) -> None:
    ax.set_title("linear, over all operating points")
    for curve, style in zip(contest.curves, styles, strict=True):
        every = curve.contender.curve(contest.metric)
        ax.plot(every.rates, every.distortions, ".", color=style["color"], ms=2.5, alpha=0.35)
        hull = curve.vertices
        ax.plot(hull.rates, hull.distortions, **style)
    _plane(ax, contest, window)
    if contest.tolerances:
        coarsest = max(at.epsilon for at in contest.tolerances)
        ax.set_ylim(0.0, min(window.distortions[1], ROOM * coarsest))
    _name_tolerances(ax, contest)


def _plane(ax: Axes, contest: Contest, window: Window) -> None:
    """Limits, labels and tolerances of a panel of distortion over rate."""
    ax.set_xlim(window.rates)
    ax.set_ylim(window.distortions)
    ax.set_xlabel("bits per token")
    ax.set_ylabel(metric_of(contest.metric).axis)
    for at in contest.tolerances:
        ax.axhline(at.epsilon, color=FAINT, linewidth=0.8, linestyle="--", zorder=1.5)


def _name_tolerances(ax: Axes, contest: Contest) -> None:
    """At their lines' right ends, without those too near to the one below."""
    scale, occupied = ax.transData + ax.transAxes.inverted(), -1.0
    for at in contest.tolerances:
        height = float(scale.transform((ax.get_xlim()[0], at.epsilon))[1])
        if height - occupied < LABEL_GAP:
            continue
        occupied = height
        ax.annotate(
            f"ε = {at.epsilon:g}",
            (1.0, at.epsilon),
            xycoords=ax.get_yaxis_transform(),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=INK,
            bbox=BEHIND_WORDS,
        )


def _differences(
    ax: Axes, contest: Contest, styles: Sequence[dict[str, Any]], window: Window
) -> None:
    ax.set_title("difference to the anchor, with its 95% interval")
    ax.set_xscale("log")
    ax.axhline(0.0, color=INK, linewidth=2.2, zorder=3)
    for comparison, style in zip(contest.comparisons, styles[1:], strict=True):
        _difference(ax, comparison, style)
    low, high = window.compared
    for at in (at for at in contest.tolerances if low <= at.epsilon <= high):
        ax.axvline(at.epsilon, color=FAINT, linewidth=0.8, linestyle="--", zorder=1.5)
        ax.annotate(
            f"ε = {at.epsilon:g}",
            (at.epsilon, 1.0),
            xycoords=ax.get_xaxis_transform(),
            xytext=(-2, -2),
            textcoords="offset points",
            ha="right",
            va="top",
            rotation=90,
            fontsize=7.5,
            color=INK,
            bbox=BEHIND_WORDS,
        )
    ax.set_xlim(window.compared[::-1])
    ax.set_ylim(window.gaps)
    plain_log_scale(ax.xaxis)
    ax.set_xlabel(f"{metric_of(contest.metric).axis}, finer to the right")
    ax.set_ylabel("bits per token above the anchor")


def _difference(ax: Axes, comparison: CurveComparison, style: dict[str, Any]) -> None:
    band = comparison.band
    if band is None:
        return
    ax.fill_between(
        band.distortions, band.low, band.high, color=style["color"], alpha=0.2, linewidth=0
    )
    ax.plot(band.distortions, band.bits, **style)
    for found in comparison.crossings or ():
        _crossing(ax, found.distortion, 0.0, style, found.beyond_chance)


def _line(ax: Axes, curve: ComparedCurve, style: dict[str, Any]) -> None:
    """As it is compared: chords are straight where the loss is linear."""
    rate = curve.vertices.by_quality()
    if rate is None:
        return
    quality = np.union1d(rate.x, np.linspace(rate.x[0], rate.x[-1], 600))
    ax.plot(rate(quality), 10.0 ** (-quality / 10.0), **style)


def _crossing(ax: Axes, x: float, y: float, style: dict[str, Any], beyond_chance: bool) -> None:
    face = style["color"] if beyond_chance else "white"
    ax.plot(x, y, "D", color=style["color"], markerfacecolor=face, markersize=5, zorder=4)


def _legend_entries(contest: Contest, styles: Sequence[dict[str, Any]]) -> dict[str, Artist]:
    """What lines and marks mean, by what is said of them."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {
        _label(contender, is_anchor=contender is contest.anchor): Line2D([], [], **style)
        for contender, style in zip(contest.contenders, styles, strict=True)
    }
    if any(comparison.reason for comparison in contest.comparisons):
        entries["faint: not comparable"] = Line2D([], [], linestyle="")
    found = [f for one in contest.comparisons for f in one.crossings or ()]
    for beyond, face, label in (
        (True, FAINT, "crossing"),
        (False, "white", "crossing within chance"),
    ):
        if any(one.beyond_chance == beyond for one in found):
            look: dict[str, Any] = {"color": FAINT, "marker": "D", "markerfacecolor": face}
            entries[label] = Line2D([], [], linestyle="", markersize=5, **look)
    return entries


def _columns(labels: Sequence[str], width: float) -> int:
    """As many as fit into a figure's width, in inches."""
    return max(1, int(width / (0.75 + 0.068 * max(map(len, labels)))))


def _label(contender: Contender, is_anchor: bool) -> str:
    count = f" ({len(contender.members)})" if contender.is_family else ""
    return f"{printable(contender.name)}{count}{', the anchor' if is_anchor else ''}"
