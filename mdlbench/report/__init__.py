"""What a suite's records look like to people: tables and figures. Everything in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdlbench.errors import RecordError
from mdlbench.files import write_atomically
from mdlbench.leaderboard import Leaderboard, build
from mdlbench.record import EvalRecord, References
from mdlbench.report.tables import to_csv, to_markdown, to_rich


def write_report(records: Sequence[EvalRecord], references: References, folder: Path) -> list[Path]:
    """Write `table.csv`, `table.md` and the figures of a suite; the same records, the same bytes.

    Returns:
        The paths of the files written.

    Raises:
        RecordError: the records cannot stand on one board, or are not of the references' suite.
        OutputError: the folder cannot be written, or the disk is full.
    """
    from mdlbench.report.figures import curves_figure
    from mdlbench.report.style import png
    from mdlbench.report.widths import tolerances_figure, width_figure

    board = build(records, references.headline)
    if (board.suite, board.suite_digest) != (references.suite, references.suite_digest):
        raise RecordError(
            f"the records are of suite {board.suite} ({board.suite_digest[:12]}), the references "
            f"of {references.suite} ({references.suite_digest[:12]}); run `mdlbench eval` again"
        )
    contents = {
        "table.csv": to_csv(board).encode(),
        "table.md": to_markdown(board).encode(),
        "curves.png": png(curves_figure(records, references)),
        "width.png": png(width_figure(board)),
        "tolerances.png": png(tolerances_figure(board)),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def print_board(board: Leaderboard, every_tolerance: bool = False) -> None:
    """The headline's table, or all of them, on the terminal."""
    from rich.console import Console

    console = Console()
    for table in board.tables if every_tolerance else [board.headline]:
        console.print(to_rich(table, board.suite))
