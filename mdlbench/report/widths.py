"""Bits at a tolerance against width and L0: which dictionary size describes the data best?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.console.labels import (
    BEHIND,
    NOTE,
    End,
    inches_of,
    label_ends,
    line_inches,
    note_below,
    note_lines,
    text_inches,
)
from mdlbench.console.style import (
    ALERT,
    FAINT,
    INK,
    MARKERS,
    Margins,
    family_colours,
    house_style,
    legend_inches,
    legend_of_marks,
    panels,
    plain_log_scale,
)
from mdlbench.quantisers.modes import mode_of
from mdlbench.records.record import with_quantiser
from mdlbench.report.architectures import mode_name, tables_of
from mdlbench.report.tables import TITLE_LENGTH, limit_name, printable
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SWEEP = 3
"""SAEs of fewer widths, or sparsities, are no sweep, and no line joins them."""
SHORTER, LONGER = 2.0, 1.25
"""Baselines this many times shorter, or longer, than the SAEs are off the scale."""
TOP = 0.965
"""Height, as a share of the panel, at which infeasible widths are marked."""
HEIGHT = 2.6
"""Inches of a panel that stands alone, unless its names need more."""
SPARSITY = 3.2
LEAST_WIDTH, MOST_WIDTH = 2.6, 3.7
"""Inches between which a panel is wide, by the number of marks."""
SMALL_PANEL = 1.6, 1.35
"""Inches of a panel among others."""
ABREAST = 2
LEAST_BAND = 4
"""Marks for which a width has room at least."""
MARK_INCHES = 0.08
"""Room of a mark across, where there is room."""
MARK, SMALL_MARK = 4.5, 3.0
"""Points of a mark."""
TICK, SMALL_TICK = 8.0, 7.0
"""Points of the numbers on an axis."""
NAME_LENGTH = 26
PALE, BAND = "#b0b0b0", "#f5f5f5"
COLUMNS = 2
"""Columns in which the marks' meanings stand."""
LOGARITHMIC = 3.0
"""Ratio of the largest L0 to the least from which their axis is logarithmic."""
MISSED = "no SAE of this width within ε"
RING: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
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


class Kind(NamedTuple):
    """SAEs of one architecture in one mode, which share a look.

    Attributes:
        architecture: as a board has it.
        mode: None is the suite's own.
        name: what is written where they end.
        colour, marker: of their marks.
        size: of a mark, in points.
    """

    architecture: str
    mode: str | None
    name: str
    colour: str
    marker: str
    size: float = MARK

    @property
    def look(self) -> dict[str, Any]:
        """A filled mark for the suite's own mode, a hollow one for another."""
        return {
            "color": self.colour,
            "marker": self.marker,
            "markersize": self.size,
            "markerfacecolor": self.colour if self.mode is None else "white",
            "linestyle": "-" if self.mode is None else mode_of(self.mode).line,
        }

    def rows(self, table: Table) -> list[Row]:
        """Those that meet the tolerance."""
        return [row for row in _feasible(table) if _kind_of(row) == (self.architecture, self.mode)]


class Bands(NamedTuple):
    """Bands across a panel, one for each width, in which marks stand side by side.

    Attributes:
        widths: in rising order.
        edges: where the bands begin, and where the last one ends, in marks.
    """

    widths: tuple[int, ...]
    edges: tuple[float, ...]

    def middle(self, width: int) -> float:
        """The middle of a width's band."""
        i = self.widths.index(width)
        return (self.edges[i] + self.edges[i + 1]) / 2

    def places(self, rows: Sequence[Row]) -> dict[str, float]:
        """A place of its own for each row of a table, by label; in a band, bits rise rightwards."""
        found: dict[str, float] = {}
        for width in self.widths:
            here = [row for row in rows if _width(row) == width]
            here.sort(key=lambda row: (row.result.bits or 0.0, row.label))
            first = self.middle(width) - (len(here) - 1) / 2
            found |= {row.label: first + i for i, row in enumerate(here)}
        return found

    def depth(self, inches: float, size: float) -> float:
        """Inches of the widths' names where they are upright; 0 where they fit into their bands.

        Args:
            inches: width of the panel.
            size: of the font.
        """
        least = min(high - low for low, high in pairwise(self.edges))
        long = text_inches(map(str, self.widths), size)
        return 0.0 if 1.15 * long < inches * least / self.edges[-1] else long


def has_widths(tables: Sequence[Table]) -> bool:
    """Whether SAEs of several widths meet one of the tolerances, in the suite's own mode."""
    kinds = _own(_kinds(tables))
    return any(len(set(map(_width, _drawn(table, kinds)))) > 1 for table in tables)


def width_figure(board: Leaderboard) -> Figure:
    """At the headline tolerance: bits against width, and dead latents.

    The shortest SAE of each architecture and width. Lines join sweeps over width.
    """
    table = board.headline
    kinds = _kinds([table])
    bands, drawn, baselines = _bands([table], kinds), _drawn(table, kinds), _baselines(table, kinds)
    key = _mode_key(kinds, [table]) | _rank_key(drawn, [table]) | _missed_key([drawn], bands)
    names = [*(kind.name for kind in kinds), *_baseline_names(baselines)]
    width = float(np.clip(MARK_INCHES * bands.edges[-1], LEAST_WIDTH, MOST_WIDTH))
    depth = bands.depth(width, TICK)
    left, right = _left_inches([table], TICK), 0.45 + text_inches(names)
    note = _first_elsewhere(table, drawn, left + width + right)
    with house_style():
        figure, (bits, dead) = panels(
            width,
            [max(HEIGHT, line_inches() * len(names)), 0.8],
            Margins(left, right, _foot_inches(len(key), note) + depth, between=(0.0, 0.12)),
            f"{printable(board.title, TITLE_LENGTH)}: bits against width at {limit_name(table)}",
        )
        ends = _bits_against_width(bits, table, kinds, bands, TICK)
        label_ends(bits, [*ends, *_baseline_ends(bits, baselines)])
        bits.tick_params(labelbottom=False)
        _dead_against_width(dead, table, kinds, bands)
        for ax in (bits, dead):
            _name_bits_axis(ax, left)
        _foot(figure, key, note)
    return figure


def sparsity_figure(board: Leaderboard) -> Figure:
    """At the headline tolerance: bits against L0, in the suite's own mode.

    Each width has a mark. Lines join sweeps over sparsity of one architecture and width.
    """
    table = board.headline
    kinds = _own(_kinds([table]))
    groups, baselines = _by_width(kinds, table), _baselines(table, kinds)
    drawn = [row for _, rows in groups for row in rows]
    key = _width_key(groups) | _rank_key(drawn, [table])
    names = [*(kind.name for kind, _ in groups), *_baseline_names(baselines)]
    left, right = _left_inches([table], TICK), 0.45 + text_inches(names)
    note = _mode_note(kinds, [table])
    note += _first_elsewhere(table, drawn, left + SPARSITY + right)
    with house_style():
        figure, (ax,) = panels(
            SPARSITY,
            [max(HEIGHT, line_inches() * len(names))],
            Margins(left, right, _foot_inches(len(key), note)),
            f"{printable(board.title, TITLE_LENGTH)}: bits against sparsity at {limit_name(table)}",
        )
        ax.tick_params(labelsize=TICK)
        _bits_axis(ax, drawn, baselines)
        _l0_axis(ax, drawn)
        ends = [
            _joined(ax, kind, rows, _values(rows, _l0), is_sweep(map(_l0, rows)))
            for kind, rows in groups
        ]
        label_ends(ax, [*ends, *_baseline_ends(ax, baselines)])
        _name_bits_axis(ax, left)
        _foot(figure, key, note)
    return figure


def tolerances_figure(board: Leaderboard, metric: MetricName | None = None) -> Figure:
    """Bits against width at every tolerance of a loss, the headline's by default.

    In the suite's own mode. What is a sweep at some tolerance has its colour at all of them; the
    rest is pale.
    """
    metric = board.headline.metric if metric is None else metric
    tables = tables_of(board, metric)
    kinds = [_small(kind, _sweeps(kind, tables)) for kind in _own(_kinds(tables))]
    bands, drawn = _bands(tables, kinds), [_drawn(table, kinds) for table in tables]
    key = _sweep_key(kinds) | _rank_key([row for rows in drawn for row in rows], tables)
    key |= _missed_key(drawn, bands)
    names = [name for table in tables for name in _baseline_names(_baselines(table, kinds))]
    left, right = _left_inches(tables, SMALL_TICK), 0.3 + text_inches(names, SMALL_TICK)
    note, depth = _mode_note(kinds, tables), bands.depth(SMALL_PANEL[0], SMALL_TICK)
    with house_style():
        figure, axes = panels(
            SMALL_PANEL[0],
            [SMALL_PANEL[1]] * -(-len(tables) // ABREAST),
            Margins(
                left,
                right,
                _foot_inches(len(key), note) + depth,
                above=0.25,
                between=(left - 0.15 + right, 0.62 + depth),
            ),
            f"{printable(board.title, TITLE_LENGTH)}: bits against width at every tolerance on "
            f"{metric_of(metric).label}, the shortest SAE of each architecture and width",
            abreast=min(ABREAST, len(tables)),
        )
        for ax, table in zip(axes, tables, strict=False):
            _bits_against_width(ax, table, kinds, bands, SMALL_TICK)
            label_ends(ax, _baseline_ends(ax, _baselines(table, kinds)), SMALL_TICK)
            ax.set_title(metric_of(metric).short_limit(table.epsilon), fontsize=9)
            ax.set_xlabel("width")
            ax.set_ylabel("")
        for ax in axes[len(tables) :]:
            ax.remove()
        for ax in axes[::ABREAST]:
            ax.set_ylabel("bits per token")
            _name_bits_axis(ax, left)
        _foot(figure, key, note)
    return figure


def best_per_width(rows: Iterable[Row]) -> list[Row]:
    """The feasible SAE with the fewest bits at each width, by width."""
    best: dict[int, Row] = {}
    for row in sorted((row for row in rows if row.result.bits is not None), key=_known_bits):
        best.setdefault(_width(row), row)
    return [best[width] for width in sorted(best)]


def is_sweep(places: Iterable[float | None]) -> bool:
    """Whether so many widths, or sparsities, are a sweep."""
    return len(set(places)) >= LEAST_SWEEP


def mark_missed(ax: Axes, places: Sequence[float], height: float, label: str) -> None:
    """Crosses at what misses a tolerance, at a height that is a share of the panel's."""
    if places:
        across = ax.get_xaxis_transform()
        ax.plot(places, [height] * len(places), transform=across, label=label, **CROSS)


def _width(row: Row) -> int:
    return row.record.coder.d_latents


def _bits(row: Row) -> float | None:
    return row.result.bits


def _l0(row: Row) -> float | None:
    return row.result.l0


def _dead(row: Row) -> float:
    return row.record.coder.dead_fraction


def _kind_of(row: Row) -> tuple[str, str | None]:
    return row.record.coder.architecture, row.record.identity.quantiser


def _saes(table: Table) -> list[Row]:
    """Rows of trained SAEs; edited ones only where there are no others."""
    rows = [row for row in table.rows if not row.record.is_baseline]
    return [row for row in rows if row.status != "edited"] or rows


def _feasible(table: Table) -> list[Row]:
    return [row for row in _saes(table) if row.result.bits is not None]


def _has_modes(tables: Sequence[Table]) -> bool:
    """Whether some SAE is in another mode than the suite's own."""
    return any(row.record.identity.quantiser for table in tables for row in _saes(table))


def _kinds(tables: Sequence[Table]) -> list[Kind]:
    """What is drawn: the suite's own mode, and sweeps over width in any other.

    Where nothing in the suite's own mode meets a tolerance, all that does.
    """
    colours = family_colours(_kind_of(row)[0] for table in tables for row in _saes(table))
    keys = {_kind_of(row) for table in tables for row in _feasible(table)}
    order = sorted(keys, key=lambda key: (key[0], key[1] is not None, str(key[1])))
    found = [_kind(name, mode, colours[name]) for name, mode in order]
    own = _own(found)
    return [kind for kind in found if kind in own or _sweeps(kind, tables)]


def _kind(architecture: str, mode: str | None, colour: str) -> Kind:
    name = printable(with_quantiser(architecture, mode), NAME_LENGTH)
    return Kind(architecture, mode, name, colour, "o" if mode is None else mode_of(mode).marker)


def _small(kind: Kind, is_sweep: bool) -> Kind:
    """As it is drawn among other panels, where only sweeps have a colour."""
    return kind._replace(size=SMALL_MARK, colour=kind.colour if is_sweep else PALE)


def _own(kinds: Sequence[Kind]) -> list[Kind]:
    """Those in the suite's own mode, or all where there are none."""
    return [kind for kind in kinds if kind.mode is None] or list(kinds)


def _mode_note(kinds: Iterable[Kind], tables: Sequence[Table]) -> list[str]:
    """That all is in the suite's own mode, where other modes are left out."""
    is_own = all(kind.mode is None for kind in kinds)
    return [f"in {mode_name(None)}"] if _has_modes(tables) and is_own else []


def _sweeps(kind: Kind, tables: Iterable[Table]) -> bool:
    """Whether it is a sweep over width at some tolerance."""
    return any(is_sweep(map(_width, kind.rows(table))) for table in tables)


def _drawn(table: Table, kinds: Iterable[Kind]) -> list[Row]:
    """The shortest of each kind and width."""
    return [row for kind in kinds for row in best_per_width(kind.rows(table))]


def _bands(tables: Sequence[Table], kinds: Sequence[Kind]) -> Bands:
    """A band for each width of an SAE, with room for what is drawn at any tolerance."""
    widths = sorted({_width(row) for table in tables for row in _saes(table)})
    counts = [Counter(map(_width, _drawn(table, kinds))) for table in tables]
    room = (max(LEAST_BAND, *(1 + count[width] for count in counts)) for width in widths)
    return Bands(tuple(widths), tuple(accumulate(room, initial=0.0)) if widths else (0.0, 1.0))


def _by_width(kinds: Sequence[Kind], table: Table) -> list[tuple[Kind, list[Row]]]:
    """Architectures by width, each with the mark of its width and its rows by L0."""
    known = sorted(set(map(_width, _drawn(table, kinds))))
    markers = {width: MARKERS[i % len(MARKERS)] for i, width in enumerate(known)}
    groups = []
    for kind in kinds:
        rows = [row for row in kind.rows(table) if _l0(row) is not None]
        rows.sort(key=lambda row: _l0(row) or 0.0)
        widths = sorted(set(map(_width, rows)))
        for width in widths:
            name = f"{kind.name}, {width}" if len(widths) > 1 else kind.name
            look = kind._replace(name=name, marker=markers[width])
            groups.append((look, [row for row in rows if _width(row) == width]))
    return groups


def _joined(
    ax: Axes,
    kind: Kind,
    rows: Sequence[Row],
    places: Float64[np.ndarray, " row"],
    is_joined: bool,
) -> End:
    """Draw rows with their intervals, and rings around what is first; where they end.

    Args:
        ax: to draw on.
        kind: whose look they have.
        rows: from left to right.
        places: where they are across.
        is_joined: whether a line joins them.
    """
    bits = _values(rows, _bits)
    look = kind.look | ({} if is_joined else {"linestyle": ""})
    ax.errorbar(places, bits, yerr=_bars(rows), elinewidth=1.0, linewidth=1.2, capsize=1.5, **look)
    first = np.array([row.ranking.rank == 1 for row in rows])
    if first.any():
        ax.plot(places[first], bits[first], markersize=2 * kind.size, **RING)
    return End(float(places[-1]), float(bits[-1]), kind.name, kind.colour)


def _bits_against_width(
    ax: Axes, table: Table, kinds: Sequence[Kind], bands: Bands, size: float
) -> list[End]:
    """Draw the shortest SAE of each kind and width; where each kind ends."""
    drawn = _drawn(table, kinds)
    places = bands.places(drawn)
    _bands_axis(ax, bands, size)
    _bits_axis(ax, drawn, _baselines(table, kinds))
    ends = []
    for kind in kinds:
        if rows := best_per_width(kind.rows(table)):
            across = np.array([places[row.label] for row in rows])
            ends.append(_joined(ax, kind, rows, across, is_sweep(map(_width, rows))))
    met = set(map(_width, drawn))
    mark_missed(ax, [bands.middle(width) for width in bands.widths if width not in met], TOP, "")
    return ends


def _dead_against_width(ax: Axes, table: Table, kinds: Sequence[Kind], bands: Bands) -> None:
    """Draw the dead latents of what is drawn above, each below its bits."""
    from matplotlib.ticker import PercentFormatter

    drawn = _drawn(table, kinds)
    places = bands.places(drawn)
    _bands_axis(ax, bands, TICK)
    for kind in kinds:
        rows = best_per_width(kind.rows(table))
        look = kind.look | ({} if is_sweep(map(_width, rows)) else {"linestyle": ""})
        across = [places[row.label] for row in rows]
        ax.plot(across, _values(rows, _dead), linewidth=1.2, **look)
    most = max(0.05, *map(_dead, drawn)) if drawn else 0.05
    ax.set_ylim(-0.1 * most, 1.15 * most)
    _few_ticks(ax, 3)
    ax.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    ax.set_ylabel("dead")
    ax.set_xlabel("width: latents in the dictionary, a band for each")


def _bands_axis(ax: Axes, bands: Bands, size: float) -> None:
    """Every other band shaded, and every width written, upright where it has no room."""
    ax.set_xlim(bands.edges[0], bands.edges[-1])
    ax.set_xticks([bands.middle(width) for width in bands.widths], labels=map(str, bands.widths))
    ax.tick_params(labelsize=size)
    ax.tick_params(axis="x", length=0, rotation=90 if bands.depth(inches_of(ax)[0], size) else 0)
    ax.grid(axis="x", visible=False)
    for low, high in list(pairwise(bands.edges))[::2]:
        ax.axvspan(low, high, color=BAND, linewidth=0, zorder=0)


def _bits_axis(ax: Axes, drawn: Sequence[Row], baselines: Sequence[Row]) -> None:
    """Limits that hold the intervals and the baselines near them, with room on top for crosses."""
    ax.set_ylabel("bits per token")
    if not drawn:
        ax.text(
            0.5,
            0.75,
            "no SAE within ε",
            transform=ax.transAxes,
            ha="center",
            va="center",
            color=FAINT,
            bbox=BEHIND,
        )
    ends = [bits for row in drawn for bits in row.interval if bits is not None]
    low, high = min(ends, default=0.0) / SHORTER, max(ends, default=np.inf) * LONGER
    shown = [*ends, *(bits for bits in map(_known_bits, baselines) if low <= bits <= high)]
    if not shown:
        ax.set_yticks([])
        return
    _few_ticks(ax, 8)
    room = max(max(shown) - min(shown), 0.02 * max(shown))
    ax.set_ylim(min(shown) - 0.08 * room, max(shown) + 0.16 * room)


def _few_ticks(ax: Axes, most: int) -> None:
    """At most so many steps between short numbers on the vertical axis."""
    from matplotlib.ticker import MaxNLocator

    ax.yaxis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10]))


def _l0_axis(ax: Axes, drawn: Sequence[Row]) -> None:
    """Logarithmic where L0 differs much, so that what is sparse has room."""
    ax.set_xlabel("L0 (nonzero symbols per token, after quantisation)")
    places = _values(drawn, _l0)
    if len(places) and places.min() > 0 and places.max() > LOGARITHMIC * places.min():
        ax.set_xscale("log")
        plain_log_scale(ax.xaxis, np.log10(places.max() / places.min()))


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


def _baselines(table: Table, kinds: Iterable[Kind]) -> list[Row]:
    """Those that meet the tolerance in the modes of the SAEs, by bits."""
    modes = {kind.mode for kind in kinds} or {None}
    rows = [row for row in table.rows if row.record.is_baseline and row.result.bits is not None]
    return sorted((row for row in rows if _kind_of(row)[1] in modes), key=_known_bits)


def _baseline_names(rows: Iterable[Row]) -> list[str]:
    return [f"{printable(row.label, NAME_LENGTH)}: {_known_bits(row):,.0f}" for row in rows]


def _baseline_ends(ax: Axes, rows: Sequence[Row]) -> list[End]:
    """Draw baselines as lines; where they end, with an arrow at what is off the scale."""
    low, high = ax.get_ylim()
    ends = []
    for row, name in zip(rows, _baseline_names(rows), strict=True):
        bits = _known_bits(row)
        if low <= bits <= high:
            ax.axhline(bits, color=INK, linewidth=0.9, linestyle=(0, (5, 2, 1, 2)), zorder=1)
        arrow = " ↑" if bits > high else " ↓" if bits < low else ""
        ends.append(End(ax.get_xlim()[1], float(np.clip(bits, low, high)), name + arrow, INK))
    return ends


def _known_bits(row: Row) -> float:
    return row.result.bits or 0.0


def _mark(**look: Any) -> Artist:
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {"linestyle": "", "markersize": MARK}
    return Line2D([], [], **plain | look)


def _sweep_key(kinds: Sequence[Kind]) -> dict[str, Artist]:
    """The sweeps by name, and all others as one."""
    pale_last = sorted(kinds, key=lambda kind: kind.colour == PALE)
    names = ["other SAEs" if kind.colour == PALE else kind.name for kind in pale_last]
    marks = [_mark(**kind.look | {"linestyle": ""}) for kind in pale_last]
    return dict(zip(names, marks, strict=True))


def _mode_key(kinds: Iterable[Kind], tables: Sequence[Table]) -> dict[str, Artist]:
    """Marks of the modes, where SAEs are in several."""
    if not _has_modes(tables):
        return {}
    modes = {kind.mode: kind._replace(colour=FAINT) for kind in kinds}
    return {
        mode_name(mode): _mark(**modes[mode].look | {"linestyle": ""})
        for mode in sorted(modes, key=lambda mode: (mode is not None, mode or ""))
    }


def _width_key(groups: Iterable[tuple[Kind, Sequence[Row]]]) -> dict[str, Artist]:
    """Marks of the widths."""
    marks = {(_width(rows[0]), kind.marker) for kind, rows in groups}
    return {f"width {width}": _mark(color=FAINT, marker=marker) for width, marker in sorted(marks)}


def _rank_key(drawn: Iterable[Row], tables: Iterable[Table]) -> dict[str, Artist]:
    if not any(row.ranking.rank == 1 for row in drawn):
        return {}
    is_shared = any(sum(row.ranking.rank == 1 for row in table.rows) > 1 for table in tables)
    return {"rank 1, shared" if is_shared else "rank 1": _mark(**RING | {"markersize": 2 * MARK})}


def _missed_key(drawn: Sequence[Sequence[Row]], bands: Bands) -> dict[str, Artist]:
    misses = any(set(bands.widths) - set(map(_width, rows)) for rows in drawn)
    return {MISSED: _mark(**CROSS)} if misses else {}


def _first_elsewhere(table: Table, drawn: Sequence[Row], inches: float) -> list[str]:
    """What is first in another mode and is not drawn, in lines of so many inches."""
    labels = {row.label for row in drawn}
    first = [
        f"{printable(row.label, TITLE_LENGTH)} {_known_bits(row):.1f}"
        for row in _feasible(table)
        if row.ranking.rank == 1 and row.label not in labels and _kind_of(row)[1] is not None
    ]
    words = f"rank 1, in another mode: {', '.join(first)} bits" if first else ""
    return note_lines(words, inches)


def _left_inches(tables: Iterable[Table], size: float) -> float:
    """Room for an axis' name and the numbers on it."""
    most = max((row.result.bits or 0.0 for table in tables for row in table.rows), default=0.0)
    return 0.38 + text_inches(["0000", f"{most:.0f}"], size)


def _name_bits_axis(ax: Axes, left: float) -> None:
    """Put the name of the bits' axis at the figure's edge, which lies so many inches left."""
    ax.yaxis.set_label_coords((0.2 - left) / inches_of(ax)[0], 0.5)


def _foot_inches(n_entries: int, note: Sequence[str]) -> float:
    """The height of the axis' name, the marks' meanings, and small print."""
    return 0.5 + legend_inches(n_entries, COLUMNS) + NOTE * len(note)


def _foot(figure: Figure, entries: dict[str, Artist], note: Sequence[str]) -> None:
    legend_of_marks(figure, entries, COLUMNS)
    if note:
        note_below(figure, note, left=0.1, bottom=0.06 + legend_inches(len(entries), COLUMNS))
