"""MLPs of a language model turned bilinear: what it costs, and what their eigenvectors tell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from mdlbench.console.stages import OnStage
from mdlbench.papers.bilinear_language import figures, report
from mdlbench.papers.bilinear_language.board import score_explanations
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT, convert
from mdlbench.papers.bilinear_language.evidence import (
    MEAN,
    TUNED,
    ZERO,
    Evidence,
    alone,
    together,
)
from mdlbench.papers.bilinear_language.fit import read_rows
from mdlbench.papers.bilinear_language.gated import Gated, load_gated
from mdlbench.papers.bilinear_language.inputs import Harvest, harvest
from mdlbench.papers.bilinear_language.outputs import outputs_of
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.scores import Replacement, constant, score, trained
from mdlbench.papers.bilinear_language.studied import study
from mdlbench.papers.bilinear_language.tuning import tune
from mdlbench.papers.bilinear_language.world import World, open_world
from mdlbench.report.outputs import write_outputs

TRAININGS = {BILINEAR: True, GATE_KEPT: False}
"""Whether β falls in each."""


def reproduce(folder: Path, on_stage: OnStage, text: str) -> list[Path]:
    """Train, measure and explain what is not there yet, and report into `folder`.

    Inputs and outputs of MLPs are kept in the cache; trained layers are in `folder/converted`,
    SAEs in `folder/saes`, what is measured in `folder/scored`, `folder/explained` and
    `folder/board`. An interrupted run goes on where it was.

    Args:
        folder: where it writes.
        on_stage: told what is done.
        text: to train on, a file or folder or the name of one of the suite's texts.

    Returns:
        The files written, those in folders within it apart.
    """
    return write_evidence(folder, gather(folder, Plan(), text, on_stage))


def gather(folder: Path, plan: Plan, text: str, on_stage: OnStage) -> Evidence:
    """Everything that the claims are decided by; what is there already is not made again."""
    world = open_world(plan, text, on_stage)
    teachers = {n: Gated.of(world.scored.mlp(n)) for n in plan.layers}
    harvested = harvest(world.training, plan.layers, plan.tokens, plan.held_out, on_stage)
    files = convert_all(teachers, harvested, world, plan, folder / "converted", on_stage)
    asked = asked_alone(teachers, files, harvested, plan) | asked_together(files, plan)
    sums = score(world.scored, asked, folder / "scored", on_stage)
    layer = load_gated(files[alone(BILINEAR, plan.studied)])
    explained = study(layer, harvested, world, plan, folder, on_stage)
    tuned = {TUNED: tune_all(files, world, plan, folder / "converted" / TUNED, on_stage)}
    sums |= score(world.scored, tuned, folder / "scored", on_stage)
    x = harvested.trained_on(plan.studied)
    board = score_explanations(layer, x, explained.sae, world, plan, folder / "board", on_stage)
    return Evidence(
        plan,
        world.scored.model.name,
        plan.scored_text,
        world.scored.n_tokens,
        sums,
        {name: read_rows(file.parent)[-1].held_out_loss for name, file in files.items()},
        explained.features,
        explained.fvu,
        explained.shares,
        board,
    )


def convert_all(
    teachers: Mapping[int, Gated],
    harvested: Harvest,
    world: World,
    plan: Plan,
    folder: Path,
    on_stage: OnStage,
) -> dict[str, Path]:
    """Files of the layers that are trained each on its own, by what replaces one layer."""
    return {
        alone(kind, n): convert(
            teacher,
            harvested,
            n,
            world.where,
            plan,
            anneals,
            folder / alone(kind, n),
            on_stage,
        )
        for n, teacher in teachers.items()
        for kind, anneals in TRAININGS.items()
    }


def tune_all(
    files: Mapping[str, Path], world: World, plan: Plan, folder: Path, on_stage: OnStage
) -> dict[int, Replacement]:
    """The bilinear layers, trained together."""
    layers = {n: load_gated(files[alone(BILINEAR, n)]) for n in plan.layers}
    where = {**world.where, "layers": {n: layer.sha256 for n, layer in layers.items()}}
    tuned = tune(layers, world.training, world.held_out, where, plan, folder, on_stage)
    return {n: trained(file) for n, file in tuned.items()}


def asked_alone(
    teachers: Mapping[int, Gated], files: Mapping[str, Path], harvested: Harvest, plan: Plan
) -> dict[str, dict[int, Replacement]]:
    """What replaces the MLP of one layer: the trained ones, its mean output, nothing."""
    asked: dict[str, dict[int, Replacement]] = {}
    for n in plan.layers:
        mean = outputs_of(teachers[n], harvested.held_out(n)).mean(dim=0, dtype=torch.float32)
        for kind in TRAININGS:
            asked[alone(kind, n)] = {n: trained(files[alone(kind, n)])}
        asked[alone(MEAN, n)] = {n: constant(mean)}
        asked[alone(ZERO, n)] = {n: constant(torch.zeros_like(mean))}
    return asked


def asked_together(files: Mapping[str, Path], plan: Plan) -> dict[str, dict[int, Replacement]]:
    """The first layers at once, as many as there are."""
    found = {n: trained(files[alone(BILINEAR, n)]) for n in plan.layers}
    numbers = range(1, len(plan.layers) + 1)
    return {together(k): {n: found[n] for n in plan.layers[:k]} for k in numbers}


def write_evidence(folder: Path, evidence: Evidence) -> list[Path]:
    """Figures, table and report; the same evidence, the same bytes."""
    words = report.to_markdown(evidence)
    return write_outputs(folder, figures.drawings(evidence), report.table(evidence), words)
