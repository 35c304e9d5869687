"""The shortest SAE of each architecture at every tolerance of a loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.console.labels import NOTE, SIZE, note_below, note_lines, text_inches
from mdlbench.console.style import (
    ALERT,
    CATEGORIES,
    FAINT,
    INK,
    Margins,
    house_style,
    legend_inches,
    legend_of_marks,
    panels,
)
from mdlbench.quantisers.modes import mode_of
from mdlbench.report.tables import ABSENT, TITLE_LENGTH, printable
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABREAST = 3
"""Most panels in a line."""
NEAR = 5.0
"""Panels hold what takes up to so many times the shortest SAE's bits."""
MARGIN = 0.06
"""Room left and right of a panel's intervals, as a share of what they span."""
WIDTH = 1.02
"""Inches of a panel."""
APART, LINE = 0.06, 0.14
"""Inches between an architecture's modes, and between its last one and the next architecture."""
GAP = 0.1
"""Inches between a panel and the column of bits right of it, which carets leave room for."""
NAME_LENGTH = 26
LEFT, RIGHT = 8, 9
"""Carets that begin at their place, as matplotlib numbers its markers."""

Mode = str | None
"""A quantiser's name; None is the suite's own."""


class Marked(NamedTuple):
    """Bits, and the ends of their interval."""

    low: float
    bits: float
    high: float


class Panel(NamedTuple):
    """What is drawn of a table.

    Attributes:
        title: the tolerance.
        lines: of each architecture, its shortest row in each mode; None where there is none.
        reach: the bits at the panel's ends.
    """

    title: str
    lines: list[list[Row | None]]
    reach: tuple[float, float]

    @property
    def rows(self) -> list[Row]:
        return [row for line in self.lines for row in line if row is not None]

    @property
    def numbers(self) -> list[str]:
        """The bits of each architecture in the first mode."""
        first = [line[0] for line in self.lines]
        return [ABSENT if row is None else f"{_marked(row).bits:.1f}" for row in first]


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
    """Those within some ε, by bits in the first mode at that of `sorted_at`: SAEs, then baselines.

    What has none there comes last, by its bits in another mode.
    """
    tables = tables_of(board, metric)
    modes = _modes(tables)
    found = {
        (row.record.is_baseline, row.record.coder.architecture)
        for table in tables
        for row in _shown(table)
    }
    at = _shown(sorted_at(board, metric))

    def place(key: tuple[bool, str]) -> tuple[bool, float, float, str]:
        best = _best(at, key[1], modes)
        bits = [float("inf") if row is None else _marked(row).bits for row in best]
        return key[0], bits[0], min(bits), key[1]

    return [name for _, name in sorted(found, key=place)]


def architectures_figure(board: Leaderboard, metric: MetricName | None = None) -> Figure:
    """One panel per tolerance of a loss, one line per architecture: its shortest SAE in each mode.

    Right of a panel stand the bits in the first mode.

    Args:
        board: of one site.
        metric: the loss; the headline's by default.
    """
    metric = board.headline.metric if metric is None else metric
    tables = tables_of(board, metric)
    names, modes = sorted_architectures(board, metric), _modes(tables)
    shown = [_panel(table, names, modes) for table in tables]
    words = [printable(name, NAME_LENGTH) for name in names]
    left, column = 0.15 + text_inches(words), _column_inches(shown)
    abreast, beside = _abreast(len(shown)), column + 0.12
    width = left + abreast * (WIDTH + beside)
    note = note_lines(_note(modes[0], sorted_at(board, metric)), width)
    key, columns = _key(shown, modes), 2 * abreast - 1
    foot = legend_inches(len(key), columns)
    below = 0.52 + foot + NOTE * len(note)
    with house_style():
        figure, axes = panels(
            WIDTH,
            [max(1, len(names)) * _pitch(modes) + 0.06] * -(-len(shown) // abreast),
            Margins(left, beside, below, above=0.25, between=(beside, 0.7)),
            f"{printable(board.title, TITLE_LENGTH)}: the shortest SAE of each architecture",
            abreast,
        )
        for ax, panel in zip(axes, shown, strict=False):
            _draw(ax, panel, modes)
            _write_numbers(ax, panel, column)
        for ax in axes[len(shown) :]:
            ax.remove()
        for ax in axes[::abreast]:
            ax.set_yticklabels(words)
        legend_of_marks(figure, key, columns)
        note_below(figure, note, left=0.1, bottom=0.1 + foot)
    return figure


def _abreast(n_panels: int) -> int:
    """Panels in a line, such that lines are as long as one another."""
    return -(-n_panels // -(-n_panels // ABREAST))


def _column_inches(shown: Iterable[Panel]) -> float:
    """From a panel's right edge to the right end of its numbers."""
    return GAP + text_inches(number for panel in shown for number in panel.numbers)


def _short(table: Table) -> str:
    return metric_of(table.metric).short_limit(table.epsilon)


def _shown(table: Table) -> list[Row]:
    """The rows within ε, unless edited."""
    return [row for row in table.rows if row.status != "edited" and row.result.bits is not None]


def _modes(tables: Iterable[Table]) -> list[Mode]:
    """The suite's own mode first, then the others by name."""
    found = {row.record.identity.quantiser for table in tables for row in _shown(table)}
    return sorted(found or {None}, key=lambda mode: (mode is not None, mode or ""))


def _best(rows: Sequence[Row], architecture: str, modes: Sequence[Mode]) -> list[Row | None]:
    """An architecture's row of fewest bits in each mode; None where there is none."""
    found: dict[Mode, Row] = {}
    for row in sorted(rows, key=lambda row: _marked(row).bits):
        if row.record.coder.architecture == architecture:
            found.setdefault(row.record.identity.quantiser, row)
    return [found.get(mode) for mode in modes]


def _marked(row: Row) -> Marked:
    bits = row.result.bits or 0.0
    low, high = row.result.bits_ci or (bits, bits)
    return Marked(low, bits, high)


def _panel(table: Table, names: Sequence[str], modes: Sequence[Mode]) -> Panel:
    rows = _shown(table)
    lines = [_best(rows, name, modes) for name in names]
    return Panel(_short(table), lines, _reach([row for line in lines for row in line if row]))


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
    margin = MARGIN * ((high - low) or least)
    return low - margin, high + margin


def _pitch(modes: Sequence[Mode]) -> float:
    """Inches from one architecture to the next."""
    return LINE + APART * (len(modes) - 1)


def _draw(ax: Axes, panel: Panel, modes: Sequence[Mode]) -> None:
    n_lines = len(panel.lines)
    ax.set_xlim(panel.reach)
    ax.set_ylim(max(1, n_lines) - 0.5, -0.5)
    ax.set_yticks(range(n_lines), labels=[""] * n_lines)
    ax.tick_params(labelsize=SIZE)
    ax.tick_params(axis="y", length=0, pad=6)
    ax.set_title(panel.title, fontsize=8.5)
    ax.set_xlabel("bits per token", fontsize=8.5)
    ax.grid(axis="x", visible=False)
    step = APART / _pitch(modes)
    for at, line in enumerate(panel.lines):
        for i, (row, mode) in enumerate(zip(line, modes, strict=True)):
            if row is not None:
                _mark(ax, at + (i - (len(modes) - 1) / 2) * step, row, mode)


def _write_numbers(ax: Axes, panel: Panel, column: float) -> None:
    """Write each architecture's bits so many inches right of the panel, where they end."""
    for at, number in enumerate(panel.numbers):
        ax.annotate(
            number,
            (1.0, at),
            (72 * column, 0),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            color=FAINT if number == ABSENT else INK,
            fontsize=SIZE,
        )


def _mark(ax: Axes, at: float, row: Row, mode: Mode) -> None:
    """Draw the bits with their interval, and a caret at each end where they leave the panel."""
    low, high = ax.get_xlim()
    marked = _marked(row)
    look: dict[str, Any] = {"color": _colour(row), "clip_on": False}
    ends = [min(max(end, low), high) for end in (marked.low, marked.high)]
    ax.plot(ends, [at, at], linewidth=1.3, **look)
    if low <= marked.bits <= high:
        ax.plot(marked.bits, at, **look, **_look(mode))
    if marked.low < low:
        ax.plot(low, at, marker=LEFT, markersize=4, **look)
    if marked.high > high:
        ax.plot(high, at, marker=RIGHT, markersize=4, **look)


def _colour(row: Row) -> str:
    return ALERT if row.ranking.rank == 1 else CATEGORIES[0]


def _look(mode: Mode) -> dict[str, Any]:
    """A filled mark for the suite's own mode, a hollow one for another."""
    if mode is None:
        return {"marker": "o", "markersize": 4}
    look = {"markersize": 4.5, "markerfacecolor": "white", "markeredgewidth": 0.8}
    return look | {"marker": mode_of(mode).marker}


def mode_name(mode: Mode) -> str:
    """What a mode is called in a figure."""
    return "the suite's own mode" if mode is None else f"[{mode}]"


def _key(shown: Sequence[Panel], modes: Sequence[Mode]) -> dict[str, Artist]:
    """What the marks mean that are drawn."""
    from matplotlib.lines import Line2D

    entries: dict[str, Artist] = {}
    if len(modes) > 1:
        for mode in modes:
            entries[mode_name(mode)] = Line2D([], [], linestyle="", color=FAINT, **_look(mode))
    if any(row.ranking.rank == 1 for panel in shown for row in panel.rows):
        entries["rank 1"] = Line2D([], [], color=ALERT, linewidth=2)
    if any(_is_beyond(row, panel.reach) for panel in shown for row in panel.rows):
        caret: dict[str, Any] = {"marker": RIGHT, "markersize": 4, "linestyle": ""}
        entries["out of view"] = Line2D([], [], color=FAINT, **caret)
    return entries


def _is_beyond(row: Row, reach: tuple[float, float]) -> bool:
    """Whether some of a row's interval is out of view."""
    marked = _marked(row)
    return marked.low < reach[0] or marked.high > reach[1]


def _note(mode: Mode, at: Table) -> str:
    limit = _short(at).replace(" ", "\N{NO-BREAK SPACE}")
    return (
        f"Numbers: bits in {mode_name(mode)} ({ABSENT}: none within ε). Rows are sorted by those "
        f"at {limit}, baselines last. Bars: 95% intervals."
    )
