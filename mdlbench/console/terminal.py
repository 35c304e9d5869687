"""What a command prints: inert on a terminal, whole in a pipe, and printable in any encoding."""

from __future__ import annotations

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

INERT = "�"
"""Stands for a character that a terminal would act on."""
BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, and with it what a name seems to be."""
LOOK_ALIKES = {"≤": "<=", "≥": ">=", "±": "+-", "≈": "~", "–": "-", "…": "...", "→": "->"}
"""What is printed where an encoding lacks a character; "?" for any other."""
LEAST_WIDTH = 12
"""Characters to which a column of text is folded at most."""
ENDLESS = 1 << 20
"""Columns of what is no terminal."""


def inert(text: str) -> str:
    """Text without what a terminal acts on, line breaks and tabs aside.

    Control characters, those that turn the writing direction, and halves of characters are shown
    as `INERT`.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_inert, text))


def _inert(character: str) -> str:
    if character in "\n\t":
        return character
    acts = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI
    return INERT if acts else character


def say(text: object = "", end: str = "\n", to_stderr: bool = False) -> None:
    """Print a text; nothing in it can do anything to a terminal."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.write(inert(str(text)) + end)
    stream.flush()


def print_anything() -> None:
    """Let both streams take every character, whatever their encoding."""
    codecs.register_error("look-alike", _look_alike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="look-alike")


def _look_alike(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(LOOK_ALIKES.get(character, "?") for character in missing), error.end


def stdout_console() -> Console:
    """Stdout for rich. Where it is no terminal, and COLUMNS is not set, lines are never folded."""
    from rich.console import Console

    console = Console()
    is_endless = not console.is_terminal and "COLUMNS" not in os.environ
    return Console(width=ENDLESS) if is_endless else console


class Field(NamedTuple):
    """A column of a table on the terminal.

    Attributes:
        header: its own name.
        justify: where its cells stand.
        folds: whether its cells are text that may go on in the next line; numbers never do.
        worth: where not all columns fit, those of least worth are left out first.
    """

    header: str
    justify: Literal["left", "right"] = "left"
    folds: bool = False
    worth: int = 0

    def least_width(self, cells: Iterable[str]) -> int:
        """So many characters it needs."""
        natural = max(map(len, (self.header, *cells)))
        return min(natural, max(LEAST_WIDTH, len(self.header))) if self.folds else natural


def fitting(widths: Sequence[int], fields: Sequence[Field], width: int) -> list[int]:
    """Which columns are shown beside each other: as many as fit, at least the one worth most.

    Args:
        widths: that the columns need.
        fields: the columns.
        width: of the terminal.
    """
    kept = list(range(len(fields)))
    while len(kept) > 1 and sum(widths[i] + 1 for i in kept) + 1 > width:
        kept.remove(min(kept, key=lambda i: (fields[i].worth, -i)))
    return kept


def line_of(text: str, width: int) -> Text:
    """Text above or below a table: folded on a terminal, and as long as it is elsewhere."""
    from rich.text import Text

    if width < ENDLESS:
        return Text(inert(text))
    return Text(inert(text), no_wrap=True, overflow="ignore")


def fitted_table(
    fields: Sequence[Field],
    rows: Sequence[Sequence[str]],
    width: int,
    notes: Iterable[str] = (),
    **options: Any,
) -> Table:
    """A table of the columns that fit, none of them cut. Cells are never read as markup.

    Those that are left out are named below it.

    Args:
        fields: its columns.
        rows: a cell for each column.
        width: of the terminal.
        notes: lines below it; empty ones are left out.
        options: of rich's table.
    """
    from rich.table import Table
    from rich.text import Text

    widths = [field.least_width(row[i] for row in rows) for i, field in enumerate(fields)]
    kept = fitting(widths, fields, width)
    missing = ", ".join(field.header for i, field in enumerate(fields) if i not in kept)
    lines = [*notes, f"Left out, as the terminal is too narrow: {missing}." if missing else ""]
    caption = line_of("\n".join(line for line in lines if line), width)
    table = Table(caption=caption if caption else None, caption_justify="left", **options)
    for i in kept:
        field = fields[i]
        table.add_column(
            Text(field.header),
            justify=field.justify,
            no_wrap=not field.folds,
            overflow="fold",
            min_width=widths[i],
        )
    for row in rows:
        table.add_row(*(Text(inert(row[i])) for i in kept))
    return table


def show(console: Console, table: Table) -> None:
    """Print a table; one that needs more than the console's width goes beyond it, uncut."""
    needed = sum((column.min_width or 0) + 1 for column in table.columns) + 1
    console.width = max(console.width, needed)
    console.print(table)


def about(seconds: float) -> str:
    """A time as precisely as it can be foretold."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.0f} {unit}"
    return f"about {seconds:.0f} s"
