"""How the features of an SAE on a bilinear layer's input make up one on its output (maths §11)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.errors import UsageError

BLOCK = 512
"""Features whose interactions with all others are held at a time."""


class Interactions(NamedTuple):
    """The strongest pairs of input features, by falling size of the weight.

    Attributes:
        first, second: the features of each pair, first ≤ second.
        weight: what the pair adds to the output for each unit of the product of both latents.
    """

    first: Int64[np.ndarray, " pair"]
    second: Int64[np.ndarray, " pair"]
    weight: Float64[np.ndarray, " pair"]


def feature_interactions(
    layer: BilinearLayer,
    direction: Float64[np.ndarray, " d_out"],
    features: Float64[np.ndarray, "feature d_in"],
    strongest: int,
) -> Interactions:
    """The strongest of the weights in uᵀg(Σ z_i d_i) = Σ_{i≤j} weight_ij z_i z_j.

    Args:
        layer: without biases; of one with biases take `without_biases()`, and give each feature a
            last entry 0.
        direction: u, of the output: the encoder's column of an output feature.
        features: d, the decoder rows of the SAE on the input. Its bias is one more row, whose
            latent is always 1.
        strongest: how many pairs to keep.

    Raises:
        UsageError: the layer has biases, a shape does not fit, or there are not so many pairs.
    """
    if layer.has_biases:
        raise UsageError(
            "the layer has biases: take its without_biases(), and append 0 to features"
        )
    if features.shape[1] != layer.d_in or direction.shape != (layer.d_out,):
        raise UsageError(
            f"features of width {features.shape[1]} and a direction of shape {direction.shape} do "
            f"not fit a layer from {layer.d_in} to {layer.d_out}"
        )
    n = len(features)
    if not 0 < strongest <= n * (n + 1) // 2:
        raise UsageError(f"{n} features have {n * (n + 1) // 2} pairs, not {strongest}")
    one, other = features @ layer.w.T, features @ layer.v.T
    weights = direction @ layer.p
    kept = Interactions(*(np.zeros(0, kind) for kind in (np.int64, np.int64, np.float64)))
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        # the factor ½ of the symmetric form and the two orders of a pair cancel
        pairs = (one[rows] * weights) @ other.T + (other[rows] * weights) @ one.T
        first, second = np.nonzero(np.arange(n) >= np.arange(start, min(start + BLOCK, n))[:, None])
        found = pairs[first, second]
        found = np.where(first + start == second, found / 2, found)
        kept = _strongest(kept, Interactions(first + start, second, found), strongest)
    return kept


def _strongest(one: Interactions, other: Interactions, n: int) -> Interactions:
    first, second, weight = (np.concatenate(both) for both in zip(one, other, strict=True))
    order = np.argsort(-np.abs(weight), kind="stable")[:n]
    return Interactions(first[order], second[order], weight[order])
