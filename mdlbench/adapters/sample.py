"""Activations to try a coder on."""

from __future__ import annotations

import torch
from jaxtyping import Float32

from mdlbench.sources.protocol import ActivationSource, Block


def sample(
    d_in: int, source: ActivationSource | None, n_tokens: int
) -> Float32[torch.Tensor, "token d_in"]:
    """What the source gives first on the test split; standard-normal values without a source."""
    if source is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(n_tokens, d_in, generator=generator)
    return torch.cat([block.given for block in first_blocks(source, n_tokens)])[:n_tokens].float()


def first_blocks(source: ActivationSource, n_tokens: int) -> list[Block]:
    """The first blocks of the test split that have so many tokens; all where none have."""
    taken: list[Block] = []
    for index in range(source.n_blocks("test")):
        taken.extend(source.blocks("test", index, index + 1))
        if sum(len(one.document) for one in taken) >= n_tokens:
            break
    return taken
