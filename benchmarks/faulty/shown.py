"""What may not reach a terminal, a spreadsheet, TeX or a browser, whatever is in a name."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser

BIDI = set("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)([eE][+-]?\d+)?")
MARKER = "pwned"
"""In every script that a hostile name would run."""
COMMANDS = re.compile(r"\\(input|write18|def|immediate)\b")


def on_terminal(text: str) -> str | None:
    """What a terminal would obey, in words; None where there is nothing of the kind."""
    for character in text:
        if character in BIDI:
            return f"U+{ord(character):04X} reaches the terminal"
        if unicodedata.category(character) == "Cc" and character not in "\n\t":
            return f"{_called(character)} reaches the terminal"
        if unicodedata.category(character) == "Cs":
            return "bytes that are no UTF-8 reach the terminal"
    return None


def _called(character: str) -> str:
    names = {"\x1b": "ESC", "\0": "NUL", "\r": "CR", "\a": "BEL", "\b": "BS"}
    return names.get(character, f"U+{ord(character):04X}")


def in_spreadsheet(text: str) -> str | None:
    """What a spreadsheet would run."""
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            if cell.lstrip(" ").startswith(FORMULA) and not NUMBER.fullmatch(cell.strip()):
                return f"a CSV cell starts with {cell.lstrip(' ')[0]!r} and is no number"
    return None


def in_latex(text: str) -> str | None:
    """What TeX would run."""
    found = COMMANDS.search(text)
    return f"LaTeX has \\{found[1]}" if found else None


def in_browser(text: str) -> str | None:
    """What a browser would run, or show as an element of the name's own."""
    page = _Page()
    page.feed(text)
    page.close()
    return next(page.problems(), None)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.kind: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.kind = values.get("type", "") if tag == "script" else None
        for name, value in values.items():
            if MARKER in value and (name.startswith("on") or name in ("src", "href", "srcdoc")):
                self.found.append(f"<{tag} {name}=…> comes from a name")
        if tag in ("iframe", "object", "embed", "base", "meta") and MARKER in str(values):
            self.found.append(f"<{tag}> comes from a name")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.kind = None

    def handle_data(self, data: str) -> None:
        if self.kind is not None and "json" not in self.kind and MARKER in data:
            self.found.append("a script holds a name")

    def problems(self) -> Iterator[str]:
        yield from self.found
