"""From results folders to their pages."""

from __future__ import annotations

from pathlib import Path

from mdlbench.files import write_atomically
from mdlbench.leaderboard import Leaderboard, build_all, build_archive
from mdlbench.report import write_report
from mdlbench.report.page.write import PAGE, index_page, suite_page
from mdlbench.reproduction import standings
from mdlbench.store import RECORDS, REFERENCES, read_archive, read_records, read_references

TABLES = ("table.csv", "table.md", "archive.csv")


def write_pages(folder: Path, output: Path | None = None, pdf: bool = False) -> list[Path]:
    """Write the page of a results folder; of a folder of such, one for each and one over all.

    Args:
        folder: with `records` and `references.json`, or holding folders that have them.
        output: where to, with tables and figures; without it, only pages, into `folder` itself.
        pdf: whether figures are written as PDF, too.

    Returns:
        The paths of the pages written.

    Raises:
        RecordError: there are no records, or they cannot stand on one board.
        OutputError: a page cannot be written.
    """
    inner, root = results_within(folder), output or folder
    if _holds_results(folder) or not inner:
        if output is not None:
            _write_tables(folder, output, pdf)
        return [_write_page(folder, root, (root.parent / PAGE).is_file())[0]]
    if output is not None:
        for suite in inner:
            _write_tables(suite, output / suite.name, pdf)
    pages = [_write_page(suite, root / suite.name, True) for suite in inner]
    boards = [(path.parent.name, found) for path, found in pages]
    write_atomically(root / PAGE, index_page(boards))
    return [root / PAGE, *(path for path, _ in pages)]


def results_within(folder: Path) -> list[Path]:
    """The results folders right inside a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _holds_results(path))


def _holds_results(folder: Path) -> bool:
    return (folder / RECORDS).is_dir() and (folder / REFERENCES).is_file()


def _write_tables(folder: Path, output: Path, pdf: bool) -> None:
    write_report(read_records(folder), read_references(folder), output, read_archive(folder), pdf)


def _write_page(folder: Path, output: Path, has_index: bool) -> tuple[Path, list[Leaderboard]]:
    records, references = read_records(folder), read_references(folder)
    boards = build_all(records, references.headline)
    index = [("All suites", f"../{PAGE}")] if has_index else []
    tables = [(name, name) for name in TABLES if (output / name).is_file()]
    page = suite_page(
        records,
        references,
        boards=boards,
        standings=standings(records, folder),
        archive=build_archive(read_archive(folder), references.headline),
        links=[*index, *tables],
    )
    write_atomically(output / PAGE, page)
    return output / PAGE, boards
