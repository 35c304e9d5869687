"""The seal of a record file: a checksum of its content, so that no number changes unnoticed."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from mdlbench.disk.json_text import no_constant, parse_json
from mdlbench.errors import RecordError

CHECKSUM = "checksum"
"""Key of a record file that seals all others."""
_LINE = re.compile(r'^ "checksum": "([0-9a-f]{64})",\n', re.MULTILINE)
"""The checksum's line in a file as a record is written."""


def canonical(content: Any) -> str:
    """JSON with sorted keys and without spaces; raises `ValueError` for a NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def checksum_of(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a record file's content, without its own `checksum`."""
    return hashlib.sha256(canonical(unsealed(content)).encode()).hexdigest()


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its checksum."""
    return {key: value for key, value in content.items() if key != CHECKSUM}


def without_line(text: str) -> str:
    """The text of a record file without the checksum's line, where it is as it was written."""
    return _LINE.sub("", text, count=1)


def is_intact(text: str) -> bool:
    """Whether the content of a record file is the one that its checksum was made of."""
    if _is_as_written(text):
        return True
    try:
        check(text)
    except RecordError:
        return False
    return True


def _is_as_written(text: str) -> bool:
    """Whether the checksum is that of the text's own characters; False where they do not tell.

    Where no text in it has an escape, the canonical JSON is what is left without the spaces and
    line ends outside of quotes. Nothing has to be parsed for it.
    """
    line = _LINE.search(text)
    if line is None or "\\" in text:
        return False
    parts = (text[: line.start()] + text[line.end() :]).encode().split(b'"')
    parts[::2] = [part.translate(None, b" \n") for part in parts[::2]]
    return hashlib.sha256(b'"'.join(parts)).hexdigest() == line[1]


def check(text: str) -> None:
    """Raise `RecordError` unless the text is JSON without repeated keys, and has its checksum."""
    try:
        content = parse_json(text, no_constant)
    except ValueError as error:
        raise RecordError(f"not JSON: {error}") from error
    if not isinstance(content, dict) or CHECKSUM not in content:
        raise RecordError("not a record: it has no checksum")
    try:
        expected = checksum_of(content)
    except ValueError as error:
        raise RecordError(f"not a record: {error}") from error
    if content[CHECKSUM] != expected:
        raise RecordError("changed after it was written: the checksum does not match its content")
