"""The papers' experiments: figures, a table, and a report whose sentences the numbers decide.

Each experiment is a module with `reproduce(folder, on_stage)`, imported when it is run.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from mdlbench.console.stages import OnStage
from mdlbench.errors import OutputError, UsageError, did_you_mean, reason

EXPERIMENTS: dict[str, str] = {
    "mnist-case-study": "description length against width and sparsity of MNIST SAEs",
    "feature-splitting": "when a third latent for A and B together shortens the code",
    "bilinear-mnist": "what the weights of bilinear MNIST classifiers tell: claims V1 to V8",
    "bilinear-mechanism": "bits for the weights of a bilinear MNIST classifier, beside SAEs' bits",
    "bilinear-language": "MLPs of SmolLM2 turned bilinear: what it costs, what eigenvectors tell",
    "hierarchy": "what a tree code gains over a flat one where one feature implies another",
    "reliability": "whether the score is stable, separates SAEs, and ranks true features first",
}
"""What each experiment shows, by name."""

_MODULES = {
    "mnist-case-study": "case_study",
    "bilinear-mnist": "bilinear",
    "bilinear-mechanism": "mechanism",
}
"""Where a module is not called after its experiment."""


SCORING = ("mnist-case-study", "bilinear-mechanism", "reliability")
"""Those that score SAEs, which workers can share; they take an engine."""
IN_PARTS = ("reliability",)
"""Those that are done part by part, if one likes; they take `parts`."""
ON_TEXT = ("bilinear-language",)
"""Those that train on a text of the user's; they take `text`."""


def refuse_workers(name: str) -> None:
    """Raise `UsageError` for an experiment whose work cannot be shared out."""
    _refuse_unknown(name)
    if name not in SCORING:
        raise UsageError(
            f"{name} scores no SAEs that workers could share: run it without --workers and --ray"
        )


def refuse_parts(name: str) -> None:
    """Raise `UsageError` for an experiment that is done as a whole."""
    _refuse_unknown(name)
    if name not in IN_PARTS:
        raise UsageError(f"{name} has no parts: run it without --part")


def require_text(name: str, text: str | None) -> None:
    """Raise `UsageError` where a text is missing, or given to an experiment that reads none."""
    _refuse_unknown(name)
    if name in ON_TEXT and text is None:
        raise UsageError(f"{name} trains on a text: give one with --text, a file or a folder")
    if name not in ON_TEXT and text is not None:
        raise UsageError(f"{name} reads no text: run it without --text")


def run_experiment(name: str, folder: Path, on_stage: OnStage, **options: Any) -> list[Path]:
    """Run one experiment; `on_stage` is told the name of each stage.

    Args:
        name: of the experiment.
        folder: where it writes.
        on_stage: told the name of each stage.
        options: `engine`, for one of those in `SCORING`; `parts`, for one of those in `IN_PARTS`;
            `text`, for one of those in `ON_TEXT`.

    Returns:
        The files written, all of them under `folder`.

    Raises:
        UsageError: there is no such experiment.
        OutputError: the folder cannot be written, or the disk is full.
    """
    _refuse_unknown(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {reason(error)}") from error
    module = import_module(f"{__name__}.{_MODULES.get(name, name.replace('-', '_'))}")
    written: list[Path] = module.reproduce(folder, on_stage, **options)
    return written


def _refuse_unknown(name: str) -> None:
    if name not in EXPERIMENTS:
        raise UsageError(f"no experiment {name!r}. {did_you_mean(name, EXPERIMENTS)}")
