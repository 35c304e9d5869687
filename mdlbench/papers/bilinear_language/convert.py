"""One MLP trained to match its own outputs, while its gate becomes linear or stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn

from mdlbench.console.stages import OnStage
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.fit import Schedule, fit
from mdlbench.papers.bilinear_language.gated import GATED_FILE, Gated, save_gated
from mdlbench.papers.bilinear_language.inputs import Harvest
from mdlbench.papers.bilinear_language.outputs import Half, chunks, outputs_of, variance
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.training.claimed import ClaimedFolder, epoch_seed

BILINEAR, GATE_KEPT = "bilinear", "gate-kept"
"""The two trainings: β falls to 0, or stays 1."""
SETTINGS = ("tokens", "held_out", "epochs", "batch_size", "lr", "warm_up", "annealed", "seed")
"""Fields of the plan that decide the weights and the log."""


class Match:
    """A layer in training, the fit's `Job`.

    Losses are the share of the outputs' variance that is lost (FVU). Products are taken in
    bfloat16, sums and weights in float32.

    Args:
        teacher: the model's own MLP.
        x: inputs of the training tokens.
        held_out: inputs of others.
        plan: batches, seed, and how long β falls.
        anneals: whether it does.
    """

    def __init__(self, teacher: Gated, x: Half, held_out: Half, plan: Plan, anneals: bool) -> None:
        self.student = deepcopy(teacher).requires_grad_(True)
        self.weights: Mapping[str, nn.Parameter] = dict(self.student.named_parameters())
        self.n_steps = len(x) // plan.batch_size
        if self.n_steps == 0:
            raise UsageError(f"batch_size {plan.batch_size} exceeds the {len(x)} training tokens")
        self._plan, self._anneals = plan, anneals
        self._x, self._held_out = x, held_out
        self._y, self._held_out_y = outputs_of(teacher, x), outputs_of(teacher, held_out)
        self._variance, self._held_out_variance = variance(self._y), variance(self._held_out_y)

    def beta(self, step: int) -> float:
        """β in a step, counted from 0."""
        if not self._anneals:
            return 1.0
        falling = self._plan.annealed * self._plan.epochs * self.n_steps
        return max(0.0, 1.0 - (step + 1) / falling)

    def losses(self, epoch: int) -> Iterator[Float[torch.Tensor, ""]]:
        """The FVU of each batch; the order depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(epoch_seed(self._plan.seed, epoch))
        order = torch.randperm(len(self._x), generator=generator)
        for step in range(self.n_steps):
            batch = order[step * self._plan.batch_size :][: self._plan.batch_size]
            self.student.beta = self.beta(epoch * self.n_steps + step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = self.student(self._x[batch].float())
            error = (found.float() - self._y[batch].float()).square().sum(dim=1)
            yield error.mean() / self._variance

    def held_out_loss(self) -> float:
        """The FVU on held-out tokens, in float32."""
        error = squared_error(self.student, self._held_out, self._held_out_y)
        return error / self._held_out_variance

    def save(self, folder: Path) -> None:
        save_gated(self.student, folder / GATED_FILE)


@torch.no_grad()
def squared_error(layer: Gated, x: Half, y: Half) -> float:
    """Mean ‖layer(x) − y‖² over tokens."""
    errors = [
        float((layer(one.float()) - other.float()).square().sum())
        for one, other in zip(chunks(x), chunks(y), strict=True)
    ]
    return sum(errors) / len(x)


def convert(
    teacher: Gated,
    harvest: Harvest,
    layer: int,
    where: Mapping[str, Any],
    plan: Plan,
    anneals: bool,
    folder: Path,
    on_stage: OnStage,
) -> Path:
    """Train a layer to match its own outputs, unless the folder has it; the layer's file.

    Args:
        teacher: the model's own MLP.
        harvest: has its inputs.
        layer: its number.
        where: what the inputs are, as JSON has it; a folder with a run on others is refused.
        plan: of the training.
        anneals: whether β falls to 0.
        folder: of the run.
        on_stage: told the epochs.
    """
    settings = {name: value for name, value in asdict(plan).items() if name in SETTINGS}
    origin = {"kind": "gated", **where, **settings, "layer": layer, "anneals": anneals}
    claimed = ClaimedFolder(folder, {**origin, "teacher": teacher.sha256}, {})
    if not claimed.claim():
        x, held_out = harvest.trained_on(layer), harvest.held_out(layer)
        job = Match(teacher, x, held_out, plan, anneals)
        fit(job, Schedule(plan.lr, plan.warm_up, plan.epochs), claimed, on_stage)
    return folder / GATED_FILE
