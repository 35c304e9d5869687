"""Figures of a sweep over width and sparsity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdlbench.console.style import (
    ALERT,
    CATEGORIES,
    FAINT,
    INK,
    MARKERS,
    colour_of,
    house_style,
    legend_below,
    plain_log_scale,
    plain_numbers,
    width_colours,
)
from mdlbench.papers.feature_sheet import Sheet
from mdlbench.papers.sweep import (
    DEAD_SHARE,
    METRIC,
    Gain,
    Level,
    PairOfCurves,
    Regime,
    SweepEntry,
    envelope,
    linear_fit,
    onset,
)
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import EvalRecord
from mdlbench.report.widths import mark_missed
from mdlbench.scoring.pictures import COLOURS, Tiles
from mdlbench.statistics.metrics import metric_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

SUPPORT, MAGNITUDE = "#56B4E9", "#E69F00"
BITS = "bits per token"
WIDTH = "width: latents in the dictionary"
REGIME_TITLES: dict[Regime, str] = {
    "A": "A: widest",
    "B": "B: shortest",
    "C": "C: narrower than B",
    "D": "D: narrowest",
}
COLUMNS = 6
ENVELOPE_SAMPLES = 400
BAR = 0.22
"""Width of a bar, as a share of its place: neighbours a third apart do not touch."""


def description_length(at: Level, widths: Sequence[int]) -> Figure:
    """DL at ε against width, split into support and magnitude, and against L0.

    Letters mark the regimes' SAEs where they are drawn: not all are the best of their width.
    """
    figure, (left, right) = _panels("Description length", at, 2, (11.0, 4.9))
    with house_style():
        _split_bars(left, at.pairs)
        _pairs_line(left, at.pairs, "held-out codebook, 95% interval")
        _width_axis(left, widths)
        _infeasible(left, at)
        left.set_title("best sparsity of each width")
        left.set_ylabel(BITS)
        left.set_ylim(0, 1.13 * max(map(_top, at.entries)))
        regimes = at.regimes()
        _letters(left, {k: (e.width, _top(e)) for k, e in regimes.items() if e in at.pairs})
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=4)
        _against_l0(right, at, widths)
        _letters(right, {k: (e.l0, e.bits) for k, e in regimes.items()})
    return figure


def feature_panels(sheets: Mapping[Regime, Sheet], at: Level) -> Figure:
    """The most used decoder rows of the regimes' SAEs, one labelled panel each."""
    from matplotlib.figure import Figure

    regimes = at.regimes()
    shown = [regime for regime in sheets if regime in regimes]
    n_lines = -(-max(len(sheets[regime].rows) for regime in shown) // COLUMNS)
    tiles = Tiles.captioned(next(iter(sheets.values())).image_shape, COLUMNS, n_lines)
    size = 0.82 * COLUMNS
    with house_style():
        n_rows = -(-len(shown) // 2)
        height = n_rows * (size * tiles.aspect + 0.55) + 0.75
        figure = Figure(figsize=(2 * size + 0.4, height), layout="constrained")
        axes = figure.subplots(n_rows, 2, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, regime in zip(axes, shown, strict=False):
            _feature_panel(ax, regime, regimes[regime], sheets[regime], tiles)
        figure.suptitle(f"Most used features at {at.limit}", x=0.01, ha="left", weight="bold")
        figure.supxlabel(
            "Decoder rows: red positive, blue negative, each to its own scale. "
            "Above: share of test images on which the latent is on.",
            fontsize=8,
        )
    return figure


def dead_latents(levels: Sequence[Level], widths: Sequence[int]) -> Figure:
    """DL and dead latents against width on one axis, a panel for each ε."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    most = max(entry.dead for at in levels for entry in at.entries)
    with house_style():
        figure = Figure(figsize=(3.0 * len(levels) + 0.8, 3.9), layout="constrained")
        axes = figure.subplots(1, len(levels), sharex=True, squeeze=False)[0]
        for ax, at in zip(axes, levels, strict=True):
            _pairs_line(ax, at.pairs, "bits per token (left)")
            twin = ax.twinx()
            twin.plot(
                [e.width for e in at.pairs],
                [e.dead for e in at.pairs],
                color=ALERT,
                marker=MARKERS[1],
                markersize=4,
                linestyle=(0, (4, 2)),
                label="dead latents (right)",
            )
            twin.spines["right"].set_visible(True)
            twin.grid(visible=False)
            twin.set_ylim(-0.02 * max(most, 0.05), 1.1 * max(most, 0.05))
            twin.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            twin.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
            twin.tick_params(labelsize=7)
            ax.axvline(at.best.width, color=CATEGORIES[0], linewidth=1.0, label="shortest")
            start = onset((e.record for e in at.pairs), DEAD_SHARE)
            if start is not None:
                ax.axvline(
                    start,
                    color=ALERT,
                    linewidth=1.0,
                    linestyle=":",
                    label=f"first width with over {DEAD_SHARE:.0%} dead",
                )
            _width_axis(ax, widths)
            ax.tick_params(axis="x", labelrotation=90)
            ax.set_title(at.limit)
        axes[0].set_ylabel(BITS)
        legend_below(figure)
        figure.suptitle(
            "Do dead latents begin where the code is shortest? Best sparsity of each width",
            x=0.01,
            ha="left",
            weight="bold",
        )
    return figure


def tolerances(levels: Sequence[Level], records: Sequence[EvalRecord]) -> Figure:
    """DL against width at every ε, and the width of the minimum against ε."""
    from matplotlib.figure import Figure

    widths = sorted({record.coder.d_latents for record in records})
    with house_style():
        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for i, at in enumerate(levels):
            colour = CATEGORIES[i % len(CATEGORIES)]
            _pairs_line(left, at.pairs, at.limit, colour, MARKERS[i % len(MARKERS)])
            left.plot(
                at.best.width,
                at.best.bits,
                marker="o",
                markersize=10,
                color=ALERT,
                fillstyle="none",
            )
        left.set_yscale("log")
        plain_log_scale(left.yaxis)
        _width_axis(left, widths)
        left.set_ylabel(BITS)
        left.set_title("DL against width; the minimum is ringed")
        figure.legend(
            *left.get_legend_handles_labels(), loc="outside lower left", ncols=len(levels)
        )
        _minimum_against_epsilon(right, levels, records, widths)
        figure.suptitle("The minimum at other tolerances", x=0.01, ha="left", weight="bold")
    return figure


def curve_crossings(
    records: Sequence[EvalRecord], pairs: Sequence[PairOfCurves], levels: Sequence[Level]
) -> Figure:
    """Rate-distortion curves, where they cross, and each one's excess over the shortest.

    The excess is shown between the tolerances at either end of `levels`.
    """
    from matplotlib.figure import Figure

    widths = sorted({record.coder.d_latents for record in records})
    with house_style():
        figure = Figure(figsize=(11.0, 5.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        colours = width_colours(widths)
        for record in records:
            curve = record.curve(METRIC)
            ends = curve.lower_hull().distortions
            reached = np.geomspace(ends[0], ends[-1], ENVELOPE_SAMPLES)
            colour = colour_of(record.coder.d_latents, colours)
            left.plot(curve.rates_at(reached), reached, color=colour, linewidth=0.9)
        _crossing_dots(left, pairs)
        left.set_xscale("log")
        left.set_yscale("log")
        plain_log_scale(left.yaxis)
        plain_numbers(left.xaxis, [10, 20, 30, 50, 70, 100, 150, 200, 300])
        left.set_xlabel(BITS)
        left.set_ylabel(metric_of(METRIC).axis)
        left.set_title("rate-distortion curves and their crossings")
        left.legend(loc="lower left")
        _excess(right, records, levels, colours)
        bar = figure.colorbar(colours, ax=[left, right], pad=0.01, aspect=40)
        bar.set_label(WIDTH)
        bar.outline.set_visible(False)
        plain_numbers(bar.ax.yaxis, widths)
        figure.suptitle("Do the curves cross?", x=0.01, ha="left", weight="bold")
    return figure


def mode_gains(gains: Mapping[str, Sequence[Gain]], anchor: str) -> Figure:
    """Bits that each mode saves or costs against the anchor's, for each SAE."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(gain.record.name for found in gains.values() for gain in found))
    place = {name: i for i, name in enumerate(names)}
    with house_style():
        figure = Figure(figsize=(7.6, 0.30 * len(names) + 1.8), layout="constrained")
        ax = figure.subplots()
        for i, (mode, found) in enumerate(gains.items()):
            shift = 0.24 * (i - (len(gains) - 1) / 2)
            colour = CATEGORIES[i % len(CATEGORIES)]
            _gain_dots(ax, mode, found, place, shift, colour)
        ax.axvline(0.0, color=INK, linewidth=1.0)
        ax.set_yticks(range(len(names)), names, fontsize=7.5)
        ax.invert_yaxis()
        ax.set_xlabel(f"bits per token above {anchor}: fewer is better")
        ax.set_title(
            f"Modes against {anchor}\n"
            "filled: mean over the MSE tolerances, paired, 95%; open: BD-bits over the curve"
        )
        figure.legend(loc="outside lower left", ncols=3)
    return figure


def _panels(title: str, at: Level, n: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, n)
        figure.suptitle(f"{title} at {at.limit}", x=0.01, ha="left", weight="bold")
    return figure, axes


def _width_axis(ax: Axes, widths: Sequence[int]) -> None:
    ax.set_xscale("log", base=2)
    plain_numbers(ax.xaxis, widths)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_xlim(widths[0] / 1.4, widths[-1] * 1.4)
    ax.set_xlabel(WIDTH)


def _top(entry: SweepEntry) -> float:
    """Where its bar and its interval end."""
    return max(entry.bits_high, entry.point.bits.plugin)


def _split_bars(ax: Axes, pairs: Sequence[SweepEntry]) -> None:
    positions = np.array([entry.width for entry in pairs], dtype=np.float64)
    support = np.array([entry.point.bits.support for entry in pairs])
    magnitude = np.array([entry.point.bits.magnitude for entry in pairs])
    style: dict[str, Any] = {"width": BAR * positions, "linewidth": 0}
    ax.bar(positions, support, color=SUPPORT, label="support: which latents (plug-in)", **style)
    ax.bar(
        positions,
        magnitude,
        bottom=support,
        color=MAGNITUDE,
        hatch="////",
        edgecolor="white",
        label="magnitude: how active (plug-in)",
        **style,
    )


def _pairs_line(
    ax: Axes,
    pairs: Sequence[SweepEntry],
    label: str,
    colour: str = CATEGORIES[0],
    marker: str = MARKERS[0],
) -> None:
    bits = np.array([entry.bits for entry in pairs])
    ends = np.array([(entry.bits_low, entry.bits_high) for entry in pairs]).T
    ax.errorbar(
        [entry.width for entry in pairs],
        bits,
        yerr=np.maximum([bits - ends[0], ends[1] - bits], 0.0),
        color=colour,
        marker=marker,
        markersize=4,
        capsize=2.5,
        linewidth=1.3,
        label=label,
    )


def _infeasible(ax: Axes, at: Level) -> None:
    met = {entry.width for entry in at.entries}
    missed = sorted({record.coder.d_latents for record in at.infeasible} - met)
    mark_missed(ax, missed, 0.03, "width misses ε")


def _letters(ax: Axes, places: Mapping[Regime, tuple[float, float]]) -> None:
    """The regimes' letters above their points; those at one place on the x axis together."""
    shared: dict[float, list[Regime]] = {}
    for letter, (x, _) in places.items():
        shared.setdefault(x, []).append(letter)
    for letters in shared.values():
        ax.annotate(
            ", ".join(letters),
            max((places[letter] for letter in letters), key=lambda place: place[1]),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            weight="bold",
            fontsize=11,
            color=INK,
        )


def _against_l0(ax: Axes, at: Level, widths: Sequence[int]) -> None:
    colours = width_colours(widths)
    for width in dict.fromkeys(entry.width for entry in at.entries):
        group = sorted((e for e in at.entries if e.width == width), key=lambda e: e.l0)
        ax.plot(
            [entry.l0 for entry in group],
            [entry.bits for entry in group],
            color=colour_of(width, colours),
            marker="o",
            markersize=5,
            linewidth=0.8,
            label=str(width),
        )
    fit = linear_fit(at.narrow)
    if fit is not None:
        ends = np.array([min(e.l0 for e in at.narrow), max(e.l0 for e in at.narrow)])
        ax.plot(
            ends,
            fit.intercept + fit.slope * ends,
            color=INK,
            linestyle="--",
            linewidth=1.0,
            label=f"line through widths\nup to {at.best.width}, R² {fit.r_squared:.2f}",
        )
    ax.set_title("every SAE within ε")
    ax.set_xlabel("L0 (nonzero symbols per token, after quantisation)")
    ax.set_ylabel(BITS)
    bits = [entry.bits for entry in at.entries]
    room = max(max(bits) - min(bits), 1.0)
    ax.set_ylim(min(bits) - 0.06 * room, max(bits) + 0.14 * room)
    ax.legend(title="width", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _feature_panel(ax: Axes, regime: Regime, entry: SweepEntry, sheet: Sheet, tiles: Tiles) -> None:
    ax.imshow(tiles.mosaic(sheet.rows), cmap=COLOURS, vmin=-1, vmax=1)
    for (x, y), share in zip(tiles.captions(), sheet.firing, strict=False):
        ax.text(x, y, f"{share:.1%}", fontsize=6, ha="center", va="bottom")
    ax.set_title(
        f"{REGIME_TITLES[regime]} ({sheet.name})\n"
        f"L0 {entry.l0:.1f}, {entry.bits:.1f} bits; {sheet.pixels:.0f} effective pixels, "
        f"likeness to an image {sheet.likeness:.2f}",
        fontsize=9,
    )


def _minimum_against_epsilon(
    ax: Axes, levels: Sequence[Level], records: Sequence[EvalRecord], widths: Sequence[int]
) -> None:
    """Measured minima with what ties them, and those of the curves' hulls in between."""
    epsilons = np.geomspace(levels[0].epsilon, levels[-1].epsilon, ENVELOPE_SAMPLES)
    rates, _ = envelope([record.curve(METRIC) for record in records], epsilons)
    rates = np.where(np.isnan(rates), np.inf, rates)
    shortest = np.array([record.coder.d_latents for record in records])[rates.argmin(axis=0)]
    ax.plot(epsilons, shortest, color=FAINT, linewidth=1.0, label="shortest by hulls")
    for at in levels:
        tied = [entry.width for entry in at.tied]
        ax.plot([at.epsilon] * len(tied), tied, color=CATEGORIES[0], linewidth=4, alpha=0.35)
    ax.plot(
        [at.epsilon for at in levels],
        [at.best.width for at in levels],
        color=CATEGORIES[0],
        marker="o",
        linestyle="none",
        label="shortest within ε (bars: ties)",
    )
    starts = [(at.epsilon, onset((e.record for e in at.pairs), DEAD_SHARE)) for at in levels]
    known = [(epsilon, width) for epsilon, width in starts if width is not None]
    ax.plot(
        [epsilon for epsilon, _ in known],
        [width for _, width in known],
        color=ALERT,
        marker="s",
        fillstyle="none",
        linestyle="none",
        label=f"first width with over {DEAD_SHARE:.0%} dead",
    )
    ax.set_xscale("log")
    plain_log_scale(ax.xaxis)
    ax.set_yscale("log", base=2)
    plain_numbers(ax.yaxis, widths)
    ax.set_ylim(widths[0] / 1.4, widths[-1] * 1.4)
    ax.set_xlabel("ε: MSE per dimension after quantisation")
    ax.set_ylabel(WIDTH)
    ax.set_title("width of the minimum against ε")
    ax.legend()


def _crossing_dots(ax: Axes, pairs: Iterable[PairOfCurves]) -> None:
    """Crossings of the curves that cross beyond chance, heavier than those of the others."""
    groups = {
        True: "pairs whose order changes beyond chance",
        False: "crossings within chance",
    }
    pairs = list(pairs)
    for confirmed, label in groups.items():
        dots = [c for p in pairs if (p.confirmed is not None) == confirmed for c in p.crossings]
        ax.scatter(
            [dot.rate for dot in dots],
            [dot.distortion for dot in dots],
            s=7 if confirmed else 6,
            marker="o" if confirmed else "x",
            color=ALERT if confirmed else FAINT,
            linewidths=0.7,
            zorder=3,
            label=label,
        )


def _excess(
    ax: Axes, records: Sequence[EvalRecord], levels: Sequence[Level], colours: ScalarMappable
) -> None:
    distortions = np.geomspace(levels[0].epsilon, levels[-1].epsilon, ENVELOPE_SAMPLES)
    rates, shortest = envelope([record.curve(METRIC) for record in records], distortions)
    chosen = {entry.record.id for at in levels for entry in at.pairs}
    for record, rate in zip(records, rates, strict=True):
        colour = colour_of(record.coder.d_latents, colours)
        style: dict[str, Any] = (
            {"linewidth": 1.4} if record.id in chosen else {"linewidth": 0.7, "alpha": 0.5}
        )
        ax.plot(distortions, rate - shortest, color=colour, **style)
    for at in levels:
        ax.axvline(at.epsilon, color=FAINT, linewidth=0.8, linestyle=":")
    ax.set_ylim(-0.3, 15)
    ax.set_xscale("log")
    plain_log_scale(ax.xaxis)
    ax.invert_xaxis()
    ax.set_xlabel(metric_of(METRIC).axis)
    ax.set_ylabel("bits per token above the shortest at that MSE")
    ax.set_title("excess over the shortest; bold: best of its width at some ε (dotted)")


def _gain_dots(
    ax: Axes,
    mode: str,
    found: Sequence[Gain],
    place: Mapping[str, int],
    shift: float,
    colour: str,
) -> None:
    marker = mode_of(mode).marker
    means = [(place[g.record.name] + shift, g.mean) for g in found if g.mean is not None]
    centre = np.array([mean.bits for _, mean in means])
    ends = np.array([(mean.low, mean.high) for _, mean in means]).reshape(-1, 2).T
    ax.errorbar(
        centre,
        [y for y, _ in means],
        xerr=np.maximum([centre - ends[0], ends[1] - centre], 0.0),
        color=colour,
        marker=marker,
        markersize=4,
        linestyle="none",
        capsize=2,
        label=mode,
    )
    averages = [(place[g.record.name] + shift, g.bd_bits) for g in found if g.bd_bits is not None]
    ax.plot(
        [bits for _, bits in averages],
        [y for y, _ in averages],
        color=colour,
        marker=marker,
        markersize=6,
        fillstyle="none",
        linestyle="none",
    )
