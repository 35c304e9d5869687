"""A classifier made of an embedding, bilinear layers and a head, and its file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float64
from safetensors.torch import load, save
from torch import nn

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.disk.files import read_regular, write_atomically
from mdlbench.errors import CheckpointError, UsageError, first_line, heed_shortage, listed

NETWORK_FILE = "bilinear.safetensors"
LARGEST_FILE = 1 << 29
"""The most bytes of a network's file."""
_LAYER = re.compile(r"layers\.(\d+)\.w\.weight")


class Bilinear(nn.Module):
    """(Wx + a) ⊙ (Vx + b); the projection is whatever comes after it."""

    def __init__(self, d_in: int, hidden: int, bias: bool = False) -> None:
        super().__init__()
        self.w = nn.Linear(d_in, hidden, bias=bias)
        self.v = nn.Linear(d_in, hidden, bias=bias)

    def forward(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token hidden"]:
        return cast(torch.Tensor, self.w(x) * self.v(x))


class BilinearNetwork(nn.Module):
    """An embedding, one or more bilinear layers of the same width, and a head.

    Args:
        d_in: width of the input.
        hidden: width of the embedding and of every layer.
        n_classes: logits of the head.
        layers: how many bilinear layers.
        bias: whether the layers and the head have biases; the embedding has none.
    """

    def __init__(
        self, d_in: int, hidden: int, n_classes: int, layers: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(d_in, hidden, bias=False)
        self.layers = nn.ModuleList(Bilinear(hidden, hidden, bias) for _ in range(layers))
        self.head = nn.Linear(hidden, n_classes, bias=bias)

    def forward(self, x: Float[torch.Tensor, "token d_in"]) -> Float[torch.Tensor, "token class"]:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return cast(torch.Tensor, self.head(x))

    @property
    def d_in(self) -> int:
        return self.embed.in_features

    def layer(self, index: int) -> BilinearLayer:
        """One of its layers in float64; the first one reads the network's input.

        The last one is followed by the head; others have the identity for a projection.

        Raises:
            UsageError: there is no such layer.
        """
        if not 0 <= index < len(self.layers):
            raise UsageError(f"there is no layer {index}: the network has {len(self.layers)}")
        found = cast(Bilinear, self.layers[index])
        w, v = _float64(found.w.weight), _float64(found.v.weight)
        biases = (_bias(found.w), _bias(found.v))
        if index < len(self.layers) - 1:
            layer = BilinearLayer(w, v, np.eye(len(w)), *biases)
        else:
            layer = BilinearLayer(w, v, _float64(self.head.weight), *biases, _bias(self.head))
        return layer.reading(_float64(self.embed.weight)) if index == 0 else layer

    def quadratic(self) -> BilinearLayer:
        """The whole network as one layer of its input.

        Raises:
            UsageError: it has several layers, so that its logits are no quadratic forms.
        """
        if len(self.layers) != 1:
            raise UsageError(
                f"a network of {len(self.layers)} bilinear layers computes polynomials of degree "
                f"{2 ** len(self.layers)}: only one of a single layer has an interaction matrix"
            )
        return self.layer(0)


def save_network(network: BilinearNetwork, path: Path, dtype: torch.dtype) -> None:
    """Write a network's weights in some precision."""
    weights = {name: tensor.to(dtype).cpu() for name, tensor in network.state_dict().items()}
    write_atomically(path, save(weights))


def load_network(path: Path) -> BilinearNetwork:
    """A network from its file, in float32.

    Raises:
        CheckpointError: the file is missing, of another kind, mis-shaped, or holds NaN.
    """
    try:
        weights = {
            name: tensor.float() for name, tensor in load(read_regular(path, LARGEST_FILE)).items()
        }
    except Exception as error:
        heed_shortage(error)
        raise CheckpointError(
            f"{path}: not a bilinear network that can be read: {first_line(error)}"
        ) from error
    return network_of(weights, str(path))


def network_of(weights: Mapping[str, Float[torch.Tensor, ...]], where: str) -> BilinearNetwork:
    """A network with these weights; raises `CheckpointError` that begins with `where`."""
    layers = [name for name in weights if _LAYER.fullmatch(name)]
    if not layers or "embed.weight" not in weights or "head.weight" not in weights:
        raise CheckpointError(
            f"{where}: a bilinear network has embed.weight, layers.0.w.weight, layers.0.v.weight "
            f"and head.weight; found {listed(weights) or 'nothing'}"
        )
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinite weights")
    if weights["embed.weight"].ndim != 2 or weights["head.weight"].ndim != 2:
        raise CheckpointError(f"{where}: embed.weight and head.weight must be matrices")
    (hidden, d_in), n_classes = weights["embed.weight"].shape, len(weights["head.weight"])
    network = BilinearNetwork(d_in, hidden, n_classes, len(layers), "head.bias" in weights)
    try:
        network.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{where}: not a bilinear network: {reason}") from error
    return network.eval()


def _float64(weights: torch.Tensor) -> Float64[np.ndarray, "row column"]:
    return weights.detach().cpu().double().numpy()


def _bias(linear: nn.Linear) -> Float64[np.ndarray, " row"] | None:
    return None if linear.bias is None else linear.bias.detach().cpu().double().numpy()
