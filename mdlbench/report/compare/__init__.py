"""A comparison to read: words and tables, data for programs, a figure. All of it in one call."""

from __future__ import annotations

from pathlib import Path

from mdlbench.boards.compare.contest import Contest
from mdlbench.disk.files import write_atomically


def write_comparison(contest: Contest, folder: Path) -> list[Path]:
    """Write `compare.png`, `.pdf`, `.csv`, `.json` and `.md`; the same records, the same bytes.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    from mdlbench.console.style import pdf, png
    from mdlbench.report.compare.data import to_csv, to_json
    from mdlbench.report.compare.figure import comparison_figure
    from mdlbench.report.compare.words import to_markdown

    figure = comparison_figure(contest)
    contents = {
        "compare.png": png(figure),
        "compare.pdf": pdf(figure),
        "compare.csv": to_csv(contest).encode(),
        "compare.json": to_json(contest).encode(),
        "compare.md": to_markdown(contest).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]
