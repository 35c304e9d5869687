"""Results in JSON files, each beside all that it depends on: made again only where that differs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mdlbench.disk.files import write_atomically

VERSION = 1
"""The version of what is measured; results of another one are measured again."""


def kept_result(file: Path, depends_on: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
    """What a file keeps of the same origin, or else what is measured now, and kept there.

    Args:
        file: of the result.
        depends_on: all that decides it, in what JSON has.
        measure: gives the result, in what JSON has.
    """
    origin = json.loads(json.dumps({"version": VERSION, **depends_on}))
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["depends_on"] == origin:
            return kept["result"]
    result = measure()
    content = {"depends_on": origin, "result": result}
    write_atomically(file, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return result
