"""`reproduce`: the experiments of the papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mdlbench.cli import interrupt
from mdlbench.cli.options import QuietOption, RayOption, WorkersOption, engine, output_option
from mdlbench.console.terminal import say
from mdlbench.papers import EXPERIMENTS


def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help=", ".join(EXPERIMENTS))],
    output: Annotated[Path | None, output_option("Results folder [results/NAME].")] = None,
    workers: WorkersOption = None,
    ray: RayOption = None,
    part: Annotated[
        list[str] | None,
        typer.Option(help="Only this part of the experiment, such as a suite. Repeatable."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file or a folder with the text to train on, for an experiment that needs one.",
        ),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Run an experiment of a paper again: figures, a table and a report in one folder."""
    from mdlbench.cli.progress import stages
    from mdlbench.papers import refuse_parts, refuse_workers, require_text, run_experiment

    options: dict[str, Any] = {}
    if part:
        refuse_parts(name)
        options["parts"] = tuple(part)
    require_text(name, text)
    if text is not None:
        options["text"] = text
    folder = output or Path("results") / name
    interrupt.keeps(lambda: _kept(folder))
    with stages(quiet) as report:
        if workers is None and ray is None:
            paths = run_experiment(name, folder, report, **options)
        else:
            refuse_workers(name)
            with engine(workers, ray, None, "cpu") as had:
                paths = run_experiment(name, folder, report, engine=had, **options)
    for path in paths:
        say(path)


def _kept(folder: Path) -> str:
    """What an interruption leaves: records of SAEs, or bilinear networks or layers."""
    networks = len(list(folder.glob("networks/*/bilinear.safetensors")))
    layers = len(list(folder.glob("converted/*/*.safetensors")))
    records = len(list(folder.rglob("records/*.json")))
    kept = f"{layers} layers" if layers else f"{records} records"
    kept = f"{networks} networks" if networks else kept
    return f"{folder}/ keeps {kept}; run it again to go on"
