"""What a suite's records look like to people: tables and figures. Everything in one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mdlbench.errors import RecordError
from mdlbench.files import write_atomically
from mdlbench.leaderboard import Leaderboard, build_all, build_archive, by_site
from mdlbench.record import EvalRecord, References, SiteReferences
from mdlbench.report.tables import archive_markdown, to_csv, to_markdown, to_rich


def write_report(
    records: Sequence[EvalRecord],
    references: References,
    folder: Path,
    archive: Sequence[EvalRecord] = (),
) -> list[Path]:
    """Write `table.csv`, `table.md` and the figures of a suite; the same records, the same bytes.

    Records of other versions of the suite (`archive`) have tables of their own, `archive.csv` and
    `archive.md`.

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
        drawings |= _figures(board, group, _references_of(group[0], references))
    for name, draw in drawings.items():
        write_atomically(folder / name, draw())
    return [folder / name for name in drawings]


def print_boards(boards: Sequence[Leaderboard], every_tolerance: bool = False) -> None:
    """The headline's table of each, or all of them, on the terminal."""
    from rich.console import Console

    console = Console()
    for board in boards:
        for table in board.tables if every_tolerance else [board.headline]:
            console.print(to_rich(table, board.title))


def _figures(
    board: Leaderboard, records: Sequence[EvalRecord], references: SiteReferences
) -> dict[str, Callable[[], bytes]]:
    """The figures of one site by file name, the site in it where there are others."""
    from mdlbench.report.architectures import architectures_figure, has_several
    from mdlbench.report.figures import curves_figure
    from mdlbench.report.style import png
    from mdlbench.report.widths import tolerances_figure, width_figure

    end = ".png" if board.site is None else f"-{_slug(board.site)}.png"
    several = has_several(board)
    return {
        **({f"architectures{end}": lambda: png(architectures_figure(board))} if several else {}),
        f"curves{end}": lambda: png(curves_figure(records, references, board)),
        f"width{end}": lambda: png(width_figure(board)),
        f"tolerances{end}": lambda: png(tolerances_figure(board)),
    }


def _slug(site: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", site.lower()).strip("-")[:200]


def _references_of(record: EvalRecord, references: References) -> SiteReferences:
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
            f"the references are not those of the records: none is of data "
            f"{record.identity.data_sha256[:12]} of {record.name}; run `mdlbench eval` again"
        )
    return found
