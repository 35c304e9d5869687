"""The errors a user can meet. Each message names the file, key or value at fault and what to do."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class MdlbenchError(Exception):
    """An expected failure: shown as one message, without a traceback. Exit code 1."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Its message and attributes, whatever its constructor takes."""
        return _raised_elsewhere, (type(self), self.args, self.__dict__)


class MdlbenchWarning(UserWarning):
    """What a user should know of although the work goes on: shown as one line on stderr."""


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


class MemoryShortageError(MdlbenchError):
    """The memory of the machine, or of its device, does not suffice."""


class RecordError(MdlbenchError):
    """A record or bitstream cannot be read: truncated, of a newer schema, or inconsistent."""


class SpoolError(MdlbenchError):
    """Latents cannot be kept while an SAE is scored: no temporary folder, or no room in it."""


class OutputError(MdlbenchError):
    """A result cannot be written: unwritable folder, full disk."""


class WorkerError(MdlbenchError):
    """Workers of another process cannot be had, differ from this one, or die again and again."""


def _raised_elsewhere(
    kind: type[MdlbenchError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> MdlbenchError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


SHOWN = 60
"""Characters of a foreign text that a message repeats; what is longer is cut."""
LISTED = 12
"""Foreign names that a message lists."""
SAID = 300
"""Characters of what a foreign library says that a message repeats."""


def shown(text: str) -> str:
    """A foreign text in quotes, control characters escaped, cut where it is long."""
    return repr(text) if len(text) <= SHOWN else f"{text[:SHOWN]!r}…"


LONGEST_WORD = 1000
"""Characters of a word in a message; a path may have some hundreds."""


def readable(message: str) -> str:
    """A message as it is printed: words that are longer than any path are cut."""
    return re.sub(rf"\S{{{LONGEST_WORD + 1},}}", lambda word: f"{word[0][:LONGEST_WORD]}…", message)


def listed(names: Iterable[str]) -> str:
    """Foreign names in order, as far as a message has room for them."""
    known = sorted(names)
    more = f" and {len(known) - LISTED:,} more" if len(known) > LISTED else ""
    return ", ".join(_plain(name, SHOWN) for name in known[:LISTED]) + more


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The tail of an "unknown NAME" message: the nearest valid choice, then all of them."""
    known = sorted(choices)
    if not known:
        return "There are none."
    return f"{nearest(name, known)}Known: {', '.join(known)}."


def nearest(name: str, choices: Iterable[str]) -> str:
    """Asks whether the nearest of the choices is meant; empty where none is near."""
    found = difflib.get_close_matches(name[:SHOWN], sorted(choices), n=1, cutoff=0.4)
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


SHORTAGES = (
    "out of memory",
    "an't allocate memory",
    "annot allocate memory",
    "nable to allocate",
    "ALLOC_FAILED",
)
"""What libraries and systems say where memory does not suffice, first letters apart."""
_PLACE = re.compile(r"\[enforce fail at [^]]*\] [^.]*\. ")
"""Where in PyTorch's own source an allocation failed."""


def shortage(error: BaseException) -> MemoryShortageError | None:
    """What an exception says of too little memory; None for one that says something else.

    PyTorch raises exceptions that differ by device, NumPy a `MemoryError`, a system an `OSError`.
    """
    if isinstance(error, MemoryShortageError):
        return error
    said = _PLACE.sub("", first_line(error))
    told = not isinstance(error, MdlbenchError) and any(each in said for each in SHORTAGES)
    if not told and not isinstance(error, MemoryError):
        return None
    return MemoryShortageError(
        f"memory does not suffice: {said.rstrip('.')}; free some, or ask for less at once"
    )


def heed_shortage(error: BaseException) -> None:
    """Raise `MemoryShortageError` if that is what an exception says, before a file is blamed.

    What its frames hold is let go, so that the next SAE has that memory.
    """
    if found := shortage(error):
        traceback.clear_frames(error.__traceback__)
        raise found from error


@contextmanager
def heeding_shortage() -> Iterator[None]:
    """Too little memory in the block is a `MemoryShortageError`; another error passes as it is."""
    try:
        yield
    except Exception as error:
        heed_shortage(error)
        raise


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its kind where it says nothing."""
    return _plain(str(error).strip().partition("\n")[0], SAID) or type(error).__name__


def reason(error: Exception) -> str:
    """Why something failed, without what a message says before it: a system's number and path."""
    said = error.strerror if isinstance(error, OSError) else None
    return said[:1].lower() + said[1:] if said else first_line(error)


def first_problem(error: ValidationError, root: str = "") -> str:
    """The first thing that does not fit a schema, as "key.of.it: message"; `root` has no key."""
    item = error.errors(include_input=False)[0]
    where = ".".join(_plain(str(key), SHOWN) for key in item["loc"]) or root
    return f"{where}: {_plain(item['msg'], SAID)}" if where else _plain(item["msg"], SAID)


def _plain(text: str, most: int) -> str:
    """A foreign text that is printed as it is: what cannot be is escaped, what is long is cut."""
    printed = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:most])
    return printed if len(text) <= most else f"{printed}…"
