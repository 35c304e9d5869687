"""The shortest SAE of each architecture at every tolerance of a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.console.labels import text_inches
from mdlbench.console.style import (
    ALERT,
    CATEGORIES,
    FAINT,
    INK,
    Margins,
    house_style,
    legend_of_marks,
    panels,
)
from mdlbench.quantisers.modes import mode_of
from mdlbench.report.tables import TITLE_LENGTH, printable
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABREAST = 3
NEAR = 3.0
"""Panels hold what takes up to so many times the shortest SAE's bits; the rest is written."""
MARGINS = (0.05, 0.25)
"""Room left and right of a panel's intervals, as shares of what they span: bits stand right."""
WIDTH = 1.5
"""Inches of a panel."""
NAME_LENGTH = 26
SMALL: dict[str, Any] = {"fontsize": 7, "va": "center"}

Mode = str | None
"""A quantiser's name; None is the suite's own."""


def has_several(board: Leaderboard) -> bool:
    """Whether there is more than one kind of trained SAE to compare."""
    rows = [row for table in board.tables for row in table.rows]
    return len({row.record.family for row in rows if not row.record.is_baseline}) > 1


def tables_of(board: Leaderboard, metric: MetricName) -> list[Table]:
    """The board's tables of a loss, the tightest first."""
    return sorted((t for t in board.tables if t.metric == metric), key=lambda table: table.epsilon)


def sorted_at(board: Leaderboard, metric: MetricName) -> Table:
    """By whose bits architectures are sorted: the headline, or the middle one of another loss."""
    tables = tables_of(board, metric)
    return board.headline if board.headline.metric == metric else tables[len(tables) // 2]


def sorted_architectures(board: Leaderboard, metric: MetricName) -> list[str]:
    """Those that are within some ε, by bits at one: SAEs in the suite's own mode, then baselines.

    What misses that ε comes last. Where there is nothing in the suite's own mode, the shortest of
    the others decides.
    """
    tables = tables_of(board, metric)
    found = {
        (row.record.is_baseline, row.record.coder.architecture)
        for table in tables
        for row in _shown(table)
    }
    at = sorted_at(board, metric)

    def place(key: tuple[bool, str]) -> tuple[bool, bool, float, str]:
        rows = [row for row in _shown(at) if row.record.coder.architecture == key[1]]
        own = [row for row in rows if row.record.identity.quantiser is None] or rows
        bits = min((row.result.bits or 0.0 for row in own), default=float("inf"))
        return key[0], not rows, bits, key[1]

    return [name for _, name in sorted(found, key=place)]


def architectures_figure(board: Leaderboard, metric: MetricName | None = None) -> Figure:
    """One panel per tolerance of a loss, one line per architecture: its shortest SAE in each mode.

    Args:
        board: of one site.
        metric: the loss; the headline's by default.
    """
    metric = board.headline.metric if metric is None else metric
    names, tables = sorted_architectures(board, metric), tables_of(board, metric)
    modes = _modes(tables)
    n_lines = -(-len(tables) // ABREAST)
    line = 0.15 + 0.045 * (len(modes) - 1)
    words = [printable(name, NAME_LENGTH) for name in names]
    with house_style():
        figure, axes = panels(
            WIDTH,
            [max(1, len(names)) * line + 0.1] * n_lines,
            Margins(0.15 + text_inches(words), 0.2, 0.72, above=0.25, between=(0.25, 0.7)),
            f"{printable(board.title, TITLE_LENGTH)}: the shortest SAE of each architecture with "
            f"its 95% interval, sorted by bits at {_short(sorted_at(board, metric))}",
            abreast=min(ABREAST, len(tables)),
        )
        for ax, table in zip(axes, tables, strict=False):
            _panel(ax, table, names, modes)
        for ax in axes[len(tables) :]:
            ax.remove()
        for ax in axes[::ABREAST]:
            ax.set_yticklabels(words, fontsize=8)
        legend_of_marks(figure, _key(axes, modes), columns=4)
    return figure


def _short(table: Table) -> str:
    return metric_of(table.metric).short_limit(table.epsilon)


def _shown(table: Table) -> list[Row]:
    """The rows within ε, unless edited."""
    return [row for row in table.rows if row.status != "edited" and row.result.bits is not None]


def _modes(tables: Iterable[Table]) -> list[Mode]:
    """The suite's own mode first, then the others by name."""
    found = {row.record.identity.quantiser for table in tables for row in _shown(table)}
    return sorted(found, key=lambda mode: (mode is not None, mode or ""))


def _panel(ax: Axes, table: Table, names: Sequence[str], modes: Sequence[Mode]) -> None:
    rows = _shown(table)
    lines = {
        name: [
            _shortest((row for row in rows if row.record.coder.architecture == name), mode)
            for mode in modes
        ]
        for name in names
    }
    ax.set_xlim(_reach([row for line in lines.values() for row in line if row is not None]))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), labels=[""] * len(names))
    ax.tick_params(axis="y", length=0)
    ax.set_title(_short(table), fontsize=8.5)
    ax.set_xlabel("bits per token")
    ax.grid(axis="x", visible=False)
    for line, name in enumerate(names):
        _line(ax, line, lines[name], modes)


def _reach(rows: Sequence[Row]) -> tuple[float, float]:
    """Where a panel begins and ends: it holds the intervals of what is near the shortest SAE.

    Baselines that are longer than all SAEs do not widen it, nor does what takes no bits.
    """
    costly = [row for row in rows if row.result.bits]
    saes = [row for row in costly if not row.record.is_baseline] or costly
    least = min((_marked(row).bits for row in saes), default=1.0)
    near = [one for one in map(_marked, costly) if one.bits >= least / NEAR]
    ends = [one.high for one in map(_marked, saes) if one.bits <= NEAR * least]
    low, high = min((one.low for one in near), default=least), max(ends, default=2 * least)
    left, right = (share * ((high - low) or least) for share in MARGINS)
    return low - left, high + right


def _shortest(rows: Iterable[Row], mode: Mode) -> Row | None:
    """The row of fewest bits in a mode; None where there is none."""
    found = [row for row in rows if row.record.identity.quantiser == mode]
    return min(found, key=lambda row: row.result.bits or 0.0, default=None)


def _line(ax: Axes, line: int, best: Sequence[Row | None], modes: Sequence[Mode]) -> None:
    """An architecture's marks, a mode below the other, and the bits in the first mode."""
    found = [(row, mode) for row, mode in zip(best, modes, strict=True) if row is not None]
    low, high = ax.get_xlim()
    bits = [row.result.bits or 0.0 for row, _ in found]
    faint: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "color": FAINT, **SMALL}
    if not found:
        ax.text(0.02, line, "misses ε", **faint)
    elif not any(low <= value <= high for value in bits):
        is_left = max(bits) < low
        words = f"← {max(bits):.0f}" if is_left else f"{min(bits):.0f} →"
        ax.text(0.02 if is_left else 0.98, line, words, ha="left" if is_left else "right", **faint)
    else:
        marks = [_mark(ax, line, row, mode, modes) for row, mode in found]
        if best[0] is not None and low <= marks[0].bits <= high:
            _say_bits(ax, line, marks[0].bits, [one for one in marks if low <= one.bits <= high])


def _say_bits(ax: Axes, line: int, bits: float, shown: Sequence[Marked]) -> None:
    """Write the bits beside the marks, to the right where there is room."""
    low, high = ax.get_xlim()
    first, last = min(end.low for end in shown), max(end.high for end in shown)
    room = 0.2 * (high - low)
    is_right = last < high - room or first < low + room
    ax.annotate(
        f"{bits:.1f}",
        (last if is_right else first, line),
        (4 if is_right else -4, 0),
        textcoords="offset points",
        ha="left" if is_right else "right",
        color=INK,
        **SMALL,
    )


class Marked(NamedTuple):
    """Bits that are drawn, and the ends of their interval."""

    low: float
    bits: float
    high: float


def _marked(row: Row) -> Marked:
    bits = row.result.bits or 0.0
    low, high = row.result.bits_ci or (bits, bits)
    return Marked(low, bits, high)


def _mark(ax: Axes, line: int, row: Row, mode: Mode, modes: Sequence[Mode]) -> Marked:
    """Draw the bits with their interval."""
    marked = _marked(row)
    at = line + 0.5 * (modes.index(mode) / max(1, len(modes) - 1) - 0.5) if modes[1:] else line
    colour = ALERT if row.ranking.rank == 1 else CATEGORIES[0]
    ax.plot([marked.low, marked.high], [at, at], color=colour, linewidth=1.3)
    ax.plot(marked.bits, at, color=colour, **_look(mode))
    return marked


def _look(mode: Mode) -> dict[str, Any]:
    """A filled mark for the suite's own mode, a hollow one for another."""
    if mode is None:
        return {"marker": "o", "markersize": 4}
    look = {"markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 0.8}
    return look | {"marker": mode_of(mode).marker}


def _key(axes: Sequence[Axes], modes: Sequence[Mode]) -> dict[str, Artist]:
    """What the marks mean that are drawn."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {}
    if len(modes) > 1:
        for mode in modes:
            name = "the suite's own mode, with its bits" if mode is None else f"[{mode}]"
            entries[name] = Line2D([], [], linestyle="", color=FAINT, **_look(mode))
    drawn = [line for ax in axes if ax.figure for line in ax.lines if line.get_marker() != "None"]
    if any(line.get_color() == ALERT for line in drawn):
        entries["rank 1"] = Line2D([], [], color=ALERT, linewidth=2)
    return entries
