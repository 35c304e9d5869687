"""What an experiment leaves in its folder; equal inputs give equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdlbench.console.markdown import markdown_table
from mdlbench.console.style import pdf, png
from mdlbench.disk.files import write_atomically
from mdlbench.report.tables import ABSENT, escape_markdown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write_outputs(
    folder: Path, figures: Mapping[str, Figure], table: pd.DataFrame, report: str
) -> list[Path]:
    """Write every figure as PNG and PDF, `table.csv` unrounded, `table.md`, and `report.md`.

    Args:
        folder: made if it is not there.
        figures: by file name, without a suffix.
        table: a row per measurement; NaN and None mean that there is nothing to say.
        report: Markdown.

    Returns:
        The paths of the files, the report's last.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    contents: dict[str, bytes] = {}
    for name, figure in figures.items():
        contents |= {f"{name}.png": png(figure), f"{name}.pdf": pdf(figure)}
    contents["table.csv"] = table.to_csv(index=False, lineterminator="\n").encode()
    contents["table.md"] = frame_as_markdown(table).encode()
    contents["report.md"] = report.encode()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def frame_as_markdown(table: pd.DataFrame) -> str:
    """A Markdown table: numbers to the right, to five significant digits; the rest to the left."""
    rows = ([_cell(value) for value in row] for row in table.itertuples(index=False))
    numeric = [dtype.kind in "iuf" for dtype in table.dtypes]
    return markdown_table(list(table.columns), rows, right=numeric) + "\n"


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else escape_markdown(str(value))
