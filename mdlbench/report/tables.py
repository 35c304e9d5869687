"""A leaderboard as CSV, Markdown, and a table for the terminal."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from mdlbench.boards.leaderboard import Leaderboard, Row, Table, columns
from mdlbench.console.markdown import markdown_table
from mdlbench.console.terminal import INERT, Field, fitted_table, line_of
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.load import shipped_suite

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from mdlbench.records.record import EvalRecord
    from mdlbench.suite.suite import Suite

WORTH = ("Dead", "D", "L0", "Δ [95% CI]", "Rank", "Bits/token")
"""Columns of numbers on the terminal, those first that are left out first."""
LABEL_LENGTH = 60
TITLE_LENGTH = 120
ABSENT = "–"
FORMULA = ("=", "+", "-", "@")
"""What a cell begins with, perhaps after blanks, that a spreadsheet runs."""
NOTES = {
    "at_coarsest": "≤: no step of the grid exceeds the tolerance; fewer bits may do.",
    "non_monotone": "†: the loss exceeds the tolerance at one step, and is within it again at a "
    "coarser one.",
    "baseline": "Baselines are fitted or given, not trained: they stand in their place, without a "
    "rank.",
    "infeasible": "Infeasible: at the finest step the 95% limit of the loss exceeds the tolerance, "
    "so they have no rank.",
    "partial": "Partial: measured on some documents only, never ranked.",
    "edited": "Edited: the record was changed after it was written, so it has no rank.",
}
"""What is said below a table that has such a row: a mark of its bits, or its status."""


class Column(NamedTuple):
    """One column of a table that people read."""

    header: str
    justify: Literal["left", "right"]
    cell: Callable[[Row], str]


def to_csv(*boards: Leaderboard) -> str:
    """Long format: a line per site, tolerance and SAE, every column, floats unrounded."""
    buffer = io.StringIO()
    readers = columns(boards)
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["suite", "site", *readers])
    for board in boards:
        for table in board.tables:
            for row in table.rows:
                cells = (_csv_cell(read(row)) for read in readers.values())
                where = map(inert_cell, (board.suite, board.site or ""))
                writer.writerow([*where, *cells])
    return buffer.getvalue()


def to_markdown(*boards: Leaderboard) -> str:
    """One section per site and tolerance, the headline's first."""
    first = boards[0]
    parts = [
        f"# Leaderboard of {escape_markdown(first.suite)}",
        "Bits per token that it takes to send an SAE's quantised latents, with a codebook fitted "
        "on calibration data, such that the loss of the reconstruction is the tolerance: fewer is "
        "better. The bits are read off the SAE's rate-distortion curve, along the chord between "
        f"two measured steps. {_measured_on(first)}",
        "Rank: one more than the number of SAEs that are reliably shorter, by the 95% interval of "
        "their difference, paired over resampled documents; where the interval covers 0, two tie. "
        "An SAE with a wide interval, close to its floor, may rank before a shorter one. Δ is the "
        "difference to the best ranked SAE. D: latents in the dictionary. L0: nonzero symbols per "
        "token at the tolerance. Step: the coarsest whose loss is within the tolerance with 95% "
        "confidence. Bits at step, "
        "Coded: bits per token there, and those of a real bitstream, where one was written. "
        "Floor: loss of the unquantised reconstruction. Break-even: tokens after which the latents "
        "sent have cost as much as the decoder and the codebook.",
        f"Suite digest `{first.suite_digest[:12]}`, protocol {first.protocol}.",
    ]
    if len(boards) > 1:
        parts.append("SAEs are ranked within a site: one hook point, one packing of the text.")
    for board in boards:
        parts.extend(_markdown_board(board))
    return "\n\n".join(parts) + "\n"


def archive_markdown(boards: Sequence[Leaderboard]) -> str:
    """Sections of boards of older versions of a suite, each version's under its digest."""
    parts = [
        f"# Archive of {escape_markdown(boards[0].suite)}",
        "Measured with other versions of the suite than the current one. Numbers of different "
        "versions are not comparable, and are never ranked together.",
    ]
    for board in boards:
        parts.append(f"## Suite digest `{board.suite_digest[:12]}`, protocol {board.protocol}")
        parts.extend(_markdown_board(board, mark="###"))
    return "\n\n".join(parts) + "\n"


def _measured_on(board: Leaderboard) -> str:
    record = board.headline.rows[0].record
    text = f" of {escape_markdown(record.site.text)}" if record.site.text else ""
    return f"Measured on {record.n_tokens.test:,} test tokens{text}."


def _markdown_board(board: Leaderboard, mark: str = "##") -> Iterator[str]:
    if board.site is not None:
        yield f"{mark} {escape_markdown(board.site, TITLE_LENGTH)}"
        yield _measured_on(board)
        mark += "#"
    for i, table in enumerate(board.tables):
        yield f"{mark} {limit_name(table)}{_remarks(board, table, is_headline=i == 0)}"
        yield from _markdown_section(table)


def _remarks(board: Leaderboard, table: Table, is_headline: bool) -> str:
    """What is said of a tolerance beside its name, in brackets: (headline, tight)."""
    said = [
        remark
        for remark, holds in (("headline", is_headline), ("tight", is_tight(board, table)))
        if holds
    ]
    return f" ({', '.join(said)})" if said else ""


def is_tight(board: Leaderboard, table: Table) -> bool:
    """Whether a shipped suite states that its SAEs can hardly do better (maths §6)."""
    suite = shipped_suite(board.suite)
    if suite is None or suite.digest != board.suite_digest:
        return False
    return (table.metric, table.epsilon) in suite.tight


def to_rich(table: Table, title: str, width: int = 80, suite: Suite | None = None) -> Grid:
    """The table at one tolerance for a terminal; columns that do not fit are left out whole.

    Names are shown as they are, never as markup.

    Args:
        table: of a board.
        title: what the board is of.
        width: columns of the terminal.
        suite: that the records are of, where it is not a shipped one.
    """
    import rich.box

    notes = [measured_text(table.rows[0].record, suite), _nothing_ranked(table)]
    notes += _footnotes(table.rows)
    if table.of("infeasible"):
        notes.append("floor: infeasible, the loss even before quantisation is this large.")
    heading = f"{printable(title, TITLE_LENGTH)}: bits per token at {limit_name(table)}"
    columns = short_columns(lambda row: printable(row.label))
    result = fitted_table(
        [_field(column) for column in columns],
        [[column.cell(row) for column in columns] for row in table.rows],
        width,
        notes,
        title=line_of(heading, width),
        box=rich.box.SIMPLE_HEAD,
        padding=0,
    )
    for row, line in zip(table.rows, result.rows, strict=True):
        line.style = "" if row.status == "ranked" else "dim"
    return result


def _field(column: Column) -> Field:
    """What is left out first where not all fits: what says least about the rank."""
    if column.justify == "left":
        return Field(column.header, folds=True, worth=len(WORTH))
    return Field(column.header, column.justify, worth=WORTH.index(column.header))


def measured_text(record: EvalRecord, suite: Suite | None = None) -> str:
    """On which text a record was measured, and that it is not the suite's first; or nothing.

    Args:
        record: of any suite.
        suite: that it is of, where it is not a shipped one.
    """
    if record.site.text is None:
        return ""
    said = f"Measured on {record.n_tokens.test:,} test tokens of {printable(record.site.text)}"
    found = suite or shipped_suite(record.identity.suite)
    first = next(iter(found.source.text_names), None) if found else None
    if first is None or first == record.site.text:
        return f"{said}."
    return f"{said}, not of {printable(first)}, the suite's first text."


def limit_name(table: Table) -> str:
    """The tolerance of a table in words, as "MSE per dimension ≤ 0.015"."""
    return metric_of(table.metric).limit(table.epsilon)


def printable(name: str, length: int = LABEL_LENGTH) -> str:
    """A name from a checkpoint, fit to be shown: no control characters, not too long."""
    clean = "".join(c if c.isprintable() else "�" for c in name)
    if len(clean) <= length:
        return clean
    half = (length - 1) // 2
    return f"{clean[:half]}…{clean[-half:]}"


def escape_markdown(name: str, length: int = LABEL_LENGTH) -> str:
    """A name as inert text in a Markdown table: no cells, markup, HTML or code."""
    text = printable(name, length).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~$#!])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", text)


def _markdown_section(table: Table) -> list[str]:
    shown = [row for row in table.rows if row.status != "infeasible"]
    infeasible = table.of("infeasible")
    parts = [note for note in (_nothing_ranked(table), _least_difference(table)) if note]
    if shown:
        parts.append(_markdown_table(readable_columns(table), shown))
        parts.extend(_footnotes(shown))
    if infeasible:
        parts.append(NOTES["infeasible"])
        parts.append(_markdown_table(_infeasible_columns(table), infeasible))
    return parts


def _least_difference(table: Table) -> str | None:
    least = table.least_difference
    if least is None:
        return None
    return f"Neighbours in this table must be about {least:.2g} bits apart to differ beyond chance."


def _markdown_table(columns: list[Column], rows: Iterable[Row]) -> str:
    return markdown_table(
        [column.header for column in columns],
        ([_markdown_cell(column, row) for column in columns] for row in rows),
        right=[column.justify == "right" for column in columns],
    )


def _markdown_cell(column: Column, row: Row) -> str:
    return escape_markdown(column.cell(row)) if column.justify == "left" else column.cell(row)


def readable_columns(table: Table) -> list[Column]:
    """What people read of a table, all but infeasible SAEs\' floors in words."""
    return [
        Column("Rank", "right", _rank),
        Column("SAE", "left", lambda row: row.label),
        Column("Architecture", "left", lambda row: row.record.coder.architecture),
        Column("D", "right", lambda row: str(row.record.coder.d_latents)),
        Column("L0", "right", lambda row: _fixed(row.result.l0, 2)),
        Column("Bits/token", "right", _bits),
        Column("95% CI", "right", lambda row: _interval(*row.interval)),
        Column("Δ", "right", lambda row: _fixed(row.ranking.delta, 2)),
        Column("95% CI of Δ", "right", _difference_interval),
        Column("Step", "right", lambda row: _significant(row.result.step)),
        Column("Bits at step", "right", lambda row: _fixed(row.bits_at_step, 2)),
        Column("Coded", "right", lambda row: _fixed(row.coded, 2)),
        _floor_column(table),
        Column("Dead", "right", lambda row: f"{row.record.coder.dead_fraction:.1%}"),
        Column("Decoder bits", "right", lambda row: _prefixed(row.record.coder.decoder_bits)),
        Column("Break-even", "right", lambda row: _prefixed(row.record.coder.break_even_tokens)),
    ]


def _infeasible_columns(table: Table) -> list[Column]:
    return [
        Column("SAE", "left", lambda row: row.label),
        Column("Architecture", "left", lambda row: row.record.coder.architecture),
        Column("D", "right", lambda row: str(row.record.coder.d_latents)),
        Column("L0 unquantised", "right", lambda row: _fixed(row.record.coder.l0, 2)),
        _floor_column(table),
        Column("Dead", "right", lambda row: f"{row.record.coder.dead_fraction:.1%}"),
    ]


def short_columns(name: Callable[[Row], str] = lambda row: row.label) -> list[Column]:
    """What fits beside each other on a terminal or a page of a paper."""
    return [
        Column("Rank", "right", _rank),
        Column("SAE", "left", name),
        Column("D", "right", lambda row: str(row.record.coder.d_latents)),
        Column("L0", "right", lambda row: _fixed(row.result.l0, 1)),
        Column("Bits/token", "right", _bits_and_half_width),
        Column("Δ [95% CI]", "right", _difference),
        Column("Dead", "right", lambda row: f"{row.record.coder.dead_fraction:.1%}"),
    ]


def _floor_column(table: Table) -> Column:
    metric = metric_of(table.metric)
    return Column(f"Floor {metric.label}", "right", lambda row: metric.written(row.floor))


_UNRANKED = {
    "baseline": "baseline",
    "unranked": "not ranked",
    "partial": "partial",
    "edited": "edited",
}


def _rank(row: Row) -> str:
    if row.ranking.rank is not None:
        return str(row.ranking.rank)
    return _UNRANKED.get(row.status, ABSENT)


def _bits(row: Row) -> str:
    if row.result.bits is None:
        return ABSENT
    marks = ("≤ " if row.result.at_coarsest else "", "†" if row.result.non_monotone else "")
    return f"{marks[0]}{row.result.bits:.2f}{marks[1]}"


def _bits_and_half_width(row: Row) -> str:
    if row.result.bits_ci is None:
        return f"floor {metric_of(row.result.metric).written_short(row.floor)}"
    low, high = row.result.bits_ci
    return f"{_bits(row)} ± {(high - low) / 2:.2f}"


def _difference(row: Row) -> str:
    return f"{_fixed(row.ranking.delta, 2)} {_difference_interval(row)}".removesuffix(f" {ABSENT}")


def _difference_interval(row: Row) -> str:
    """Absent for the best ranked SAE itself, whose difference is 0 in every resample."""
    is_first = row.ranking.delta_low == row.ranking.delta_high == 0
    return ABSENT if is_first else _interval(row.ranking.delta_low, row.ranking.delta_high)


def _footnotes(rows: Iterable[Row]) -> list[str]:
    rows = list(rows)
    notes = []
    if any(row.result.at_coarsest for row in rows):
        notes.append(NOTES["at_coarsest"])
    if any(row.result.non_monotone for row in rows):
        notes.append(NOTES["non_monotone"])
    for status in ("baseline", "edited"):
        if any(row.status == status for row in rows):
            notes.append(NOTES[status])
    return notes


def _nothing_ranked(table: Table) -> str:
    if table.of("ranked"):
        return ""
    if all(row.status == "partial" for row in table.rows):
        return "Nothing is ranked: all records are partial (made with `--limit`)."
    return "Nothing is ranked at this tolerance."


def _fixed(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _significant(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}"


def _interval(low: float | None, high: float | None) -> str:
    return ABSENT if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _prefixed(value: float | None) -> str:
    """A large count with its SI prefix: 1.23 M."""
    if value is None:
        return ABSENT
    for size, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def _csv_cell(value: float | int | str | bool | None) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else inert_cell(value)


def inert_cell(value: object) -> object:
    """A cell of a CSV; a text that a spreadsheet would run as a formula has an apostrophe.

    A carriage return, which would begin a row of its own, is shown as `INERT`.
    """
    if not isinstance(value, str):
        return value
    text = value.replace("\r", INERT)
    runs = text.startswith("\t") or text.lstrip().startswith(FORMULA)
    return f"'{text}" if runs else text
