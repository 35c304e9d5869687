"""`cache`: what is kept on this machine because it takes long to make."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from mdlbench.cli.options import JsonOption
from mdlbench.console.terminal import say
from mdlbench.errors import UsageError, shown

SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
"""Units of `--older-than`."""
AGE = re.compile(r"(?P<number>\d{1,9}) ?(?P<unit>[mhdw])")


class CacheAction(StrEnum):
    """What is done with the cache."""

    ls = "ls"
    clear = "clear"


class Kind(StrEnum):
    """What is kept."""

    activations = "activations"
    weights = "weights"
    damaged = "damaged"


def cache(
    action: Annotated[CacheAction, typer.Argument(help="ls: list what is kept; clear: remove it.")],
    kind: Annotated[Kind | None, typer.Option(help="Only entries of this kind.")] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only entries not used for this long: 30m, 12h, 7d, 4w."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the cache of converted weights and activations, or clear it without asking.

    Everything in it is made again when it is needed. Downloaded files are not in it.
    """
    from mdlbench.cli import rows
    from mdlbench.disk.cache import kept

    chosen = (None if kind is None else kind.value, _seconds(older_than))
    store = kept()
    if action is CacheAction.ls:
        rows.show(rows.cached(store.held(*chosen), as_json), as_json)
        return
    removed = store.clear(*chosen)
    if as_json:
        rows.show(rows.cached(removed, as_json), as_json)
        return
    entries = "1 entry" if len(removed) == 1 else f"{len(removed)} entries"
    say(f"{entries} removed, {rows.megabytes(removed)} freed")


def _seconds(age: str | None) -> float:
    if age is None:
        return 0.0
    found = AGE.fullmatch(age)
    if found is None:
        raise UsageError(f"--older-than {shown(age)} is not an age such as 30m, 12h, 7d or 4w")
    return float(found["number"]) * SECONDS[found["unit"]]
