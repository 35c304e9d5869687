"""Pre-activations → nonzero latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64


class Nonzeros(NamedTuple):
    """The nonzero latents of a block, sorted by token, then by latent."""

    token: Int64[torch.Tensor, " nnz"]
    latent: Int64[torch.Tensor, " nnz"]
    value: Float32[torch.Tensor, " nnz"]


Activation = Callable[[Float32[torch.Tensor, "token latent"]], Nonzeros]
"""Pre-activations → nonzero latents."""


def _nonzeros(
    dense: Float32[torch.Tensor, "token latent"], active: torch.Tensor | None = None
) -> Nonzeros:
    token, latent = torch.nonzero(dense if active is None else active, as_tuple=True)
    return Nonzeros(token, latent, dense[token, latent])


@dataclass(frozen=True)
class JumpReLU:
    """relu(a)·(a > θ), strictly (arXiv:2407.14435). ReLU where θ = 0."""

    threshold: Float32[torch.Tensor, " latent"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        return _nonzeros(a, a > self.threshold.clamp(min=0))


@dataclass(frozen=True)
class TopK:
    """ReLU of the k largest of each token (arXiv:2406.04093); without it if not `rectified`.

    With `signed`, the k largest in magnitude, signs kept (AbsTopK, arXiv:2510.00404).
    """

    k: int
    signed: bool = False
    rectified: bool = True

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        ranked = a.abs() if self.signed else a
        chosen = ranked.topk(self.k, dim=1, sorted=False).indices.sort(dim=1).values
        value = a.gather(1, chosen)
        positive = self.rectified and not self.signed
        token, place = torch.nonzero(value > 0 if positive else value, as_tuple=True)
        return Nonzeros(token, chosen[token, place], value[token, place])


@dataclass(frozen=True)
class GroupMax:
    """ReLU of the largest of each of k groups of neighbouring latents, all of one size."""

    k: int

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        size = a.shape[1] // self.k
        value, place = a.reshape(len(a), self.k, size).max(dim=2)
        token, group = torch.nonzero(value > 0, as_tuple=True)
        latent = group * size + place[token, group]
        return Nonzeros(token, latent, value[token, group])


@dataclass(frozen=True)
class Gated:
    """(a + b_gate > 0)·relu(a·exp(r_mag) + b_mag), a = x W_enc (arXiv:2404.16014)."""

    b_gate: Float32[torch.Tensor, " latent"]
    r_mag: Float32[torch.Tensor, " latent"]
    b_mag: Float32[torch.Tensor, " latent"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        magnitude = torch.addcmul(self.b_mag, a, self.r_mag.exp())
        return _nonzeros(magnitude, (a + self.b_gate > 0) & (magnitude > 0))


@dataclass(frozen=True)
class Unrectified:
    """The pre-activations themselves: an orthonormal transform."""

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        return _nonzeros(a)


@dataclass(frozen=True)
class OneHot:
    """1 for the largest of each token, 0 for all others: vector quantisation."""

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        token = torch.arange(len(a), device=a.device)
        return Nonzeros(token, a.argmax(dim=1), torch.ones(len(a), device=a.device))


@dataclass(frozen=True)
class GroupNorm:
    """Whole groups of neighbouring latents, signed, whose norm exceeds the group's θ."""

    threshold: Float32[torch.Tensor, " group"]

    def __call__(self, a: Float32[torch.Tensor, "token latent"]) -> Nonzeros:
        norms = a.reshape(len(a), len(self.threshold), -1).norm(dim=2)
        active = (norms > self.threshold).repeat_interleave(a.shape[1] // len(self.threshold), 1)
        return _nonzeros(a, active & (a != 0))
