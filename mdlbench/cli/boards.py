"""`leaderboard`, `compare` and `cite`: what records say, for readers and for papers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdlbench.cli.options import JsonOption, SuiteFileOption, output_option
from mdlbench.console.terminal import say
from mdlbench.errors import UsageError
from mdlbench.statistics.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mdlbench.boards.leaderboard import Leaderboard


class Format(StrEnum):
    """Formats of a table, beside the terminal's."""

    latex = "latex"
    csv = "csv"
    markdown = "markdown"
    parquet = "parquet"


def leaderboard(
    folder: Annotated[
        Path,
        typer.Argument(
            help="A results folder, such as results/mnist; or NAME for results/NAME or "
            "leaderboards/NAME."
        ),
    ],
    output: Annotated[
        Path | None,
        output_option("Folder to write tables and figures to; with --format, the file."),
    ] = None,
    html: Annotated[
        bool,
        typer.Option(
            "--html",
            help="Write index.html, a page in one file, into the folder; with -o, write it there "
            "with tables and figures. A folder of results folders gets a page for each and one "
            "that lists them.",
        ),
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="Show every tolerance.")] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="With -o: figures as PDF, too.")] = False,
    table_format: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Print the table for a paper or for further work; csv, markdown and parquet have "
            "every tolerance.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank the records of a folder. With -o, write tables and figures.

    With --html, write a web page: one file that needs no network.
    """
    from mdlbench.boards.leaderboard import build_all, to_json
    from mdlbench.records.store import read_archive, read_records, read_references, results_folder
    from mdlbench.report import archived, print_boards, write_report

    _refuse_contradictions(output, html, pdf, table_format, as_json)
    folder = results_folder(folder)
    if html:
        _write_pages(folder, output, pdf)
        return
    records, references = read_records(folder), read_references(folder)
    archive = read_archive(folder)
    whole = every or as_json or table_format is not None
    boards = build_all(records, references.headline, whole)
    if table_format is not None:
        _write_table(boards, table_format, every, output)
        return
    if output is not None:
        write_report(records, references, output, archive, pdf)
    if as_json:
        say(to_json(boards))
    else:
        print_boards(boards, every_tolerance=every)
        say(archived(len(archive), folder), end="")


def _refuse_contradictions(
    output: Path | None, html: bool, pdf: bool, table_format: Format | None, as_json: bool
) -> None:
    if sum((html, table_format is not None, as_json)) > 1:
        raise UsageError("--html, --format and --json cannot be combined")
    if pdf and table_format is not None:
        raise UsageError("--pdf and --format cannot be combined")
    if pdf and output is None:
        raise UsageError("--pdf needs -o FOLDER")


def _write_pages(folder: Path, output: Path | None, pdf: bool) -> None:
    from mdlbench.report.page import write_pages

    for path in write_pages(folder, output, whole=output is not None, pdf=pdf):
        say(path)


def _write_table(
    boards: Sequence[Leaderboard], table_format: Format, every: bool, file: Path | None
) -> None:
    from mdlbench.disk.files import write_atomically
    from mdlbench.report import formatted

    content = formatted(boards, table_format.value, every)
    if file is not None:
        write_atomically(file, content)
    elif table_format is Format.parquet:
        raise UsageError("--format parquet is not text: give a file with -o FILE")
    else:
        say(content.decode(), end="")


def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C …]",
            help="Each is a record file, an id or its start, an SAE's name as on the board, a "
            'family ("all topk", "all topk [tree]"), or "all": every family not named.',
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--in",
            metavar="FOLDER",
            help="Results folder, or its name, in which ids and names are looked up "
            "[the only one under results/].",
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(METRICS)} [the headline's].")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Only this tolerance [all of the metric's].")
    ] = None,
    output: Annotated[
        Path | None, output_option("Folder to write compare.png, .pdf, .csv, .json and .md into.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare SAEs, or families of them, with the first, the anchor.

    Prints average differences of whole curves that are comparable (BD-bits, BD-rate), where they
    cross, and which SAE is shortest at each tolerance, with paired 95% intervals.
    """
    from mdlbench.boards.compare.choice import choose
    from mdlbench.boards.compare.contest import compare as compare_all
    from mdlbench.report.compare import write_comparison
    from mdlbench.report.compare.data import to_json
    from mdlbench.report.compare.terminal import print_comparison

    choice = choose(words, folder)
    contest = compare_all(choice.contenders, metric or choice.metric, epsilon)
    paths = [] if output is None else write_comparison(contest, output)
    if as_json:
        say(to_json(contest), end="")
        return
    print_comparison(contest)
    if paths:
        say(f"\n{output}/ holds {', '.join(path.name for path in paths)}.")


def cite(
    records: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RECORD", help="Records to write a methods paragraph for."),
    ] = None,
    suite: SuiteFileOption = None,
) -> None:
    """Print BibTeX entries and, for each RECORD, a methods paragraph in LaTeX."""
    from mdlbench.records.checks import suite_of
    from mdlbench.records.store import all_record_paths, read_intact_record
    from mdlbench.report.citation import bibtex, methods
    from mdlbench.suite.load import load_suite

    chosen = load_suite(suite) if suite else None
    for path in all_record_paths(records or []):
        record = read_intact_record(path)
        say(methods(record, suite_of(record, chosen)))
    say(bibtex(), end="")
