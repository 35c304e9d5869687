"""What `mdlbench ls` lists, as rows of plain values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdlbench.adapters import registry
from mdlbench.suite import load_suite, suite_names

Row = dict[str, Any]


def suites() -> list[Row]:
    """The shipped suites."""
    loaded = [load_suite(name) for name in suite_names()]
    return [
        {"suite": s.name, "title": s.title, "SAEs": len(s.saes), "digest": s.digest[:12]}
        for s in loaded
    ]


def adapters() -> list[Row]:
    """Built-in adapters and those of installed packages; none of them is imported."""
    return [
        {"adapter": entry.name, "package": entry.distribution, "what": entry.description}
        for entry in registry.adapters()
    ]


def records(folder: Path) -> list[Row]:
    """The records under a folder, by path."""
    from mdlbench.errors import RecordError
    from mdlbench.store import read_record

    rows: list[Row] = []
    for path in sorted(folder.glob("**/records/*.json")):
        try:
            record = read_record(path)
        except RecordError as error:
            rows.append({"file": str(path), "suite": "", "SAE": "", "state": str(error)})
            continue
        state = "partial" if record.partial else record.status
        suite = record.identity.suite
        rows.append({"file": str(path), "suite": suite, "SAE": record.name, "state": state})
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """Rows as a plain table; names in them are not read as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    Console().print(table)
