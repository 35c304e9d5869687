"""JSON as plain data, read in one way everywhere: no key twice, no half of a character."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def parse_json(text: str | bytes, constant: Callable[[str], Any] | None = None) -> Any:
    """What a JSON text holds.

    Args:
        text: the text, or its UTF-8.
        constant: gets `NaN`, `Infinity` and `-Infinity`, which are no JSON; floats by default.

    Raises:
        ValueError: it is not JSON, nests too deeply, gives a key twice in one object, or holds half
            of a character, which no file can.
    """
    decoded = text if isinstance(text, str) else text.decode("utf-8")
    try:
        content = json.loads(decoded, object_pairs_hook=_unrepeated, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _refuse_surrogates(decoded, content)
    return content


def no_constant(name: str) -> float:
    """A `constant` that refuses all three."""
    raise ValueError(f"{name} is not a JSON number")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {ascii(twice)[:80]} is repeated")
    return content


def _refuse_surrogates(text: str, content: Any) -> None:
    if "\\ud" in text.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ValueError(f"a text holds half of a character, U+{half:04X}") from error
