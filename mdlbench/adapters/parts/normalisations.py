"""What is done to each token before the encoder, and how the decoder undoes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float32


class Normalisation(Protocol):
    """What is done to each token before the encoder and undone after the decoder."""

    @property
    def bits(self) -> float:
        """Bits per token of the side information."""
        ...

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token side"]]:
        """The normalised tokens, and the side information that undoes it."""
        ...

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token side"]
    ) -> Float32[torch.Tensor, "token d"]: ...


class Unnormalised:
    """No normalisation, no side information."""

    bits = 0.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 0"]]:
        return x, x[:, :0]

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 0"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x


class LayerNorm:
    """(x − mean)/(std + 1e-5), unbiased std; undone by ·std + mean, two floats a token."""

    bits = 64.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 2"]]:
        mean = x.mean(dim=1, keepdim=True)
        centred = x - mean
        std = centred.std(dim=1, keepdim=True)
        return centred / (std + 1e-5), torch.cat([mean, std], dim=1)

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 2"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x * side[:, 1:] + side[:, :1]


class ConstantNorm:
    """Every token scaled to norm √d; undone by ‖x‖/√d, one float a token."""

    bits = 32.0

    def apply(
        self, x: Float32[torch.Tensor, "token d"]
    ) -> tuple[Float32[torch.Tensor, "token d"], Float32[torch.Tensor, "token 1"]]:
        scale = x.norm(dim=1, keepdim=True) / x.shape[1] ** 0.5
        return x / scale.clamp(min=torch.finfo(x.dtype).tiny), scale

    def undo(
        self, x: Float32[torch.Tensor, "token d"], side: Float32[torch.Tensor, "token 1"]
    ) -> Float32[torch.Tensor, "token d"]:
        return x * side


@dataclass(frozen=True)
class Skip:
    """The linear path around the latents of a skip transcoder (arXiv:2501.18823).

    The latents say nothing of W_skip x, so it is side information: d_out floats a token, added to
    what the decoder makes of the latents.
    """

    W_skip: Float32[torch.Tensor, "d_out d_in"]

    @property
    def bits(self) -> float:
        return 32.0 * len(self.W_skip)

    def apply(
        self, x: Float32[torch.Tensor, "token d_in"]
    ) -> tuple[Float32[torch.Tensor, "token d_in"], Float32[torch.Tensor, "token d_out"]]:
        return x, x @ self.W_skip.T

    def undo(
        self, x: Float32[torch.Tensor, "token d_out"], side: Float32[torch.Tensor, "token d_out"]
    ) -> Float32[torch.Tensor, "token d_out"]:
        return x + side
