"""`reproduce`: the experiments of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdlbench.cli.options import QuietOption, output_option
from mdlbench.papers import EXPERIMENTS
from mdlbench.terminal import say


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(EXPERIMENTS))],
    output: Annotated[Path | None, output_option("Results folder [results/NAME].")] = None,
    quiet: QuietOption = False,
) -> None:
    """Run an experiment of a paper again: figures, a table and a report in one folder."""
    from mdlbench.cli.progress import stages
    from mdlbench.papers import run_experiment

    with stages(quiet) as report:
        paths = run_experiment(name, output or Path("results") / name, report)
    for path in paths:
        say(path)
