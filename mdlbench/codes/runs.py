"""The runs of a split in parts, each of which may lie elsewhere: measured apart, merged in order.

A measurement is a function of a part. What it finds must merge exactly: integers add up, and so do
sums per document, of which each lies in one run. Other sums are made pairwise
(`mdlbench.statistics.pairwise`), so that they do not depend on where parts begin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

Run = TypeVar("Run")
Other = TypeVar("Other")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Part(Generic[Run]):
    """Consecutive runs of a split, read once.

    Attributes:
        start: the number of the first run within the split.
        runs: the runs themselves.
    """

    start: int
    runs: Iterable[Run]

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


@dataclass(frozen=True)
class Runs(Generic[Run]):
    """A split's runs, which may be measured as often as needed.

    Attributes:
        measured: what a measurement finds in each part, in the order of the split.
    """

    measured: Callable[[Callable[[Part[Run]], Any]], list[Any]]

    @classmethod
    def here(cls, runs: Callable[[], Iterable[Run]]) -> Runs[Run]:
        """Runs in this process as one part; `runs` gives the same ones at every call."""
        return cls(lambda measure: [measure(Part(0, runs()))])

    def map(self, measure: Callable[[Part[Run]], Found]) -> list[Found]:
        """What `measure` finds in each part, in the order of the split."""
        return self.measured(measure)

    def each(self, change: Callable[[Run], Other]) -> Runs[Other]:
        """The runs, changed one by one wherever they lie."""
        return Runs(lambda measure: self.measured(partial(_changed, change, measure)))


def _changed(
    change: Callable[[Run], Other], measure: Callable[[Part[Other]], Found], part: Part[Run]
) -> Found:
    return measure(Part(part.start, map(change, part)))
