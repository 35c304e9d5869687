"""The shortest SAE of each architecture at every tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mdlbench.boards.leaderboard import Leaderboard, Row, Table
from mdlbench.report.style import ALERT, CATEGORIES, FAINT, INK, house_style
from mdlbench.report.tables import TITLE_LENGTH, limit_name, printable
from mdlbench.statistics.metrics import in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_ABREAST = 4
NEAR = 1.8
"""Panels reach as far as this factor of the shortest SAE's bits; what is beyond is written."""


def families(board: Leaderboard) -> list[str]:
    """Architectures, each with the quantisers it was scored with: SAEs by name, then baselines."""
    rows = [row for table in board.tables for row in table.rows]
    return [
        name for _, name in sorted({(row.record.is_baseline, row.record.family) for row in rows})
    ]


def has_several(board: Leaderboard) -> bool:
    """Whether there is more than one kind of trained SAE to compare."""
    rows = [row for table in board.tables for row in table.rows]
    return len({row.record.family for row in rows if not row.record.is_baseline}) > 1


def architectures_figure(board: Leaderboard) -> Figure:
    """One panel per tolerance, one line per architecture: its shortest SAE, with its interval."""
    from matplotlib.figure import Figure

    names = families(board)
    tables = sorted(board.tables, key=lambda table: (in_order(table.metric), table.epsilon))
    n_lines = -(-len(tables) // PANELS_ABREAST)
    with house_style():
        height = n_lines * (0.21 * len(names) + 0.9) + 0.5
        figure = Figure(figsize=(12.5, height), layout="constrained")
        axes = figure.subplots(n_lines, PANELS_ABREAST, squeeze=False).flatten()
        for ax, table in zip(axes, tables, strict=False):
            _panel(ax, table, names)
        for ax in axes[len(tables) :]:
            ax.set_visible(False)
        for ax in axes[::PANELS_ABREAST]:
            ax.set_yticklabels([printable(name) for name in names])
        figure.suptitle(
            f"{printable(board.title, TITLE_LENGTH)}: the shortest SAE of each architecture, "
            "with its 95% interval (orange: rank 1)",
            x=0.01,
            ha="left",
            weight="bold",
        )
    return figure


def _panel(ax: Axes, table: Table, names: Sequence[str]) -> None:
    best = {name: _shortest(table, name) for name in names}
    saes = [row for row in best.values() if row and not row.record.is_baseline]
    least = min((row.result.bits for row in saes if row.result.bits is not None), default=1.0)
    ax.set_xlim(0.93 * least, NEAR * least)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), labels=[""] * len(names))
    ax.set_title(limit_name(table))
    ax.set_xlabel("bits per token")
    ax.grid(axis="x", visible=False)
    for line, row in enumerate(best.values()):
        _line(ax, line, row, (0.93 * least, 0.9 * NEAR * least))


def _shortest(table: Table, name: str) -> Row | None:
    """The architecture's row of fewest bits, unless edited; None where none is within ε."""
    shown = [row for row in table.rows if row.status != "edited"]
    rows = [row for row in shown if row.record.family == name and row.result.feasible]
    return min(rows, key=lambda row: row.result.bits or 0.0, default=None)


def _line(ax: Axes, line: int, row: Row | None, limits: tuple[float, float]) -> None:
    start: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "color": FAINT, **_SMALL}
    bits = None if row is None else row.result.bits
    if row is None or bits is None:
        ax.text(0.02, line, "misses ε", **start)
    elif bits < limits[0]:
        ax.text(0.02, line, f"← {bits:.0f} bits", **start)
    elif bits > limits[1]:
        ax.text(0.98, line, f"{bits:.0f} bits →", **start, ha="right")
    else:
        low, high = row.result.bits_ci or (bits, bits)
        colour = ALERT if row.ranking.rank == 1 else CATEGORIES[0]
        ax.plot([low, high], [line, line], color=colour, linewidth=2.2)
        ax.plot(bits, line, "o", color=colour, markersize=4)
        ax.annotate(
            f"{bits:.1f}", (high, line), (5, 0), textcoords="offset points", color=INK, **_SMALL
        )


_SMALL: dict[str, Any] = {"fontsize": 7, "va": "center"}
