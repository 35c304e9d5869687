"""What a layer makes of many tokens: computed once, kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float16

from mdlbench.disk.blocks import KeptBlocks
from mdlbench.disk.cache import Recipe, kept
from mdlbench.errors import SourceError, SpoolError
from mdlbench.papers.bilinear_language.gated import Gated
from mdlbench.sources.language.harvest import first_array
from mdlbench.sources.language.source import computed_by

CHUNK = 1 << 13
"""So many tokens go through a layer at once."""
VERSION = 1
"""The version of what is kept; outputs of another one are computed again."""

Half = Float16[torch.Tensor, "_ _"]
"""A row for each token; several in one call have sizes of their own."""


def chunks(x: Half) -> Iterator[Half]:
    """Tokens in the order that they lie in, `CHUNK` at a time."""
    return (x[start : start + CHUNK] for start in range(0, len(x), CHUNK))


@torch.no_grad()
def outputs_of(layer: Gated, x: Half) -> Half:
    """What a layer makes of inputs: computed in float32, kept in half precision.

    Raises:
        SourceError: an output is not finite, or too large for half precision.
    """
    parts = list(chunks(x))
    inputs = [hashlib.sha256(part.contiguous().numpy().data).hexdigest() for part in parts]
    facts = {"protocol": VERSION, "layer": layer.sha256, "computed by": computed_by(x.device)}

    def recipe(index: int) -> Recipe:
        return Recipe("activations", "outputs of an MLP", {**facts, "inputs": inputs[index]})

    blocks = KeptBlocks("outputs of an MLP", recipe, kept())
    return torch.cat([_part(layer, part, index, blocks) for index, part in enumerate(parts)])


def _part(layer: Gated, x: Half, index: int, blocks: KeptBlocks) -> Half:
    found = first_array(blocks, index)
    if found is None:
        made = layer(x.float()).half()
        if not made.isfinite().all():
            raise SourceError("an MLP's output is not finite, or too large for half precision")
        blocks.put(index, [np.ascontiguousarray(made.numpy())])
        found = first_array(blocks, index)
    if found is None:
        raise SpoolError("activations were removed from the cache in use; run it again")
    return found


def variance(y: Half) -> float:
    """Mean ‖y − ȳ‖² over tokens."""
    mean = y.mean(dim=0, dtype=torch.float32)
    squares = [float((part.float() - mean).square().sum()) for part in chunks(y)]
    return sum(squares) / len(y)
