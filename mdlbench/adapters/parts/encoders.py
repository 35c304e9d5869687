"""Normalised activations → latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float32

from mdlbench.adapters.parts.activations import Activation
from mdlbench.adapters.parts.blocks import block_tokens
from mdlbench.codes.forest import Forest
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.errors import CoderError


class SparseEncoder(Protocol):
    """Normalised activations of width `d_in` → latents."""

    @property
    def d_in(self) -> int: ...

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents: ...


@dataclass(frozen=True)
class Encoder:
    """activation((x − centre) W_enc + b_enc)."""

    W_enc: Float32[torch.Tensor, "d_in latent"]
    b_enc: Float32[torch.Tensor, " latent"]
    centre: Float32[torch.Tensor, " d_in"]
    activation: Activation

    @property
    def d_in(self) -> int:
        return len(self.W_enc)

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        """Latents of all tokens, block by block."""
        parts = torch.split(x, block_tokens(len(self.b_enc)))
        return concatenate([self._block(part) for part in parts])

    def _block(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        a = torch.addmm(self.b_enc, x - self.centre, self.W_enc)
        if a.numel() and not torch.stack(torch.aminmax(a)).isfinite().all():
            raise CoderError("encode: pre-activations are NaN or infinite")
        return sparse_latents(self.activation, a)


def sparse_latents(
    activation: Activation, a: Float32[torch.Tensor, "token latent"]
) -> SparseLatents:
    """What an activation makes of a block's pre-activations."""
    found = activation(a)
    return SparseLatents(
        found.token.int().cpu().numpy(),
        found.latent.int().cpu().numpy(),
        found.value.cpu().numpy(),
        n_tokens=a.shape[0],
        n_latents=a.shape[1],
    )


@dataclass(frozen=True)
class TreeEncoder:
    """An encoder whose latents are off where their parent is."""

    encoder: SparseEncoder
    forest: Forest

    @property
    def d_in(self) -> int:
        return self.encoder.d_in

    def __call__(self, x: Float32[torch.Tensor, "token d_in"]) -> SparseLatents:
        return self.forest.gated(self.encoder(x))
