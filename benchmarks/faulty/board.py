"""A results folder with one record in it that is not as it should be, and all that reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from faulty import shown
from faulty.child import Ran, mdlbench
from faulty.outcome import Watch
from mdlbench.records.record import Identity
from mdlbench.records.seal import CHECKSUM, checksum_of

HONEST = Path(__file__).resolve().parents[2] / "leaderboards" / "toy"
N_HONEST = 2
RECORD = "hostile-000000000000.json"
NAMES_EDITED = ("leaderboard", "compare", "cite")
"""Commands that say on stderr that a record was edited."""


def make(folder: Path) -> tuple[Path, dict[str, Any]]:
    """`folder` with honest records, and the one to be broken: its path and content."""
    records = sorted((HONEST / "records").glob("*.json"), key=lambda path: path.stat().st_size)
    (folder / "records").mkdir(parents=True)
    for path in records[1 : 1 + N_HONEST]:
        shutil.copy(path, folder / "records")
    shutil.copy(HONEST / "references.json", folder)
    target = folder / "records" / RECORD
    shutil.copy(records[0], target)
    return target, json.loads(target.read_text())


def sealed(content: dict[str, Any]) -> str:
    """The record's text, with the id and the seal that its content asks for, where there are."""
    with suppress(ValueError, KeyError, TypeError):
        identity = json.dumps(content["identity"])
        content = content | {"id": Identity.model_validate_json(identity).id}
    with suppress(ValueError, RecursionError, TypeError):
        content = content | {CHECKSUM: checksum_of(content)}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def commands(record: str) -> Iterator[list[str]]:
    """All that reads records, in a folder that holds `board/`."""
    yield ["leaderboard", "board", "--all"]
    yield ["leaderboard", "board", "--json"]
    yield ["leaderboard", "board", "--html", "-o", "page"]
    for name in ("latex", "csv", "markdown"):
        yield ["leaderboard", "board", "--format", name]
    yield ["leaderboard", "board", "--format", "parquet", "-o", "table.parquet"]
    yield ["compare", record, "all", "--in", "board", "-o", "compared"]
    yield ["cite", record]
    yield ["validate", record]
    yield ["ls", "records", "board"]


def read_all(
    folder: Path, watch: Watch, *, honest_seal: bool = True, must_be_refused: bool = False
) -> None:
    """Run them all.

    Args:
        folder: that holds `board/`.
        watch: told what fails.
        honest_seal: whether the record's seal fits; whoever reads another says so.
        must_be_refused: whether `validate` may not call the record valid.
    """
    for arguments in commands(f"board/records/{RECORD}"):
        command = "mdlbench " + " ".join(arguments)
        ran = mdlbench(arguments, folder)
        content = watch.see(ran, command, says_on_stdout=arguments[0] == "validate")
        for problem in _problems(arguments, ran, folder):
            watch.blame(problem, command)
        silent = not honest_seal and arguments[0] in NAMES_EDITED and not ran.stderr.strip()
        if content and silent:
            watch.blame(f"{arguments[0]}: an edited record is read without a word", command)
        if content and must_be_refused and arguments[0] == "validate":
            watch.blame("validate calls it valid", command)


def _problems(arguments: list[str], ran: Ran, folder: Path) -> Iterator[str]:
    how = arguments[0] + (" --format" if "--format" in arguments else "")
    problems = [shown.on_terminal(ran.stdout) or shown.on_terminal(ran.stderr)]
    if ran.code == 0:
        problems += _in_documents(arguments, ran.stdout, folder)
    yield from (f"{how}: {problem}" for problem in problems if problem)


def _in_documents(arguments: list[str], said: str, folder: Path) -> Iterator[str | None]:
    if "csv" in arguments:
        yield shown.in_spreadsheet(said)
    if "latex" in arguments or "cite" in arguments:
        yield shown.in_latex(said)
    for page in (folder / "page").glob("*.html") if "--html" in arguments else ():
        yield shown.in_browser(page.read_text(encoding="utf-8", errors="replace"))
    for table in (folder / "compared").glob("*.csv") if "compare" in arguments else ():
        yield shown.in_spreadsheet(table.read_text(encoding="utf-8", errors="replace"))
