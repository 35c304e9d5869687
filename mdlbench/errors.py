"""The errors a user can meet. Each message names the file, key or value at fault and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class MdlbenchError(Exception):
    """An expected failure: shown as one message, without a traceback. Exit code 1."""

    exit_code = 1


class UsageError(MdlbenchError):
    """The request itself is wrong: an unknown key, a bad option, nothing matched. Exit code 2."""

    exit_code = 2


class SuiteError(UsageError):
    """A suite file is missing, malformed, or holds something other than data."""


class HubError(MdlbenchError):
    """A model hub cannot be reached, lacks what was asked for, or refuses it."""


class SourceError(MdlbenchError):
    """There are no activations: no such hook point, too short a text, or they are not finite."""


class CheckpointError(MdlbenchError):
    """An SAE cannot be loaded: missing, truncated, mis-shaped, or with non-finite weights."""


class CoderError(MdlbenchError):
    """A loaded SAE misbehaves when run: wrong shapes or non-finite output."""


class TrainingError(MdlbenchError):
    """A training run cannot go on: its loss is no longer a number."""


class RecordError(MdlbenchError):
    """A record or bitstream cannot be read: truncated, of a newer schema, or inconsistent."""


class SpoolError(MdlbenchError):
    """Latents cannot be kept while an SAE is scored: no temporary folder, or no room in it."""


class OutputError(MdlbenchError):
    """A result cannot be written: unwritable folder, full disk."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of an "unknown NAME" message: the nearest valid choice, then all of them."""
    known = sorted(choices)
    if not known:
        return "There are none."
    return f"{nearest(name, known)}Known: {', '.join(known)}."


def nearest(name: str, choices: Iterable[str]) -> str:
    """Asks whether the nearest of the choices is meant; empty where none is near."""
    found = difflib.get_close_matches(name, sorted(choices), n=1, cutoff=0.4)
    return f"Did you mean {found[0]!r}? " if found else ""


ALIKE = 0.4
"""How alike two names must be for one to be suggested for the other, of at most 1."""


def nearest_paths(path: str, choices: Iterable[str], n: int) -> list[str]:
    """The n choices whose segments are most like a path's, of those that are like it, best first.

    What counts is how many segments are the same, then which of them, the first before the last,
    and only then how alike the others are: `layer_2/width_16k` is nearer to `layer_2/width_65k`
    than to `layer_12/width_16k`, where letter by letter it is the other way round.
    """
    wanted = path.split("/")
    ranked = sorted((_likeness(wanted, choice.split("/")), choice) for choice in choices)
    return [choice for likeness, choice in reversed(ranked) if likeness[2] >= ALIKE][:n]


def _likeness(wanted: list[str], found: list[str]) -> tuple[int, list[bool], float]:
    """How many segments are the same, which, and their mean likeness; aligned at either end."""
    n = max(len(wanted), len(found))
    ends = zip(wanted, found, strict=False), zip(wanted[::-1], found[::-1], strict=False)
    first, last = ([_alike(one, other) for one, other in end] for end in ends)
    return max(
        (each.count(1.0), [alike == 1.0 for alike in each], sum(each) / n)
        for each in (first, last[::-1])
    )


@lru_cache(1 << 16)
def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def first_line(error: Exception) -> str:
    """The first line of what an exception says; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def first_problem(error: ValidationError, root: str = "") -> str:
    """The first thing that does not fit a schema, as "key.of.it: message"; `root` has no key."""
    item = error.errors()[0]
    return f"{'.'.join(map(str, item['loc'])) or root}: {item['msg']}"
