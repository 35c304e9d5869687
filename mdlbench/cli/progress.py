"""Progress on stderr: a bar on a terminal, elsewhere one plain line for each SAE."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from mdlbench.console.stages import DONE, OnStage, shown_on_terminal, silent
from mdlbench.console.terminal import about, inert, say
from mdlbench.report.tables import printable
from mdlbench.scoring.suite_run import Failed, Scored

LINE_LENGTH = 1000
"""The most characters of a line about one SAE."""
SHOWN_AT_ONCE = 3
"""The most SAEs that workers are at whose stages are shown."""


class SuiteProgress(Protocol):
    """How far a run over a suite's SAEs has come.

    Attributes:
        leaves_lines: whether the last lines of stderr say how each SAE fared.
        n_kept: how many SAEs have their records.
    """

    leaves_lines: bool

    @property
    def n_kept(self) -> int: ...

    def stage(self, name: str) -> None:
        """It has come to a stage of that name."""
        ...

    def finish(self, outcome: Scored | Failed) -> None:
        """An SAE is done."""
        ...


class Course:
    """How far a run has come, and how long the rest will take, judging by the SAEs so far.

    Every SAE of a suite is measured on the same tokens, so what one took tells of the others.

    Args:
        total: how many there are of what is counted.
        now: the time in seconds.
        counted: what that is, in the singular.
    """

    def __init__(
        self, total: int, now: Callable[[], float] = time.perf_counter, counted: str = "SAE"
    ) -> None:
        self.total, self._now, self._counted = total, now, counted
        self.n_finished = self._n_scored = 0
        self._early: set[str] = set()
        self._at: dict[str, str] = {}
        self._seconds: list[float] = []
        self._since = now()

    @property
    def n_done(self) -> int:
        """SAEs that have fared one way or the other."""
        return self.n_finished + len(self._early)

    @property
    def n_kept(self) -> int:
        """SAEs that have their records."""
        return self._n_scored + len(self._early)

    def stage(self, name: str) -> None:
        """Some SAE, whose name stands before the colon, or the run has come to a stage."""
        label, _, stage = name.rpartition(": ")
        if stage != DONE:
            self._at.pop("", None)
            self._at[label] = stage
            return
        self._at.pop(label, None)
        self._early.add(label)
        self._since = self._now()

    def finish(self, outcome: Scored | Failed) -> None:
        label = outcome.target.label
        self.n_finished += 1
        self._at.pop(label, None)
        if label in self._early:
            self._early.remove(label)
        else:
            self._since = self._now()
        if isinstance(outcome, Scored):
            self._n_scored += 1
            if not outcome.reused:
                self._seconds.append(outcome.record.environment.seconds)

    def words(self) -> str:
        """The SAE that it is at, and the stages of all that workers are at."""
        stages = [f"{label}: {stage}" if label else stage for label, stage in self._at.items()]
        more = ["…"] if len(stages) > SHOWN_AT_ONCE else []
        which = f"{self._counted} {min(self.n_done + 1, self.total)} of {self.total}"
        return " · ".join([which, *stages[:SHOWN_AT_ONCE], *more])

    @property
    def left(self) -> float | None:
        """Seconds that the rest may take; None before an SAE was scored."""
        if not self._seconds:
            return None
        mean = sum(self._seconds) / len(self._seconds)
        at_once = max(1, sum(label != "" for label in self._at))
        rest = mean * (self.total - self.n_done) / at_once
        return max(0.0, rest - (self._now() - self._since))


class _Clock:
    """The seconds since it was last read."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def read(self) -> float:
        before, self._since = self._since, time.perf_counter()
        return self._since - before


class _Fates:
    """Lines on how SAEs fared, and how long they took; a reason that several share is said once."""

    def __init__(self, course: Course) -> None:
        self._clock, self._course = _Clock(), course
        self._first: dict[str, str] = {}

    def line(self, outcome: Scored | Failed) -> str:
        """How an SAE fared, as one plain line."""
        label, seconds = outcome.target.label, self._clock.read()
        if isinstance(outcome, Failed):
            line = f"failed  {label} in {seconds:.1f} s: {self._reason(outcome)}"
        elif outcome.reused:
            line = f"kept    {label} in {seconds:.1f} s: already scored"
        else:
            took = max(seconds, outcome.record.environment.seconds)
            line = f"scored  {label} in {took:.1f} s ({self._how_far()})"
        return printable(" ".join(line.split("\n")), LINE_LENGTH)

    def _how_far(self) -> str:
        left, course = self._course.left, self._course
        is_over = left is None or course.n_done == course.total
        rest = "" if is_over else f"; {about(left or 0.0)} left"
        return f"{course.n_done} of {course.total}{rest}"

    def _reason(self, failed: Failed) -> str:
        label = failed.target.label
        first = self._first.setdefault(failed.reason, label)
        return str(failed.error).removeprefix(f"{label}: ") if first == label else f"as {first}"


class _Bar:
    """A bar, above which one line for each SAE stays; tables follow on the same terminal."""

    leaves_lines = False

    def __init__(self, bar: Progress, course: Course) -> None:
        self._bar, self._course = bar, course
        self._task = bar.add_task(course.words(), total=course.total)
        self._fates = _Fates(course)

    @property
    def n_kept(self) -> int:
        return self._course.n_kept

    def stage(self, name: str) -> None:
        self._course.stage(name)
        self._update()

    def finish(self, outcome: Scored | Failed) -> None:
        self._course.finish(outcome)
        line = _shown(self._fates.line(outcome))
        self._bar.print(f"[red]{line}[/]" if isinstance(outcome, Failed) else line)
        self._update()

    def _update(self) -> None:
        words, done = _shown(self._course.words()), self._course.n_done
        self._bar.update(self._task, description=words, completed=done)


class _Left(ProgressColumn):
    """How long the rest may take."""

    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course

    def render(self, task: Task) -> Text:
        left = self._course.left
        return Text("" if left is None else f"{about(left)} left")


class _Silence:
    """The course of a run, kept and not shown."""

    leaves_lines = False

    def __init__(self, course: Course) -> None:
        self._course = course

    @property
    def n_kept(self) -> int:
        return self._course.n_kept

    def stage(self, name: str) -> None:
        self._course.stage(name)

    def finish(self, outcome: Scored | Failed) -> None:
        self._course.finish(outcome)


class _Lines(_Silence):
    """One line for each SAE, written as soon as it is done; a file needs no other sign of life."""

    leaves_lines = True

    def __init__(self, course: Course) -> None:
        super().__init__(course)
        self._fates = _Fates(course)

    def finish(self, outcome: Scored | Failed) -> None:
        super().finish(outcome)
        _say(self._fates.line(outcome))


@contextmanager
def suite_progress(total: int, quiet: bool, counted: str) -> Iterator[SuiteProgress]:
    """How a run over so many SAEs, or records, is shown; not at all if `quiet`."""
    course = Course(total, counted=counted)
    if _is_silent(quiet):
        yield _Silence(course)
    elif sys.stderr.isatty():
        columns = (
            BarColumn(),
            TimeElapsedColumn(),
            _Left(course),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield _Bar(bar, course)
    else:
        yield _Lines(course)


@contextmanager
def stages(quiet: bool) -> Iterator[OnStage]:
    """A function that is told the stages a command comes to.

    On a terminal the current one stands on a line of its own; elsewhere each subject of stages
    ("place: SAE" of "place: SAE: encode", "place: SAE: rate", …) gets one line once it is over.
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
        subject = name.rpartition(": ")[0]
        if subject and subject != self._subject:
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
