"""A record file as bytes: not too large, proper JSON without surprises, and unchanged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mdlbench.errors import RecordError
from mdlbench.records.record import CHECKSUM, checksum_of

LARGEST_FILE = 16 << 20
"""The most bytes of a file; a record of 100 points has about 0.5 MB."""


def read(path: Path) -> str:
    """The text of a file that could be a record; raises `RecordError`."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise RecordError(f"{size:,} bytes are more than any record's ({LARGEST_FILE:,})")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot be read: {error}") from error


def check(text: str) -> None:
    """Raise `RecordError` unless the text is JSON without repeated keys, and has its checksum."""
    try:
        content = json.loads(text, object_pairs_hook=_unrepeated, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(content, dict) or CHECKSUM not in content:
        raise RecordError("not a record: it has no checksum")
    try:
        expected = checksum_of(content)
    except ValueError as error:
        raise RecordError(f"not a record: {error}") from error
    if content[CHECKSUM] != expected:
        raise RecordError("changed after it was written: the checksum does not match its content")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is repeated")
    return content


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
