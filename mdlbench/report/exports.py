"""Tables for papers and for further work: LaTeX with booktabs, Parquet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdlbench.boards.leaderboard import Leaderboard, Table, columns
from mdlbench.console.terminal import inert
from mdlbench.report.tables import TITLE_LENGTH, limit_name, printable, short_columns

if TYPE_CHECKING:
    import pandas as pd

LATEX = {
    "Δ": r"$\Delta$",
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "–": "--",
    "†": r"$^\dagger$",
    "→": r"$\rightarrow$",
    "…": r"\dots{}",
    "�": "?",
}
"""Characters of our own tables that pdflatex lacks."""
PACKAGES = r"% \usepackage{booktabs,longtable}"


def to_latex(boards: Sequence[Leaderboard], every_tolerance: bool = False) -> str:
    """A `longtable` for the headline of each board, or for every tolerance. Names are escaped."""
    tables = [
        _latex_table(board, table)
        for board in boards
        for table in (board.tables if every_tolerance else [board.headline])
    ]
    return "\n".join([PACKAGES, *tables])


def to_parquet(boards: Sequence[Leaderboard]) -> bytes:
    """Long format, as the CSV: a row per site, tolerance and SAE, every column."""
    buffer = io.BytesIO()
    _long_frame(boards).to_parquet(buffer, index=False)
    return buffer.getvalue()


def latex_text(text: str) -> str:
    """Text with everything escaped that LaTeX reads as more than itself."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **LATEX,
    }
    return "".join(special.get(character, character) for character in inert(text))


def _latex_table(board: Leaderboard, table: Table) -> str:
    columns = short_columns()
    title = f"{printable(board.title, TITLE_LENGTH)}: bits per token at {limit_name(table)}"
    lines = [[latex_text(column.header) for column in columns]]
    lines += [[latex_text(column.cell(row)) for column in columns] for row in table.rows]
    header, *body = (" & ".join(line) + r" \\" for line in lines)
    layout = "".join("l" if column.justify == "left" else "r" for column in columns)
    return "\n".join(
        [
            r"{\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\begin{{longtable}}{{{layout}}}",
            rf"\caption{{{latex_text(title)}.}} \\",
            r"\toprule",
            header,
            r"\midrule",
            r"\endhead",
            r"\bottomrule",
            r"\endfoot",
            *body,
            r"\end{longtable}}",
            "",
        ]
    )


def _long_frame(boards: Sequence[Leaderboard]) -> pd.DataFrame:
    import pandas as pd

    readers = columns(boards)
    return pd.DataFrame(
        [
            {
                "suite": board.suite,
                "site": board.site or "",
                **{name: read(row) for name, read in readers.items()},
            }
            for board in boards
            for table in board.tables
            for row in table.rows
        ]
    )
