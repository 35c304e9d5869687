"""Progress on stderr: a bar where there is a terminal, otherwise silence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mdlbench.scoring.suite_run import Failed, Scored
from mdlbench.stages import OnStage
from mdlbench.terminal import inert


class SuiteProgress:
    """How far a run over a suite's SAEs has come."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total)

    def stage(self, name: str) -> None:
        self._bar.update(self._task, description=_shown(name))

    def finish(self, outcome: Scored | Failed) -> Scored | Failed:
        """Count one SAE as done and say in a line how it went."""
        label = _shown(outcome.target.label)
        if isinstance(outcome, Failed):
            self._bar.print(f"[red]failed[/]  {_shown(outcome.message)}")
        elif outcome.reused:
            self._bar.print(f"kept    {label}: already scored")
        else:
            seconds = outcome.record.environment.seconds
            self._bar.print(f"scored  {label} in {seconds:.1f} s")
        self._bar.advance(self._task)
        return outcome


@contextmanager
def suite_progress(total: int, quiet: bool) -> Iterator[SuiteProgress]:
    columns = (
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=_console(quiet), transient=True) as bar:
        yield SuiteProgress(bar, total)


@contextmanager
def stages(quiet: bool) -> Iterator[OnStage]:
    """A function that shows the name of the stage a command has come to, on a line of its own."""
    with _console(quiet).status("") as status:
        yield lambda name: status.update(_shown(name))


def _shown(text: str) -> str:
    """A text that is neither markup nor anything that a terminal acts on."""
    return escape(inert(text))


def _console(quiet: bool) -> Console:
    return Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
