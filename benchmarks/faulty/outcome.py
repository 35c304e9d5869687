"""What became of a case, and the table of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from faulty.child import Ran

Verdict = Literal["refused", "harmless", "failed"]


@dataclass(frozen=True)
class Outcome:
    """A case's verdict.

    Attributes:
        case: what was broken, and how.
        verdict: refused, harmless or failed.
        failures: in words, each with the command that failed in this way.
        seconds, megabytes: the worst of its commands.
    """

    case: str
    verdict: Verdict
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    megabytes: float = 0.0


@dataclass
class Watch:
    """Commands of one case, judged one after the other."""

    case: str
    seconds: float = 0.0
    megabytes: float = 0.0
    refusals: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def see(self, ran: Ran, command: str, says_on_stdout: bool = False) -> bool:
        """Whether the command was content with what it was given."""
        self.seconds = max(self.seconds, ran.seconds)
        self.megabytes = max(self.megabytes, ran.megabytes)
        failure = ran.failure
        if failure is None and ran.out_of_memory:
            failure = "asks for more than 4 GB"
        said = ran.stderr.strip() or (says_on_stdout and ran.stdout.strip())
        if failure is None and ran.code and not said:
            failure = f"ends with code {ran.code} and says nothing"
        if failure is not None:
            self.blame(failure, command)
        self.refusals += ran.code in (1, 2)
        return ran.code == 0

    def blame(self, words: str, command: str) -> None:
        self.failures.setdefault(words, command)

    def outcome(self) -> Outcome:
        verdict: Verdict = "refused" if self.refusals else "harmless"
        return Outcome(
            self.case,
            "failed" if self.failures else verdict,
            self.failures,
            self.seconds,
            self.megabytes,
        )


class Part(Protocol):
    """A part of the campaign.

    Attributes:
        name: as `--only` calls it.
        count: how many cases there are, or are wanted.
    """

    name: str
    count: int

    def prepare(self, work: Path) -> None:
        """Make what is to be broken, in a folder of its own."""
        ...

    def case(self, number: int, draw: random.Random, folder: Path) -> Outcome:
        """Break it in the way of this number, in an empty folder, and see."""
        ...


@dataclass
class Tally:
    """A part's outcomes."""

    name: str
    wanted: int
    outcomes: list[tuple[int, Outcome]] = field(default_factory=list)

    def row(self) -> list[str]:
        counts = Counter(outcome.verdict for _, outcome in self.outcomes)
        seconds = max((outcome.seconds for _, outcome in self.outcomes), default=0.0)
        megabytes = max((outcome.megabytes for _, outcome in self.outcomes), default=0.0)
        tried = f"{len(self.outcomes):,}"
        if len(self.outcomes) < self.wanted:
            tried += f" of {self.wanted:,}"
        verdicts = (str(counts[verdict]) for verdict in ("refused", "harmless", "failed"))
        return [self.name, tried, *verdicts, f"{seconds:.1f}", f"{megabytes:,.0f}"]

    def failures(self) -> list[str]:
        """A line for each way of failing: how often it was seen, and in which cases first."""
        seen: dict[str, list[tuple[int, Outcome]]] = {}
        for number, outcome in self.outcomes:
            for words in outcome.failures:
                seen.setdefault(words, []).append((number, outcome))
        return [
            f"{self.name}: {words}: {len(found)}×, as {_first_cases(found)} "
            f"[{found[0][1].failures[words][:COMMAND_SHOWN]}]"
            for words, found in seen.items()
        ]


def _first_cases(found: Sequence[tuple[int, Outcome]]) -> str:
    """Numbers and kinds of the first cases; each kind once."""
    kinds: dict[str, int] = {}
    for number, outcome in found:
        kinds.setdefault(outcome.case.partition(" #")[0], number)
    shown = [f"{number} ({kind})" for kind, number in kinds.items()][:CASES_SHOWN]
    return ", ".join(shown)


CASES_SHOWN = 4
COMMAND_SHOWN = 160
"""Characters of a failing command."""
HEADINGS = ["part", "tried", "refused", "harmless", "failed", "worst s", "worst MB"]


def table(tallies: Iterable[Tally]) -> str:
    rows = [HEADINGS, *(tally.row() for tally in tallies)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join([first, *rest])
