"""From results folders to their pages."""

from __future__ import annotations

from pathlib import Path

from mdlbench.boards.leaderboard import Leaderboard, build_all, build_archive
from mdlbench.disk.files import write_atomically
from mdlbench.records.repetition import standings
from mdlbench.records.store import RECORDS, REFERENCES, read_archive, read_records, read_references
from mdlbench.report import write_report
from mdlbench.report.page.project import project_links
from mdlbench.report.page.write import PAGE, index_page, suite_page

TABLES = ("table.csv", "table.md", "archive.csv")


def write_pages(
    folder: Path, output: Path | None = None, whole: bool = False, pdf: bool = False
) -> list[Path]:
    """Write the page of a results folder; of a folder of such, one for each and one over all.

    Args:
        folder: with `records` and `references.json`, or holding folders that have them.
        output: where to; into `folder` itself by default.
        whole: whether tables and figures are written, too.
        pdf: whether those figures are written as PDF, too.

    Returns:
        The paths of the pages written.

    Raises:
        RecordError: there are no records, or they cannot stand on one board.
        OutputError: a page cannot be written.
    """
    inner, root = results_within(folder), output or folder
    if _holds_results(folder) or not inner:
        return [_publish(folder, root, (root.resolve().parent / PAGE).is_file(), whole, pdf)[0]]
    pages = [_publish(suite, root / suite.name, True, whole, pdf) for suite in inner]
    boards = [(path.parent.name, found) for path, found in pages]
    write_atomically(root / PAGE, index_page(boards, project_links(root)))
    return [root / PAGE, *(path for path, _ in pages)]


def results_within(folder: Path) -> list[Path]:
    """The results folders right inside a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _holds_results(path))


def _holds_results(folder: Path) -> bool:
    return (folder / RECORDS).is_dir() and (folder / REFERENCES).is_file()


def _publish(
    folder: Path, output: Path, has_index: bool, whole: bool, pdf: bool
) -> tuple[Path, list[Leaderboard]]:
    """Write a results folder's page, after its tables and figures where the `whole` is wanted."""
    records, references = read_records(folder), read_references(folder)
    archive = read_archive(folder)
    if whole:
        write_report(records, references, output, archive, pdf)
    boards = build_all(records, references.headline)
    index = [("All suites", f"../{PAGE}")] if has_index else []
    tables = [(name, name) for name in TABLES if (output / name).is_file()]
    page = suite_page(
        records,
        references,
        boards=boards,
        standings=standings(records, folder),
        archive=build_archive(archive, references.headline),
        links=[*index, *tables, *project_links(output)],
        has_records=(output / RECORDS).is_dir(),
    )
    write_atomically(output / PAGE, page)
    return output / PAGE, boards
