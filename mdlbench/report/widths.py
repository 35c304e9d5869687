"""Bits at a tolerance against width and L0: which dictionary size describes the data best?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.report.style import (
    ALERT,
    CATEGORIES,
    FAINT,
    INK,
    colour_of,
    house_style,
    legend_below,
    markers,
    plain_numbers,
    width_colours,
)
from mdlbench.report.tables import TITLE_LENGTH, limit_name, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = "best sparsity of each"
NEAR = 1.25
"""A baseline is drawn if its bits are within this factor of the SAEs'."""
TOP = 0.965
"""Height, as a share of the panel, at which infeasible widths are marked."""


def width_figure(board: Leaderboard) -> Figure:
    """At the headline tolerance: bits and dead latents against width, and bits against L0."""
    from matplotlib.figure import Figure

    table = board.headline
    with house_style():
        figure = Figure(figsize=(10.8, 6.0), layout="constrained")
        axes = figure.subplot_mosaic(
            [["bits", "l0"], ["dead", "l0"]], height_ratios=[2.2, 1.0], width_ratios=[1.0, 1.0]
        )
        axes["dead"].sharex(axes["bits"])
        _bits_against_width(axes["bits"], table)
        axes["bits"].tick_params(labelbottom=False)
        axes["bits"].set_title(f"Bits against width, {BEST}")
        _dead_against_width(axes["dead"], table)
        _bits_against_l0(axes["l0"], table)
        handles, labels = axes["bits"].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=4)
        figure.suptitle(
            f"{printable(board.title, TITLE_LENGTH)}: description length at {limit_name(table)}",
            x=0.01,
            ha="left",
            weight="bold",
        )
    return figure


def tolerances_figure(board: Leaderboard) -> Figure:
    """Bits against width at every tolerance: a row per metric, a column per ε."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(table.metric for table in board.tables))
    rows = [
        sorted((t for t in board.tables if t.metric == metric), key=lambda table: table.epsilon)
        for metric in metrics
    ]
    n_columns = max(map(len, rows))
    with house_style():
        figure = Figure(figsize=(3.3 * n_columns, 2.7 * len(rows) + 0.3), layout="constrained")
        axes = figure.subplots(len(rows), n_columns, squeeze=False)
        for row, tables in enumerate(rows):
            for column in range(n_columns):
                ax = axes[row][column]
                if column >= len(tables):
                    ax.set_axis_off()
                    continue
                _bits_against_width(ax, tables[column])
                ax.tick_params(axis="x", labelrotation=45, labelsize=7)
                ax.set_title(limit_name(tables[column]))
                ax.set_ylabel("bits per token" if column == 0 else "")
                ax.set_xlabel("width (latents)" if row == len(rows) - 1 else "")
        legend_below(figure)
        figure.suptitle(
            f"{printable(board.title, TITLE_LENGTH)}: bits against width at every tolerance, "
            f"{BEST}",
            x=0.01,
            ha="left",
            weight="bold",
        )
    return figure


def best_per_width(rows: Iterable[Row]) -> list[Row]:
    """The feasible SAE with the fewest bits at each width, by width."""
    best: dict[int, Row] = {}
    for row in rows:
        bits = row.result.bits
        if bits is None:
            continue
        rival = best.get(_width(row))
        if rival is None or rival.result.bits is None or bits < rival.result.bits:
            best[_width(row)] = row
    return [best[width] for width in sorted(best)]


def infeasible_widths(rows: Sequence[Row]) -> list[int]:
    """Widths at which no SAE meets the tolerance."""
    feasible = {_width(row) for row in rows if row.result.bits is not None}
    return sorted({_width(row) for row in rows} - feasible)


def _width(row: Row) -> int:
    return row.record.coder.d_latents


def _architecture(row: Row) -> str:
    return row.record.coder.architecture


def _bits(row: Row) -> float | None:
    return row.result.bits


def _l0(row: Row) -> float | None:
    return row.result.l0


def _dead(row: Row) -> float:
    return row.record.coder.dead_fraction


def _bits_against_width(ax: Axes, table: Table) -> None:
    rows = _saes(table)
    _width_axis(ax, rows)
    for architecture, group, colour, marker in _styled(rows):
        _faint(ax, group, _bits, colour, marker)
        best = best_per_width(group)
        ax.errorbar(
            [_width(row) for row in best],
            _values(best, _bits),
            yerr=_bars(best),
            color=colour,
            marker=marker,
            markersize=4.5,
            capsize=2.5,
            linewidth=1.4,
            label=printable(architecture),
        )
    _first_rank(ax, rows, _width)
    _mark_infeasible(ax, rows)
    _bits_axis(ax, table)


def _bits_against_l0(ax: Axes, table: Table) -> None:
    rows = [row for row in _saes(table) if _bits(row) is not None and _l0(row) is not None]
    marker = markers(map(_architecture, _saes(table)))
    colours = width_colours([_width(row) for row in _saes(table)])
    for width, group in _grouped(rows, _width):
        label: str | None = str(width)
        for architecture, same in _grouped(group, _architecture):
            same.sort(key=lambda row: _l0(row) or 0.0)
            ax.errorbar(
                _values(same, _l0),
                _values(same, _bits),
                yerr=_bars(same),
                color=colour_of(width, colours),
                marker=marker[architecture],
                markersize=4.5,
                capsize=2.5,
                linewidth=1.0,
                label=label,
            )
            label = None
    _first_rank(ax, rows, _l0, label=None)
    _bits_axis(ax, table)
    ax.set_xlabel("L0 (nonzero symbols per token, after quantisation)")
    ax.set_title("Bits against sparsity")
    if rows:
        ax.legend(title="width", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _dead_against_width(ax: Axes, table: Table) -> None:
    from matplotlib.ticker import PercentFormatter

    rows = _saes(table)
    _width_axis(ax, rows)
    for _, group, colour, marker in _styled(rows):
        _faint(ax, group, _dead, colour, marker)
        best = best_per_width(group)
        ax.plot(
            [_width(row) for row in best],
            [_dead(row) for row in best],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.4,
        )
    most = max((_dead(row) for row in rows), default=0.0)
    ax.set_ylim(-0.04 * max(most, 0.05), 1.08 * max(most, 0.05))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0 if most > 0.05 else 1))
    ax.set_ylabel("dead latents")
    ax.set_xlabel("width: latents in the dictionary")


def _saes(table: Table) -> list[Row]:
    """Rows of trained SAEs; edited or another quantiser's only where there are no others."""
    rows = [row for row in table.rows if not row.record.is_baseline]
    rows = [row for row in rows if row.record.identity.quantiser is None] or rows
    return [row for row in rows if row.status != "edited"] or rows


def _grouped(rows: Iterable[Row], read: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    """The rows of each value of a column, by value."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(read(row), []).append(row)
    return sorted(groups.items())


def _styled(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row], str, str]]:
    """Each architecture with its rows, colour and marker."""
    marker = markers(map(_architecture, rows))
    for i, (architecture, group) in enumerate(_grouped(rows, _architecture)):
        yield architecture, group, CATEGORIES[i % len(CATEGORIES)], marker[architecture]


def _values(
    rows: Sequence[Row], read: Callable[[Row], float | None]
) -> Float64[np.ndarray, " row"]:
    """A numeric column of the rows; what was not measured is NaN and is not drawn."""
    return np.array([read(row) for row in rows], dtype=np.float64)


def _bars(rows: Sequence[Row]) -> Float64[np.ndarray, "end row"]:
    """Lengths of the error bars below and above each point."""
    bits = _values(rows, _bits)
    low = _values(rows, lambda row: row.interval[0])
    high = _values(rows, lambda row: row.interval[1])
    return np.maximum([bits - low, high - bits], 0.0)


def _faint(
    ax: Axes, rows: Sequence[Row], read: Callable[[Row], float | None], colour: str, marker: str
) -> None:
    widths, heights = _values(rows, _width), _values(rows, read)
    ax.scatter(widths, heights, s=14, color=colour, marker=marker, alpha=0.3)


def _first_rank(
    ax: Axes,
    rows: Iterable[Row],
    read: Callable[[Row], float | None],
    label: str | None = "rank 1, shared where there are several",
) -> None:
    first = [row for row in rows if row.ranking.rank == 1]
    if first:
        ax.plot(
            _values(first, read),
            _values(first, _bits),
            linestyle="none",
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgecolor=ALERT,
            label=label,
        )


def _mark_infeasible(ax: Axes, rows: Sequence[Row]) -> None:
    mark_missed(ax, infeasible_widths(rows), TOP, "width infeasible at this tolerance")


def mark_missed(ax: Axes, widths: Sequence[int], height: float, label: str) -> None:
    """Crosses at the widths that miss a tolerance, at a height that is a share of the panel's."""
    if widths:
        ax.plot(
            widths,
            [height] * len(widths),
            transform=ax.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=7,
            markeredgewidth=1.8,
            color=ALERT,
            label=label,
        )


def _bits_axis(ax: Axes, table: Table) -> None:
    """Limits of the bits, with room on top for the marks of infeasible widths; and baselines."""
    ends = [row.interval for row in _saes(table)]
    values = [bits for pair in ends for bits in pair if bits is not None]
    ax.set_ylabel("bits per token")
    if not values:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no SAE is feasible", transform=ax.transAxes, ha="center", color=FAINT)
        return
    baselines = [
        (row.label, row.result.bits)
        for row in table.rows
        if row.record.is_baseline and row.result.bits is not None
    ]
    near = [b for b in baselines if min(values) / NEAR <= b[1] <= max(values) * NEAR]
    for label, bits in near:
        _baseline_line(ax, label, bits)
    far = [
        f"{printable(label)} {bits:,.0f}" for label, bits in baselines if (label, bits) not in near
    ]
    if far:
        ax.text(
            0.99,
            0.83,
            f"off scale: {', '.join(far)} bits",
            transform=ax.transAxes,
            ha="right",
            va="bottom",
            fontsize=7.5,
        )
    shown = [*values, *(bits for _, bits in near)]
    room = max(max(shown) - min(shown), 0.02 * max(shown))
    ax.set_ylim(min(shown) - 0.08 * room, max(shown) + 0.26 * room)


def _baseline_line(ax: Axes, label: str, bits: float) -> None:
    ax.axhline(bits, color=INK, linewidth=1.0, linestyle=(0, (5, 2, 1, 2)))
    ax.annotate(
        f"{printable(label)}: {bits:,.0f}",
        (0.01, bits),
        xycoords=ax.get_yaxis_transform(),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=8,
    )


def _width_axis(ax: Axes, rows: Iterable[Row]) -> None:
    widths = sorted({_width(row) for row in rows})
    ax.set_xscale("log", base=2)
    if widths:
        plain_numbers(ax.xaxis, widths)
        ax.set_xlim(widths[0] / 1.3, widths[-1] * 1.3)
