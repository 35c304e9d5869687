"""A comparison on the terminal. Tables that are too wide go on below; nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mdlbench.boards.compare.contest import Contest, Placing
from mdlbench.console.terminal import inert, line_of, show, stdout_console
from mdlbench.report.compare.words import answer, curve_notes, curve_rows, title_of
from mdlbench.report.tables import ABSENT, TITLE_LENGTH, printable
from mdlbench.statistics.metrics import metric_of

TABLE_COLUMNS = 4
"""Most columns beside the names."""
NAME_WIDTH = 12
"""Characters that a name has at least before it is folded."""
EDGES = 2
"""Characters of a table's left and right edges."""


def print_comparison(contest: Contest) -> None:
    """The tables and what they say, on the terminal."""
    console = stdout_console()
    for table in _curves(contest, console.width):
        show(console, table)
    for note in curve_notes(contest):
        _item(console, note)
    if contest.tolerances:
        console.print()
        for table in _tolerances(contest, console.width):
            show(console, table)
        for at in contest.tolerances:
            _item(console, answer(contest, at))


def _item(console: Console, text: str) -> None:
    """A line of a list, and those that it goes on in."""
    console.print(Padding.indent(Text(inert(f"- {text}")), 1))


def _curves(contest: Contest, width: int) -> Iterator[Table]:
    title = f"{title_of(contest)}, against {contest.anchor.name}"
    header = ("SAE", "BD-bits [95%]", "BD-rate % [95%]", "Overlap", "Diff. %")
    return _tables(title, header, curve_rows(contest), width)


def _tolerances(contest: Contest, width: int) -> Iterator[Table]:
    """Contenders by tolerances; rows in the order given."""
    columns = [{placing.name: placing for placing in at.placings} for at in contest.tolerances]
    anchor = contest.anchor.name
    rows = [
        (one.name, *(_tolerance_cell(column[one.name], column[anchor]) for column in columns))
        for one in contest.contenders
    ]
    header = ("SAE", *(f"≤ {at.epsilon:g}" for at in contest.tolerances))
    title = f"Bits per token at {metric_of(contest.metric).label}; difference to {anchor} ± 95%"
    return _tables(title, header, rows, width)


def _tolerance_cell(placing: Placing, anchor: Placing) -> str:
    """The anchor's bits, and everybody's difference to it; bits where the anchor has none."""
    if placing.bits is None:
        return ABSENT
    if placing.to_anchor is None:
        return f"{placing.bits:.2f}" if placing is anchor else f"({placing.bits:.2f})"
    gap = placing.to_anchor
    mark = "" if gap.sign else "≈ "
    return f"{mark}{gap.bits:+.2f} ± {(gap.high - gap.low) / 2:.2f}"


def _tables(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[Table]:
    """One below another, each with the names and as many of the columns as fit beside them."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    name_width = min(widths[0], NAME_WIDTH)
    room = width - EDGES - name_width
    for i, columns in enumerate(_shares(widths[1:], room)):
        spare = room - sum(1 + widths[1 + column] for column in columns)
        table = _table(header, rows, columns, name_width + max(spare, 0))
        table.title = None if i else line_of(printable(title, TITLE_LENGTH), width)
        yield table


def _shares(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns that go together, in order: at most `TABLE_COLUMNS`, and no more than fit."""
    shares: list[list[int]] = [[]]
    for column, width in enumerate(widths):
        used = sum(1 + widths[other] for other in shares[-1])
        if shares[-1] and (len(shares[-1]) == TABLE_COLUMNS or used + 1 + width > room):
            shares.append([])
        shares[-1].append(column)
    return shares


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[int], name_width: int
) -> Table:
    """Names as they are, never as markup, and columns of what follows them."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column(Text(header[0]), overflow="fold", max_width=name_width)
    for column in columns:
        words = " ".join([header[1 + column], *(row[1 + column] for row in rows)]).split()
        table.add_column(
            Text(header[1 + column]),
            justify="right",
            overflow="fold",
            min_width=max(map(len, words), default=0),
        )
    for name, *cells in rows:
        table.add_row(Text(printable(name)), *(Text(cells[column]) for column in columns))
    return table
