"""Rate-distortion curves of all SAEs of a suite, with what they are to be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdlbench.boards.leaderboard import Leaderboard, Table
from mdlbench.curves.curve import gaussian_rate_distortion
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import (
    EvalRecord,
    SiteReferences,
    other_quantisers,
)
from mdlbench.report.style import (
    FAINT,
    INK,
    above_zero,
    colour_of,
    house_style,
    markers,
    plain_log_scale,
    plain_numbers,
    width_colours,
)
from mdlbench.report.tables import TITLE_LENGTH, printable
from mdlbench.report.view import View, view_of
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

BASELINE_STYLES: dict[str, dict[str, Any]] = {
    "pca": {"color": "#D55E00", "linewidth": 2.4, "marker": ""},
    "kmeans": {"color": "#CC79A7", "linewidth": 1.2, "marker": "D", "markersize": 4},
    "dense": {"color": "#8a8a8a", "linewidth": 1.2, "marker": "s", "markersize": 3},
}
DENSE = "fixed-length code, n bits per dimension"


def curves_figure(
    records: Sequence[EvalRecord], references: SiteReferences, board: Leaderboard
) -> Figure:
    """Distortion against bits per token, one panel per distortion of the suite.

    Args:
        records: of one site of a suite; edited ones are drawn only where there are no others.
        references: of the same site.
        board: of the same records; the tolerance of its headline is drawn heavier.
    """
    from matplotlib.figure import Figure

    shown = presentable(records)
    metrics = list(dict.fromkeys(result.metric for result in shown[0].tolerances))
    widths = sorted({record.coder.d_latents for record in shown if not record.is_baseline})
    with house_style():
        figure = Figure(figsize=(5.4 * len(metrics) + 0.9, 5.6), layout="constrained")
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        colours = width_colours(widths)
        for ax, metric in zip(axes, metrics, strict=True):
            _panel(ax, metric, shown, references, board.headline, colours)
        if widths:
            bar = figure.colorbar(colours, ax=axes, pad=0.01, aspect=40)
            bar.set_label("width: latents in the dictionary")
            bar.outline.set_visible(False)
            plain_numbers(bar.ax.yaxis, widths)
        figure.suptitle(_title(shown, board), x=0.01, ha="left", weight="bold")
        baselines = [_label(record) for record in shown if record.is_baseline]
        _legend(figure, list(axes), shown, [*baselines, DENSE])
    return figure


def presentable(records: Sequence[EvalRecord]) -> list[EvalRecord]:
    """The records as they were written, or all of them where every one was edited."""
    return [record for record in records if not record.is_edited] or list(records)


def _markers(records: Sequence[EvalRecord]) -> dict[str, str]:
    """The marker of each architecture of trained SAEs."""
    return markers(record.coder.architecture for record in records if not record.is_baseline)


def _line(quantiser: str | None) -> Any:
    """The line of a quantiser; whole for the suite's own."""
    return "-" if quantiser is None else mode_of(quantiser).line


def _title(records: Sequence[EvalRecord], board: Leaderboard) -> str:
    partial = " (partial: made with --limit)" if records[0].partial else ""
    return f"{printable(board.title, TITLE_LENGTH)}: rate-distortion curves{partial}"


def _legend(
    figure: Figure,
    axes: Sequence[Axes],
    records: Sequence[EvalRecord],
    references: Sequence[str],
) -> None:
    """What SAEs look like, in no width's colour; every labelled line; references without one.

    Args:
        figure: to draw it on.
        axes: with the labelled lines.
        records: of the SAEs, and of what they are compared with.
        references: names of the lines that there may be.
    """
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {}
    architectures = _markers(records)
    if architectures:
        entries = {
            "SAE, swept over quantiser steps": Line2D([], [], color=FAINT, linewidth=1.1),
            "its floor: loss before quantisation": Line2D([], [], color=FAINT, linewidth=2.5),
        }
    for quantiser in other_quantisers(records):
        line = Line2D([], [], color=FAINT, linewidth=1.1, linestyle=_line(quantiser))
        entries[f"by the quantiser {quantiser}"] = line
    for architecture, marker in architectures.items():
        name = f", {printable(architecture)}" if len(architectures) > 1 else ""
        dot = Line2D([], [], color=FAINT, marker=marker, linestyle="")
        entries[f"its bits at ε{name}"] = dot
    for ax in axes:
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if unseen := [name for name in references if name not in entries]:
        entries[f"off scale: {', '.join(unseen)}"] = Line2D([], [], linestyle="")
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=3, handlelength=2.5
    )


def _panel(
    ax: Axes,
    metric: MetricName,
    records: Sequence[EvalRecord],
    references: SiteReferences,
    headline: Table,
    colours: ScalarMappable,
) -> None:
    view, marker = view_of(records, metric), _markers(records)
    ax.set_yscale("log")
    for record in sorted(records, key=lambda record: (record.coder.d_latents, record.name)):
        if record.is_baseline:
            _baseline(ax, record, metric, view)
        else:
            colour = colour_of(record.coder.d_latents, colours)
            _sae(ax, record, metric, colour, marker[record.coder.architecture])
    _references(ax, metric, references, view)
    for result in records[0].tolerances:
        if result.metric == metric:
            is_headline = (metric, result.epsilon) == (headline.metric, headline.epsilon)
            _tolerance_line(ax, result.epsilon, is_headline)
    ax.set_xlim(view.rates.linear)
    ax.set_ylim(view.losses.log)
    plain_log_scale(ax.yaxis)
    ax.set_xlabel("rate (bits per token)")
    ax.set_ylabel(metric_of(metric).axis)
    ax.set_title(f"{metric_of(metric).label} after quantisation")


def _sae(
    ax: Axes, record: EvalRecord, metric: MetricName, colour: tuple[float, ...], marker: str
) -> None:
    curve = record.curve(metric)
    ax.plot(
        curve.rates,
        above_zero(curve.distortions),
        color=colour,
        linewidth=1.1,
        linestyle=_line(record.identity.quantiser),
        alpha=0.85,
    )
    scored = [
        (result.bits, result.epsilon)
        for result in record.tolerances
        if result.metric == metric and result.bits is not None and not result.at_coarsest
    ]
    if scored:
        ax.plot(
            *zip(*scored, strict=True),
            linestyle="none",
            marker=marker,
            markersize=4,
            color=colour,
        )
    floor = record.floor.loss(metric)
    ax.plot(
        [0.975, 1.0],
        [floor, floor],
        transform=ax.get_yaxis_transform(),
        color=colour,
        linewidth=1.5,
        alpha=0.6,
    )


def _baseline(ax: Axes, record: EvalRecord, metric: MetricName, view: View) -> None:
    curve = record.curve(metric)
    style: dict[str, Any] = {"color": INK, "linewidth": 1.2, "marker": "*", "zorder": 3}
    style |= BASELINE_STYLES.get(record.coder.architecture, {})
    style["linestyle"] = _line(record.identity.quantiser)
    if view.shows(curve.rates, curve.distortions):
        ax.plot(curve.rates, above_zero(curve.distortions), label=_label(record), **style)


def _label(record: EvalRecord) -> str:
    name = printable(record.label)
    return f"{name}: PCA transform codec" if record.coder.architecture == "pca" else name


def _references(ax: Axes, metric: MetricName, references: SiteReferences, view: View) -> None:
    """The Gaussian and the dense codec, for distortions that are squared errors."""
    of_mse = metric_of(metric).of_mse
    if of_mse is None:
        return
    eigenvalues = np.array(references.eigenvalues, dtype=np.float64)
    unit = of_mse(references.d, float(eigenvalues.sum()))
    rates, distortions = gaussian_rate_distortion(eigenvalues)
    ax.plot(
        rates,
        distortions * unit,
        color=INK,
        linewidth=1.4,
        linestyle=(0, (5, 2, 1, 2)),
        label="Gaussian R(D), a reference",
    )
    n_bits, dense = np.array(references.dense, dtype=np.float64).reshape(-1, 2).T
    if view.shows(n_bits * references.d, dense * unit):
        ax.plot(
            n_bits * references.d,
            dense * unit,
            color=FAINT,
            linewidth=1.2,
            linestyle=":",
            marker="s",
            markersize=3,
            label=DENSE,
        )


def _tolerance_line(ax: Axes, epsilon: float, is_headline: bool) -> None:
    ax.axhline(
        epsilon, color=INK, linewidth=1.1 if is_headline else 0.7, linestyle="--", zorder=1.5
    )
    ax.annotate(
        f"ε = {epsilon:g}",
        (0.0, epsilon),
        xycoords=ax.get_yaxis_transform(),
        xytext=(4, 3),
        textcoords="offset points",
        fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.2},
        zorder=4,
        weight="bold" if is_headline else "normal",
    )
