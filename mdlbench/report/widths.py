"""Bits at a tolerance against width and L0: which dictionary size describes the data best?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.console.labels import NOTE, End, label_ends, note_below, text_inches
from mdlbench.console.style import (
    ALERT,
    FAINT,
    INK,
    Margins,
    family_colours,
    house_style,
    legend_of_marks,
    panels,
    plain_numbers,
)
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import with_quantiser
from mdlbench.report.architectures import ABREAST, tables_of
from mdlbench.report.tables import TITLE_LENGTH, limit_name, printable
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SWEEP = 3
"""SAEs of fewer widths, or sparsities, are no sweep, and no line joins them."""
NEAR = 1.25
"""A baseline is drawn if its bits are within this factor of the SAEs'."""
TOP = 0.965
"""Height, as a share of the panel, at which infeasible widths are marked."""
PANEL = 3.7, 2.6
"""Inches of a panel that stands alone."""
SMALL_PANEL = 1.75, 1.35
"""Inches of a panel among others."""
LANE = 0.022
"""Share of a panel's width between marks of one width whose intervals would touch."""
NAME_LENGTH = 26
PALE = "#c8c8c8"
COLUMNS = 3
"""Columns in which the marks' meanings stand."""
MISSED = "no SAE of this width within ε"
RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 9,
    "markerfacecolor": "none",
    "markeredgecolor": ALERT,
}
CROSS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "x",
    "markersize": 6,
    "markeredgewidth": 1.5,
    "color": ALERT,
}


class Series(NamedTuple):
    """SAEs of one architecture in one mode, which share a look.

    Attributes:
        name: as a board has it.
        mode: None is the suite's own.
        rows: feasible ones only.
    """

    name: str
    mode: str | None
    colour: str
    rows: tuple[Row, ...]

    @property
    def look(self) -> dict[str, Any]:
        """A filled mark for the suite's own mode, a hollow one for another."""
        look: dict[str, Any] = {"color": self.colour, "markersize": 4.5}
        if self.mode is None:
            return look | {"marker": "o", "linestyle": "-"}
        mode = mode_of(self.mode)
        return look | {"marker": mode.marker, "linestyle": mode.line, "markerfacecolor": "white"}

    def best(self) -> list[Row]:
        """The shortest of each width."""
        return best_per_width(self.rows)


def width_figure(board: Leaderboard) -> Figure:
    """At the headline tolerance: bits against width, and dead latents.

    The shortest SAE of each width. Lines join those of one architecture that has several widths.
    """
    table = board.headline
    drawn, far = _drawn_series(table), _far_note(table)
    key = _key(drawn, infeasible_widths(_own(_saes(table))))
    names = [*(series.name for series in drawn), *_near_labels(table)]
    with house_style():
        figure, (bits, dead) = panels(
            PANEL[0],
            [PANEL[1], 0.8],
            Margins(
                0.65,
                0.3 + text_inches(names),
                _foot_inches(len(key), far),
                between=(0.0, 0.12),
            ),
            f"{printable(board.title, TITLE_LENGTH)}: bits against width at {limit_name(table)}",
        )
        dead.sharex(bits)
        ends = _bits_against_width(bits, table, drawn)
        label_ends(bits, [*ends, *_baselines(bits, table)])
        bits.tick_params(labelbottom=False)
        _dead_against_width(dead, table, drawn)
        _foot(figure, key, far)
    return figure


def sparsity_figure(board: Leaderboard) -> Figure:
    """At the headline tolerance: bits against L0, in the suite's own mode.

    Lines join SAEs of one architecture and width that has several sparsities.
    """
    table = board.headline
    far = _far_note(table)
    groups = _by_sparsity(table)
    key = _key(groups)
    names = [*(series.name for series in groups), *_near_labels(table)]
    with house_style():
        figure, (ax,) = panels(
            PANEL[0],
            [max(PANEL[1], 0.145 * (len(names) + 1))],
            Margins(0.65, 0.3 + text_inches(names), _foot_inches(len(key), far)),
            f"{printable(board.title, TITLE_LENGTH)}: bits against sparsity at {limit_name(table)}",
        )
        _bits_axis(ax, table)
        ax.set_xlabel("L0 (nonzero symbols per token, after quantisation)")
        ends = [_joined(ax, series, list(series.rows), _l0) for series in groups]
        ring_first(ax, [row for series in groups for row in series.rows], _l0)
        label_ends(ax, [*ends, *_baselines(ax, table)])
        _foot(figure, key, far)
    return figure


def tolerances_figure(board: Leaderboard, metric: MetricName | None = None) -> Figure:
    """Bits against width at every tolerance of a loss, the headline's by default."""
    metric = board.headline.metric if metric is None else metric
    tables = tables_of(board, metric)
    n_lines = -(-len(tables) // ABREAST)
    with house_style():
        figure, axes = panels(
            SMALL_PANEL[0],
            [SMALL_PANEL[1]] * n_lines,
            Margins(0.55, 0.15, 0.95, above=0.25, between=(0.36, 0.65)),
            f"{printable(board.title, TITLE_LENGTH)}: bits against width at every tolerance on "
            f"{metric_of(metric).label}, the shortest SAE of each width",
            abreast=min(ABREAST, len(tables)),
        )
        entries: dict[str, Artist] = {}
        for ax, table in zip(axes, tables, strict=False):
            entries |= _small_panel(ax, table)
        for ax in axes[len(tables) :]:
            ax.remove()
        for ax in axes[::ABREAST]:
            ax.set_ylabel("bits per token")
        legend_of_marks(figure, entries, COLUMNS)
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


def is_sweep(places: Iterable[float | None]) -> bool:
    """Whether so many widths, or sparsities, are a sweep."""
    return len(set(places)) >= LEAST_SWEEP


def lanes(intervals: Sequence[tuple[float, float]], gap: float) -> list[int]:
    """A lane for each interval such that those in one lane lie at least a gap apart.

    Lanes are taken from the middle outwards: 0, 1, -1, 2, …

    Args:
        intervals: from low to high.
        gap: least distance.
    """
    found = [0] * len(intervals)
    tops: list[float] = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i]):
        low, high = intervals[i]
        lane = next((k for k, top in enumerate(tops) if top + gap <= low), len(tops))
        tops[lane : lane + 1] = [high]
        found[i] = (lane + 1) // 2 * (1 if lane % 2 else -1)
    return found


def _width(row: Row) -> int:
    return row.record.coder.d_latents


def _bits(row: Row) -> float | None:
    return row.result.bits


def _l0(row: Row) -> float | None:
    return row.result.l0


def _dead(row: Row) -> float:
    return row.record.coder.dead_fraction


def _saes(table: Table) -> list[Row]:
    """Rows of trained SAEs; edited ones only where there are no others."""
    rows = [row for row in table.rows if not row.record.is_baseline]
    return [row for row in rows if row.status != "edited"] or rows


def _own(rows: Sequence[Row]) -> list[Row]:
    """Those in the suite's own mode, or all where there are none."""
    return [row for row in rows if row.record.identity.quantiser is None] or list(rows)


def _series(table: Table) -> list[Series]:
    """Every architecture in every mode, with what of it is feasible."""
    rows = _saes(table)
    colours = family_colours(row.record.coder.architecture for row in rows)
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for row in rows:
        if row.result.bits is not None:
            key = row.record.coder.architecture, row.record.identity.quantiser
            groups.setdefault(key, []).append(row)
    return [
        Series(
            printable(with_quantiser(name, mode), NAME_LENGTH), mode, colours[name], tuple(found)
        )
        for (name, mode), found in sorted(groups.items(), key=lambda item: str(item[0]))
    ]


def _drawn_series(table: Table) -> list[Series]:
    """Those in the suite's own mode, and sweeps over width in any other."""
    found = _series(table)
    own = [series for series in found if series.mode is None]
    others = [series for series in found if series.mode is not None]
    return own + [series for series in others if not own or is_sweep(map(_width, series.rows))]


def _by_sparsity(table: Table) -> list[Series]:
    """Architectures by width, in the suite's own mode or the one that there is."""
    found = _series(table)
    own = [series for series in found if series.mode is None] or found
    groups = []
    for series in own:
        widths = sorted(set(map(_width, series.rows)))
        for width in widths:
            rows = [row for row in series.rows if _width(row) == width and _l0(row) is not None]
            name = f"{series.name}, {width}" if len(widths) > 1 else series.name
            if rows:
                rows.sort(key=lambda row: _l0(row) or 0.0)
                groups.append(series._replace(name=name, rows=tuple(rows)))
    return groups


def _joined(
    ax: Axes,
    series: Series,
    rows: Sequence[Row],
    read: Callable[[Row], float | None],
    at: Sequence[float] | None = None,
) -> End:
    """Draw rows with their intervals, joined if they are a sweep; where they end.

    Args:
        ax: to draw on.
        series: whose look they have.
        rows: by rising place.
        read: their place across.
        at: where they are drawn instead.
    """
    places = _values(rows, read) if at is None else np.array(at)
    bits = _values(rows, _bits)
    look = series.look | ({} if is_sweep(map(read, rows)) else {"linestyle": ""})
    ax.errorbar(places, bits, yerr=_bars(rows), elinewidth=1.0, linewidth=1.2, capsize=1.5, **look)
    return End(float(places[-1]), float(bits[-1]), series.name, series.colour)


def _bits_against_width(ax: Axes, table: Table, drawn: Sequence[Series]) -> list[End]:
    """Draw the shortest of each width, and pale what is longer; where each series ends."""
    _width_axis(ax, _saes(table))
    _bits_axis(ax, table)
    rest = [row for series in drawn if series.mode is None for row in series.rows]
    ax.scatter(_values(rest, _width), _values(rest, _bits), s=7, color=PALE, zorder=1)
    sweeps = [series for series in drawn if is_sweep(map(_width, series.best()))]
    ends = [_joined(ax, series, series.best(), _width) for series in sweeps]
    others = [series for series in drawn if series not in sweeps]
    ends += _side_by_side(ax, others, [row for series in sweeps for row in series.best()])
    ring_first(ax, [row for series in sweeps for row in series.best()], _width)
    mark_missed(ax, infeasible_widths(_own(_saes(table))), TOP, "")
    return ends


def _side_by_side(ax: Axes, drawn: Sequence[Series], taken: Sequence[Row]) -> list[End]:
    """Draw what is no sweep such that no intervals of one width touch; where each series ends."""
    low, high = ax.get_ylim()
    rows = [(series, row) for series in drawn for row in series.best()]
    places: dict[int, float] = {}
    for width in {_width(row) for _, row in rows}:
        here = [row for row in taken if _width(row) == width]
        here += sorted(
            (row for _, row in rows if _width(row) == width), key=lambda r: _bits(r) or 0
        )
        ends = [(row.interval[0] or 0.0, row.interval[1] or 0.0) for row in here]
        for row, lane in zip(here, lanes(ends, 0.012 * (high - low)), strict=True):
            places[id(row)] = _beside(ax, width, lane)
    found = []
    for series in drawn:
        best = series.best()
        at = [places[id(row)] for row in best]
        found.append(_joined(ax, series, best, _width, at))
    first = [row for _, row in rows if row.ranking.rank == 1]
    ring(ax, [places[id(row)] for row in first], [_bits(row) or 0.0 for row in first])
    return found


def _beside(ax: Axes, width: int, lane: int) -> float:
    low, high = np.log(ax.get_xlim())
    return float(max(1, width) * np.exp(LANE * lane * (high - low)))


def _dead_against_width(ax: Axes, table: Table, drawn: Sequence[Series]) -> None:
    from matplotlib.ticker import PercentFormatter

    rows = _own(_saes(table))
    _width_axis(ax, rows)
    for series in drawn:
        if series.mode is None:
            best = series.best()
            look = series.look | ({} if is_sweep(map(_width, best)) else {"linestyle": ""})
            ax.plot(_values(best, _width), _values(best, _dead), linewidth=1.2, **look)
    shown = [_dead(row) for series in drawn for row in series.best()]
    most = max(shown, default=0.0)
    ax.set_ylim(-0.06 * max(most, 0.05), 1.12 * max(most, 0.05))
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0))
    ax.set_ylabel("dead")
    ax.set_xlabel("width: latents in the dictionary")


def _small_panel(ax: Axes, table: Table) -> dict[str, Artist]:
    """One tolerance: sweeps in colour, other SAEs pale; what its marks mean."""
    drawn = [series for series in _drawn_series(table) if is_sweep(map(_width, series.best()))]
    rows = _own(_saes(table))
    _width_axis(ax, rows, share=0.2)
    _bits_axis(ax, table)
    ax.set_ylabel("")
    ax.set_title(metric_of(table.metric).short_limit(table.epsilon), fontsize=9)
    ax.set_xlabel("width")
    ax.tick_params(labelsize=7)
    feasible = [row for row in rows if row.result.bits is not None]
    dots = ax.scatter(_values(feasible, _width), _values(feasible, _bits), s=7, color=PALE)
    entries: dict[str, Artist] = {"other SAEs": dots} if feasible else {}
    for series in drawn:
        _joined(ax, series, series.best(), _width)
        entries[series.name] = _handle(series)
    if _baselines(ax, table):
        entries["baselines"] = ax.lines[-1]
    if missed := infeasible_widths(rows):
        mark_missed(ax, missed, 0.93, "")
        entries[MISSED] = ax.lines[-1]
    return entries


def _handle(series: Series) -> Artist:
    from matplotlib.lines import Line2D

    return Line2D([], [], **series.look)


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


def ring_first(ax: Axes, rows: Iterable[Row], read: Callable[[Row], float | None]) -> None:
    """Rings around what is first."""
    first = [row for row in rows if row.ranking.rank == 1]
    ring(ax, [read(row) or 0.0 for row in first], [_bits(row) or 0.0 for row in first])


def ring(ax: Axes, across: Sequence[float], up: Sequence[float]) -> None:
    """Rings around points."""
    if across:
        ax.plot(across, up, **RING)


def mark_missed(ax: Axes, widths: Sequence[int], height: float, label: str) -> None:
    """Crosses at the widths that miss a tolerance, at a height that is a share of the panel's."""
    if widths:
        across = ax.get_xaxis_transform()
        ax.plot(widths, [height] * len(widths), transform=across, label=label, **CROSS)


def _key(drawn: Sequence[Series], missed: Sequence[int] = ()) -> dict[str, Artist]:
    """What the marks mean that are drawn."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {}
    if any(series.mode for series in drawn):
        for mode in dict.fromkeys(series.mode for series in drawn):
            name = "the suite's own mode" if mode is None else f"[{mode}]"
            look = next(series.look for series in drawn if series.mode == mode)
            entries[name] = Line2D([], [], **look | {"color": FAINT, "linestyle": ""})
    first = [row for series in drawn for row in series.rows if row.ranking.rank == 1]
    if first:
        entries["rank 1" if len(first) == 1 else "rank 1, shared"] = Line2D([], [], **RING)
    if missed:
        entries[MISSED] = Line2D([], [], **CROSS)
    return entries


def _foot_inches(n_entries: int, note: Sequence[str]) -> float:
    """The height of the axis' name, the marks' meanings, and what is off the scale."""
    return 0.52 + 0.18 * -(-n_entries // COLUMNS) + NOTE * len(note)


def _foot(figure: Figure, entries: dict[str, Artist], note: Sequence[str]) -> None:
    legend_of_marks(figure, entries, COLUMNS)
    if note:
        note_below(figure, note, left=0.1, bottom=0.06 + 0.18 * -(-len(entries) // COLUMNS))


def _near(table: Table) -> list[tuple[str, float]]:
    """Baselines within `NEAR` of the SAEs, and their bits."""
    saes = [row.result.bits or 0.0 for s in _drawn_series(table) for row in s.rows]
    if not saes:
        return []
    low, high = min(saes) / NEAR, max(saes) * NEAR
    return [(label, bits) for label, bits in _baseline_bits(table) if low <= bits <= high]


def _near_labels(table: Table) -> list[str]:
    return [_baseline_name(label, bits) for label, bits in _near(table)]


def _baseline_name(label: str, bits: float) -> str:
    return f"{printable(label, NAME_LENGTH)}: {bits:,.0f}"


def _baseline_bits(table: Table) -> list[tuple[str, float]]:
    return [
        (row.label, row.result.bits)
        for row in table.rows
        if row.record.is_baseline and row.result.bits is not None
    ]


def _interval_ends(table: Table) -> list[float]:
    """Both ends of the intervals of all that is drawn."""
    rows = [row for series in _drawn_series(table) for row in series.rows]
    return [bits for row in rows for bits in row.interval if bits is not None]


def _far_note(table: Table) -> list[str]:
    near = _near(table)
    far = [
        f"{printable(label, NAME_LENGTH)} {bits:,.0f}"
        for label, bits in _baseline_bits(table)
        if (label, bits) not in near
    ]
    return [f"off scale: {', '.join(far)} bits"] if far and _interval_ends(table) else []


def _baselines(ax: Axes, table: Table) -> list[End]:
    """Draw the baselines near the SAEs as lines; where they end."""
    ends = []
    for label, bits in _near(table):
        ax.axhline(bits, color=INK, linewidth=0.9, linestyle=(0, (5, 2, 1, 2)), zorder=1)
        ends.append(End(ax.get_xlim()[1], bits, _baseline_name(label, bits), INK))
    return ends


def _bits_axis(ax: Axes, table: Table) -> None:
    """Limits of the bits, with room on top for the marks of infeasible widths."""
    values = _interval_ends(table)
    ax.set_ylabel("bits per token")
    if not values:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no SAE is feasible", transform=ax.transAxes, ha="center", color=FAINT)
        return
    shown = [*values, *(bits for _, bits in _near(table))]
    room = max(max(shown) - min(shown), 0.02 * max(shown))
    ax.set_ylim(min(shown) - 0.08 * room, max(shown) + 0.16 * room)


def apart(values: Sequence[int], share: float) -> list[int]:
    """Those of rising positive values whose logarithms lie apart by a share of their range."""
    least = share * np.log(values[-1] / values[0]) if values else 0.0
    kept: list[int] = []
    for value in values:
        if not kept or np.log(value / kept[-1]) >= least:
            kept.append(value)
    return kept


def _width_axis(ax: Axes, rows: Iterable[Row], share: float = 0.1) -> None:
    """A logarithmic axis with as many of the widths written as there is room for."""
    widths = sorted({max(1, _width(row)) for row in rows})
    ax.set_xscale("log", base=2)
    if widths:
        plain_numbers(ax.xaxis, apart(widths, share))
        ax.set_xlim(widths[0] / 1.5, widths[-1] * 1.5)
