"""A gated MLP whose gate can be made linear step by step, and its file (maths §11)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors.torch import load, save
from torch import nn
from torch.nn.functional import linear

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.disk.files import read_regular, write_atomically
from mdlbench.errors import CheckpointError, UsageError, first_line, heed_shortage

GATED_FILE = "gated.safetensors"
LARGEST_FILE = 1 << 30
"""The most bytes of a layer's file."""
PARTS = ("gate_proj", "up_proj", "down_proj")
"""Linear maps of a SwiGLU MLP of `transformers`: W, V and P."""


class Gated(nn.Module):
    """P(s·Swish_β(Wx) ⊙ Vx), with Swish_β(z) = z·σ(βz): SwiGLU at β = 1, bilinear at β = 0.

    Args:
        w, v: hidden × d_in; copied.
        p: d_out × hidden; copied.
        scale: s, one number, which is learned.
        beta: β, which is set.
    """

    def __init__(
        self,
        w: Float[torch.Tensor, "hidden d_in"],
        v: Float[torch.Tensor, "hidden d_in"],
        p: Float[torch.Tensor, "d_out hidden"],
        scale: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__()
        self.w, self.v, self.p = (
            nn.Parameter(one.detach().float().contiguous().clone()) for one in (w, v, p)
        )
        self.scale = nn.Parameter(torch.tensor(scale))
        self.beta = beta

    @classmethod
    def of(cls, mlp: Any) -> Gated:
        """The MLP of a layer of `transformers`.

        Raises:
            UsageError: it is no SwiGLU MLP without biases.
        """
        maps = [getattr(mlp, name, None) for name in PARTS]
        if not all(isinstance(one, nn.Linear) and one.bias is None for one in maps):
            raise UsageError(
                f"its {type(mlp).__name__} has no {', '.join(PARTS)} without biases: only a SwiGLU "
                "MLP is turned bilinear"
            )
        z = torch.linspace(-4, 4, 9)
        if not torch.allclose(mlp.act_fn(z), z * torch.sigmoid(z), atol=1e-5):
            raise UsageError(
                f"the gate of its {type(mlp).__name__} is not Swish: only a SwiGLU MLP is turned "
                "bilinear"
            )
        return cls(*(one.weight for one in maps if one is not None))

    def forward(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token d_out"]:
        z = linear(x, self.w)
        gate = self.scale * z * torch.sigmoid(self.beta * z)
        return linear(gate * linear(x, self.v), self.p)

    @property
    def sha256(self) -> str:
        """Digest of the weights and β."""
        digest = hashlib.sha256(f"{self.beta}".encode())
        for name, tensor in self.named_parameters():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def bilinear(self) -> BilinearLayer:
        """The layer in float64, of which Swish_0(z) = z/2 and the scale are folded into W.

        Raises:
            UsageError: β is not 0, so that it is none.
        """
        if self.beta != 0:
            raise UsageError(f"a gate with β = {self.beta:g} is not linear: only β = 0 is bilinear")
        half = float(self.scale.detach()) / 2
        return BilinearLayer(half * _float64(self.w), _float64(self.v), _float64(self.p))


def save_gated(layer: Gated, path: Path) -> None:
    """Write a layer in float32."""
    weights = {name: tensor.detach().cpu() for name, tensor in layer.named_parameters()}
    write_atomically(path, save({**weights, "beta": torch.tensor(layer.beta)}))


def load_gated(path: Path) -> Gated:
    """A layer from its file.

    Raises:
        CheckpointError: the file is missing, of another kind, mis-shaped, or holds NaN.
    """
    try:
        weights = load(read_regular(path, LARGEST_FILE))
        layer = Gated(
            weights["w"],
            weights["v"],
            weights["p"],
            float(weights["scale"]),
            float(weights["beta"]),
        )
    except Exception as error:
        heed_shortage(error)
        raise CheckpointError(
            f"{path}: not a gated layer that can be read: {first_line(error)}"
        ) from error
    if layer.v.shape != layer.w.shape or layer.p.shape[1] != len(layer.w):
        raise CheckpointError(f"{path}: W, V and P do not fit together")
    if not all(tensor.isfinite().all() for tensor in layer.parameters()):
        raise CheckpointError(f"{path}: holds NaN or infinite weights")
    return layer.requires_grad_(False)


def _float64(weights: torch.Tensor) -> Float64[np.ndarray, "row column"]:
    return weights.detach().cpu().double().numpy()
