"""Progress on stderr: a bar on a terminal, elsewhere one plain line for each SAE."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mdlbench.console.stages import OnStage, shown_on_terminal, silent
from mdlbench.console.terminal import inert, say
from mdlbench.report.tables import printable
from mdlbench.scoring.suite_run import Failed, Scored

LINE_LENGTH = 1000
"""The most characters of a line about one SAE."""


class SuiteProgress(Protocol):
    """How far a run over a suite's SAEs has come.

    Attributes:
        leaves_lines: whether the last lines of stderr say how each SAE fared.
    """

    leaves_lines: bool

    def stage(self, name: str) -> None:
        """It has come to a stage of that name."""
        ...

    def finish(self, outcome: Scored | Failed) -> None:
        """An SAE is done."""
        ...


class _Clock:
    """The seconds since it was last read."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def read(self) -> float:
        before, self._since = self._since, time.perf_counter()
        return self._since - before


class _Fates:
    """Lines on how SAEs fared, and how long they took; a reason that several share is said once."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._first: dict[str, str] = {}

    def line(self, outcome: Scored | Failed) -> str:
        """How an SAE fared, as one plain line."""
        label, seconds = outcome.target.label, self._clock.read()
        if isinstance(outcome, Failed):
            line = f"failed  {label} in {seconds:.1f} s: {self._reason(outcome)}"
        elif outcome.reused:
            line = f"kept    {label} in {seconds:.1f} s: already scored"
        else:
            line = f"scored  {label} in {seconds:.1f} s"
        return printable(" ".join(line.split("\n")), LINE_LENGTH)

    def _reason(self, failed: Failed) -> str:
        label = failed.target.label
        first = self._first.setdefault(failed.reason, label)
        return str(failed.error).removeprefix(f"{label}: ") if first == label else f"as {first}"


class _Bar:
    """A bar, above which one line for each SAE stays; tables follow on the same terminal."""

    leaves_lines = False

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total)
        self._fates = _Fates()

    def stage(self, name: str) -> None:
        self._bar.update(self._task, description=_shown(name))

    def finish(self, outcome: Scored | Failed) -> None:
        line = _shown(self._fates.line(outcome))
        self._bar.print(f"[red]{line}[/]" if isinstance(outcome, Failed) else line)
        self._bar.advance(self._task)


class _Lines:
    """One line for each SAE, written as soon as it is done."""

    leaves_lines = True

    def __init__(self) -> None:
        self._fates = _Fates()

    def stage(self, name: str) -> None:
        """Nothing: a file needs no sign of life."""

    def finish(self, outcome: Scored | Failed) -> None:
        _say(self._fates.line(outcome))


class _Silence:
    leaves_lines = False

    def stage(self, name: str) -> None: ...

    def finish(self, outcome: Scored | Failed) -> None: ...


@contextmanager
def suite_progress(total: int, quiet: bool) -> Iterator[SuiteProgress]:
    """How a run over so many SAEs is shown; not at all if `quiet`."""
    if _is_silent(quiet):
        yield _Silence()
    elif sys.stderr.isatty():
        columns = (
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(bar, total)
    else:
        yield _Lines()


@contextmanager
def stages(quiet: bool) -> Iterator[OnStage]:
    """A function that is told the stages a command comes to.

    On a terminal the current one stands on a line of its own; elsewhere each subject of stages
    ("SAE: encode", "SAE: rate", …) gets one line once it is over.
    """
    if _is_silent(quiet):
        yield silent
    elif sys.stderr.isatty():
        with shown_on_terminal() as report:
            yield report
    else:
        subjects = _Subjects()
        yield subjects.stage
        subjects.end()


def _shown(text: str) -> str:
    """A text that is neither markup nor anything that a terminal acts on."""
    return escape(inert(text))


class _Subjects:
    """A line for each run of stages with the same subject, and the seconds it took."""

    def __init__(self) -> None:
        self._subject = ""
        self._clock = _Clock()

    def stage(self, name: str) -> None:
        subject, colon, _ = name.partition(": ")
        if colon and subject != self._subject:
            self.end()
            self._subject = subject

    def end(self) -> None:
        seconds = self._clock.read()
        if self._subject:
            _say(printable(f"{self._subject} in {seconds:.1f} s", LINE_LENGTH))


def _is_silent(quiet: bool) -> bool:
    """Whether nothing is shown: as asked, or because stderr is closed."""
    return quiet or sys.stderr is None


def _say(line: str) -> None:
    say(line, to_stderr=True)
