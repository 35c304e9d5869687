"""What a suite's records look like to people: tables and figures. Everything in one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mdlbench.boards.leaderboard import Leaderboard, build_all, build_archive, by_site
from mdlbench.console import style
from mdlbench.console.terminal import show, stdout_console
from mdlbench.disk.files import write_atomically
from mdlbench.errors import RecordError
from mdlbench.records.record import EvalRecord, References, SiteReferences
from mdlbench.records.store import ARCHIVE
from mdlbench.report.tables import archive_markdown, to_csv, to_markdown, to_rich

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mdlbench.suite.suite import Suite


def write_report(
    records: Sequence[EvalRecord],
    references: References,
    folder: Path,
    archive: Sequence[EvalRecord] = (),
    pdf: bool = False,
) -> list[Path]:
    """Write `table.csv`, `table.md` and the figures of a suite; the same records, the same bytes.

    Records of other versions of the suite (`archive`) have tables of their own, `archive.csv` and
    `archive.md`. With `pdf`, figures are written as PDF, too.

    Returns:
        The paths of the files written.

    Raises:
        RecordError: the records cannot stand on one board, or are not of the references' suite.
        OutputError: the folder cannot be written, or the disk is full.
    """
    boards = build_all(records, references.headline)
    drawings: dict[str, Callable[[], bytes]] = {
        "table.csv": lambda: to_csv(*boards).encode(),
        "table.md": lambda: to_markdown(*boards).encode(),
    }
    if archive:
        archived = build_archive(archive, references.headline)
        drawings["archive.csv"] = lambda: to_csv(*archived).encode()
        drawings["archive.md"] = lambda: archive_markdown(archived).encode()
    for board, group in zip(boards, by_site(records).values(), strict=True):
        references_there = references_of(group[0], references)
        for name, figure in _figures(board, group, references_there).items():
            drawings[f"{name}.png"] = partial(_drawn, figure, style.png)
            if pdf:
                drawings[f"{name}.pdf"] = partial(_drawn, figure, style.pdf)
    for name, draw in drawings.items():
        write_atomically(folder / name, draw())
    return [folder / name for name in drawings]


def print_boards(
    boards: Sequence[Leaderboard], every_tolerance: bool = False, suite: Suite | None = None
) -> None:
    """The headline's table of each, or all of them, on the terminal.

    Args:
        boards: to be shown.
        every_tolerance: whether all tables are shown.
        suite: that they are of, where it is not a shipped one.
    """
    console = stdout_console()
    for board in boards:
        for table in board.tables if every_tolerance else [board.headline]:
            show(console, to_rich(table, board.title, console.width, suite))


def archived(n_records: int, folder: Path) -> str:
    """A line on the records that a board does not show; empty where there are none."""
    if not n_records:
        return ""
    return (
        f"\n{n_records} results of other versions of the suite are in {folder / ARCHIVE}/ and not "
        "ranked here; archive.md has their tables.\n"
    )


def formatted(boards: Sequence[Leaderboard], name: str, every_tolerance: bool = False) -> bytes:
    """The boards as `latex`, `csv`, `markdown` or `parquet`.

    LaTeX shows the headline's tolerance unless asked for all; the other formats show all.
    """
    from mdlbench.report.exports import to_latex, to_parquet

    formats: dict[str, Callable[[], bytes]] = {
        "latex": lambda: to_latex(boards, every_tolerance).encode(),
        "csv": lambda: to_csv(*boards).encode(),
        "markdown": lambda: to_markdown(*boards).encode(),
        "parquet": lambda: to_parquet(boards),
    }
    return formats[name]()


def _drawn(figure: Callable[[], Figure], render: Callable[[Figure], bytes]) -> bytes:
    return render(figure())


def _figures(
    board: Leaderboard, records: Sequence[EvalRecord], references: SiteReferences
) -> dict[str, Callable[[], Figure]]:
    """The figures of one site by file name.

    Those of a loss that is not the headline's have it in their names, and where there are several
    sites, all have theirs. Bits are drawn against width where SAEs of several widths meet a
    tolerance.
    """
    from mdlbench.report.architectures import architectures_figure, has_several, tables_of
    from mdlbench.report.figures import curves_figure
    from mdlbench.report.widths import (
        has_widths,
        sparsity_figure,
        tolerances_figure,
        width_figure,
    )

    end = "" if board.site is None else f"-{_slug(board.site)}"
    found: dict[str, Callable[[], Figure]] = {}
    for metric in dict.fromkeys(table.metric for table in board.tables):
        which = "" if metric == board.headline.metric else f"-{metric}"
        if has_several(board):
            found[f"architectures{which}{end}"] = partial(architectures_figure, board, metric)
        curves = partial(curves_figure, records, references, board, metric)
        found[f"curves{which}{end}"] = curves
        if has_widths(tables_of(board, metric)):
            found[f"tolerances{which}{end}"] = partial(tolerances_figure, board, metric)
    if has_widths([board.headline]):
        found[f"width{end}"] = partial(width_figure, board)
    found[f"sparsity{end}"] = partial(sparsity_figure, board)
    return found


def _slug(site: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-")[:200]


def references_of(record: EvalRecord, references: References) -> SiteReferences:
    """Those of the record's data; raises `RecordError` where the folder has none."""
    for key in ("suite", "suite_digest", "protocol", "limit"):
        of_record, of_references = getattr(record.identity, key), getattr(references, key)
        if of_record != of_references:
            raise RecordError(
                f"the references are not those of the records: {key} is {str(of_references)[:12]} "
                f"there and {str(of_record)[:12]} in {record.name}; run `mdlbench eval` again"
            )
    found = references.of_data(record.identity.data_sha256)
    if found is None:
        raise RecordError(
            f"the references do not fit the records: none was computed from data "
            f"{record.identity.data_sha256[:12]} of {record.name}; run `mdlbench eval` again"
        )
    return found
