"""What the MLPs of some layers are given on a text: computed once, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float16

from mdlbench.console.stages import OnStage
from mdlbench.disk.blocks import KeptBlocks
from mdlbench.disk.cache import Recipe, Recipes, kept
from mdlbench.errors import SourceError, SpoolError, UsageError
from mdlbench.papers.bilinear_language.host import Host
from mdlbench.sources.language.harvest import first_array
from mdlbench.sources.language.source import computed_by

VERSION = 1
"""The version of what is kept; inputs of another one are computed again."""

Inputs = Float16[torch.Tensor, "_ _"]
"""A row for each token; several in one call have sizes of their own."""


@dataclass(frozen=True, eq=False)
class Harvest:
    """Inputs of MLPs in half precision, at one token after the other.

    Attributes:
        parts: of each layer; mapped from the cache's files.
        tokens: the first so many are trained on, all behind them held out.
    """

    parts: dict[int, list[Inputs]]
    tokens: int

    def trained_on(self, layer: int) -> Inputs:
        return torch.cat(self.parts[layer])[: self.tokens]

    def held_out(self, layer: int) -> Inputs:
        return torch.cat(self.parts[layer])[self.tokens :]


def harvest(
    host: Host, layers: Sequence[int], tokens: int, held_out: int, on_stage: OnStage
) -> Harvest:
    """Inputs of the MLPs of some layers; blocks that the cache has are not computed again.

    Raises:
        UsageError: the text is too short.
        SourceError: an input is not finite, or too large for half precision.
    """
    files = {layer: KeptBlocks("inputs of MLPs", _recipes(host, layer), kept()) for layer in layers}
    parts: dict[int, list[Inputs]] = {layer: [] for layer in layers}
    missing = tokens + held_out
    for index in range(host.n_blocks):
        if missing <= 0:
            break
        _compute(host, files, index, on_stage)
        for layer, file in files.items():
            parts[layer].append(_there(first_array(file, index))[:missing])
        missing -= len(parts[layers[0]][-1])
    if missing > 0:
        raise UsageError(
            f"the training text is too short: {missing:,} of {tokens + held_out:,} tokens are "
            "missing; give a longer one with --text"
        )
    return Harvest(parts, tokens)


def _compute(host: Host, files: dict[int, KeptBlocks], index: int, on_stage: OnStage) -> None:
    """Run the model on a block, unless all of it is kept."""
    missing = [layer for layer, file in files.items() if index not in file]
    if not missing:
        return
    on_stage(f"inputs of MLPs: block {index + 1} of at most {host.n_blocks}")
    for layer, values in host.inputs(host.block(index), missing).items():
        half = values.half()
        if not half.isfinite().all():
            raise SourceError(
                f"{host.model.name}: what the MLP of layer {layer} is given is not finite, or too "
                f"large for half precision, in block {index}"
            )
        files[layer].put(index, [np.ascontiguousarray(half.cpu().numpy())])


def _recipes(host: Host, layer: int) -> Recipes:
    """What each block of a layer depends on."""
    model = host.model
    facts = {
        "protocol": VERSION,
        "layer": layer,
        "model": [model.sha256, type(model).__name__, model.settings],
        "computed by": computed_by(model.device),
    }

    def recipe(index: int) -> Recipe:
        block = {"index": index, "contexts": host.facts(host.block(index))}
        return Recipe("activations", f"{model.name}, inputs of MLP {layer}", facts | block)

    return recipe


def _there(found: torch.Tensor | None) -> Inputs:
    if found is None:
        raise SpoolError("activations were removed from the cache in use; run it again")
    return found
