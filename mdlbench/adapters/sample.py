"""Activations to try a coder on."""

from __future__ import annotations

import torch
from jaxtyping import Float32

from mdlbench.sources.protocol import ActivationSource


def sample(
    d_in: int, source: ActivationSource | None, n_tokens: int
) -> Float32[torch.Tensor, "token d_in"]:
    """What the source gives first on the test split; standard-normal values without a source."""
    if source is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(n_tokens, d_in, generator=generator)
    return next(source.blocks("test")).given[:n_tokens].float()
