"""`study`: a grid of training runs, and what it shows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import (
    DeviceOption,
    QuietOption,
    RayOption,
    TextOption,
    WorkersOption,
    engine,
    output_option,
    torch_device,
)
from mdlbench.console.terminal import say
from mdlbench.errors import UsageError

if TYPE_CHECKING:
    from mdlbench.studies.run import Outcome


class StudyAction(StrEnum):
    """What is done with a study."""

    run = "run"
    report = "report"


def study(
    action: Annotated[
        StudyAction,
        typer.Argument(help="run: train and score the grid; report: say what it shows."),
    ],
    place: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="run: the study's YAML file; report: its folder."),
    ],
    output: Annotated[
        Path | None,
        output_option("run: the study's folder; report: the report's folder [STUDY/report]."),
    ] = None,
    text: TextOption = None,
    device: DeviceOption = "cpu",
    workers: WorkersOption = None,
    ray: RayOption = None,
    quiet: QuietOption = False,
) -> None:
    """Compare architectures: train and score a grid of widths, sparsities and training seeds.

    An interrupted run continues where it was. Epochs are chosen on calibration tokens that are not
    trained on. The report says at each tolerance which architecture is shortest, and how sure
    that is over documents and training seeds.
    """
    if action is StudyAction.report:
        _report(place, output)
    else:
        _run(place, output, text, device, (workers, ray), quiet)


def _report(folder: Path, output: Path | None) -> None:
    from mdlbench.studies.report import REPORT, write_report

    for path in write_report(folder, output or folder / REPORT):
        say(path)


def _run(
    file: Path,
    output: Path | None,
    text: str | None,
    device: str,
    cluster: tuple[int | None, str | None],
    quiet: bool,
) -> None:
    from mdlbench.cli.progress import stages
    from mdlbench.sources.open import Opener, Setting
    from mdlbench.studies.run import claim, read_study, run_study, suite_of_study

    if output is None:
        raise UsageError("study run needs -o FOLDER")
    plan, content = read_study(file)
    n_runs = len([run.config() for run in plan.runs()])
    suite = suite_of_study(plan, file)
    claim(output, plan, content)
    interrupt.keeps(lambda: _kept(output, n_runs))
    failed = 0
    with stages(quiet) as on_stage, engine(*cluster, None, device) as had:
        opener = Opener(suite, Setting(torch_device(device), text=text), on_stage)
        for outcome in run_study(plan, opener, output, on_stage, progress=not quiet, engine=had):
            line, is_failure = _said(outcome)
            failed += is_failure
            if not quiet or is_failure:
                say(line, to_stderr=True)
    say(f"{output}/ holds {n_runs - failed} of {n_runs} runs: `mdlbench study report {output}`")
    if failed:
        raise typer.Exit(1)


def _said(outcome: Outcome) -> tuple[str, bool]:
    """What became of a run, as one line, and whether it has no record for that."""
    from mdlbench.scoring.suite_run import Failed
    from mdlbench.studies.run import Diverged, Trained

    if isinstance(outcome, Trained):
        return f"trained {outcome.key}", False
    if isinstance(outcome, Diverged):
        return f"diverged {outcome.key}: {outcome.reason}", True
    if isinstance(outcome, Failed):
        return f"failed  {outcome.message}", True
    return f"{'kept' if outcome.reused else 'scored'}  {outcome.record.name}", False


def _kept(folder: Path, n_runs: int) -> str:
    """What an interruption leaves."""
    n = len(list(folder.glob("records/*.json")))
    return f"{folder}/ keeps {n} of {n_runs} records and what was trained; run it again to go on"
