"""What a suite's records look like to people: tables and figures. Everything in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    _refuse_difference(records[0], references)
    drawings: dict[str, Callable[[], bytes]] = {
        "table.csv": lambda: to_csv(board).encode(),
        "table.md": lambda: to_markdown(board).encode(),
        "curves.png": lambda: png(curves_figure(records, references)),
        "width.png": lambda: png(width_figure(board)),
        "tolerances.png": lambda: png(tolerances_figure(board)),
    }
    for name, draw in drawings.items():
        write_atomically(folder / name, draw())
    return [folder / name for name in drawings]


def print_board(board: Leaderboard, every_tolerance: bool = False) -> None:
    """The headline's table, or all of them, on the terminal."""
    from rich.console import Console

    console = Console()
    for table in board.tables if every_tolerance else [board.headline]:
        console.print(to_rich(table, board.suite))


def _refuse_difference(record: EvalRecord, references: References) -> None:
    for key in ("suite", "suite_digest", "protocol", "data_sha256", "limit"):
        of_record, of_references = getattr(record.identity, key), getattr(references, key)
        if of_record != of_references:
            raise RecordError(
                f"the references are not those of the records: {key} is {str(of_references)[:12]} "
                f"there and {str(of_record)[:12]} in {record.name}; run `mdlbench eval` again"
            )
