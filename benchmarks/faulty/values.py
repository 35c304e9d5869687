"""Values that stand where none of the kind was expected."""

from __future__ import annotations

from typing import NamedTuple


class Hostile(NamedTuple):
    """A value as JSON text.

    Attributes:
        name: in reports.
        text: of the JSON.
        nonsense: whether nobody can mean it where a number or a word stands.
    """

    name: str
    text: str
    nonsense: bool = False


HOSTILE = [
    Hostile("null", "null"),
    Hostile("true", "true"),
    Hostile("NaN", "NaN", True),
    Hostile("infinity", "Infinity", True),
    Hostile("1e400", "1e400", True),
    Hostile("-1", "-1"),
    Hostile("0", "0"),
    Hostile("0.5", "0.5"),
    Hostile("10^9", "1000000000"),
    Hostile("10^12", "1000000000000"),
    Hostile("10^400", "1" + "0" * 400),
    Hostile("5,000 digits", "9" * 5000),
    Hostile("empty text", '""'),
    Hostile("text", '"nosuch"'),
    Hostile("a number as text", '"4"'),
    Hostile("a lone surrogate", '"\\ud800"', True),
    Hostile("ESC in text", '"\\u001b[31mred\\u0000"'),
    Hostile("a list", "[1, 2]"),
    Hostile("an object", '{"a": {"b": null}}'),
    Hostile("deep nesting", "[" * 30_000 + "]" * 30_000),
    Hostile("deep objects", '{"a":' * 900 + "1" + "}" * 900),
    Hostile("10 MB of text", '"' + "x" * 10_000_000 + '"'),
    Hostile("a long list", "[" + "0," * 1_000_000 + "0]"),
]
MARK = "\ue000here\ue000"
"""Stands in a JSON text for a hostile value until the text is made."""
