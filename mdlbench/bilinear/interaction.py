"""The quadratic form that a direction of a bilinear layer's output is (maths §11)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.errors import UsageError


def interaction_matrix(
    layer: BilinearLayer, direction: Float64[np.ndarray, " d_out"]
) -> Float64[np.ndarray, "d d"]:
    """Q with xᵀQx = uᵀg(x) for a direction u: Σ_a (uᵀP)_a · ½(w_a v_aᵀ + v_a w_aᵀ).

    Q is symmetric: an antisymmetric part would contribute nothing. With biases, x has a 1
    appended, and Q a last row and column.

    Raises:
        UsageError: the direction is not one of the layer's output.
    """
    if direction.shape != (layer.d_out,):
        raise UsageError(
            f"a direction of shape {direction.shape} in an output of width {layer.d_out}"
        )
    whole = layer.without_biases()
    half = whole.w.T @ ((direction @ whole.p)[:, None] * whole.v)
    return np.asarray((half + half.T) / 2)


def appended(x: Float64[np.ndarray, "token d_in"], d: int) -> Float64[np.ndarray, "token d"]:
    """An input as a form of width d reads it: with a 1 behind it, where d is one more."""
    if x.shape[1] == d:
        return x
    return np.hstack([x, np.ones((len(x), 1))])
