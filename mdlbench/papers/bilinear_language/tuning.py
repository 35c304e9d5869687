"""Converted layers trained together, so that the model with all of them predicts as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from mdlbench.console.stages import OnStage
from mdlbench.errors import UsageError
from mdlbench.papers.bilinear_language.fit import Schedule, fit
from mdlbench.papers.bilinear_language.gated import GATED_FILE, Gated, save_gated
from mdlbench.papers.bilinear_language.host import Host
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.training.claimed import ClaimedFolder

SETTINGS = ("tuning_contexts", "tuning_epochs", "tuning_batch", "tuning_lr", "tuning_warm_up")
"""Fields of the plan that decide the weights."""


class Together:
    """Layers in training together, the fit's `Job`.

    Losses are KL(untouched ‖ converted) of the next token, in nats: the untouched model's
    predictions are the best there are, so that nothing is gained by learning the text.

    Args:
        layers: the converted ones, by number.
        host: the model on the contexts to train on.
        held_out: the model on others.
        plan: batches.
    """

    def __init__(self, layers: Mapping[int, Gated], host: Host, held_out: Host, plan: Plan) -> None:
        self.layers = {n: deepcopy(layer).requires_grad_(True) for n, layer in layers.items()}
        self.weights: Mapping[str, nn.Parameter] = {
            f"{n}.{name}": weights
            for n, layer in self.layers.items()
            for name, weights in layer.named_parameters()
        }
        self._host, self._held_out, self._batch = host, held_out, plan.tuning_batch
        self.n_steps = plan.tuning_contexts // plan.tuning_epochs // plan.tuning_batch
        if not 0 < plan.tuning_contexts <= host.n_documents or self.n_steps == 0:
            raise UsageError(
                f"{plan.tuning_contexts} contexts are too few for {plan.tuning_epochs} epochs of "
                f"batches of {plan.tuning_batch}, or more than the {host.n_documents} of the text"
            )

    def losses(self, epoch: int) -> Iterator[Float[torch.Tensor, ""]]:
        """The loss of each batch; each context is seen once, in the order that it was drawn in."""
        for step in range(epoch * self.n_steps, (epoch + 1) * self.n_steps):
            yield self._divergence(self._host, slice(step * self._batch, (step + 1) * self._batch))

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The mean over batches of held-out contexts."""
        starts = range(0, self._held_out.n_documents, self._batch)
        found = [
            float(self._divergence(self._held_out, slice(start, start + self._batch)))
            for start in starts
        ]
        return sum(found) / len(found)

    def _divergence(self, host: Host, part: slice) -> Float[torch.Tensor, ""]:
        with torch.no_grad():
            untouched = log_softmax(host.logits(part, {}), dim=1)
        found = log_softmax(host.logits(part, self._changes()), dim=1)
        return kl_div(found, untouched, reduction="batchmean", log_target=True)

    def _changes(self) -> dict[int, Any]:
        return {n: _in_bfloat16(layer) for n, layer in self.layers.items()}

    def save(self, folder: Path) -> None:
        for n, layer in self.layers.items():
            save_gated(layer, folder / layer_file(n))


def layer_file(layer: int) -> str:
    """The file of one of the layers."""
    return f"layer-{layer}-{GATED_FILE}"


def _in_bfloat16(layer: Gated) -> Any:
    """A layer whose products are taken in bfloat16."""

    def change(x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token d_out"]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found: torch.Tensor = layer(x)
        return found

    return change


def tune(
    layers: Mapping[int, Gated],
    host: Host,
    held_out: Host,
    where: Mapping[str, Any],
    plan: Plan,
    folder: Path,
    on_stage: OnStage,
) -> dict[int, Path]:
    """Train converted layers together, unless the folder has them; each one's file.

    Args:
        layers: the converted ones, by number.
        host: the model on the contexts to train on.
        held_out: the model on others.
        where: what the layers and contexts are, as JSON has it; a folder with others is refused.
        plan: of the training.
        folder: of the run.
        on_stage: told the epochs.
    """
    settings = {name: value for name, value in asdict(plan).items() if name in SETTINGS}
    claimed = ClaimedFolder(folder, {"kind": "together", **where, **settings}, {})
    if not claimed.claim():
        schedule = Schedule(plan.tuning_lr, plan.tuning_warm_up, plan.tuning_epochs)
        fit(Together(layers, host, held_out, plan), schedule, claimed, on_stage)
    return {n: folder / layer_file(n) for n in layers}
