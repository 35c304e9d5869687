"""A bilinear layer as a sum of squares, each written to one direction of the output (maths §11)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.bilinear.hosvd import output_factors
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import spectra


class Squares(NamedTuple):
    """Σ (v_jᵀx)² r_j.

    Attributes:
        vectors: v, one unit row for each square.
        rows: r, the direction of the output that it adds to, times its eigenvalue.
    """

    vectors: Float64[np.ndarray, "square d_in"]
    rows: Float64[np.ndarray, "square d_out"]

    def output(self, x: Float64[np.ndarray, "token d_in"]) -> Float64[np.ndarray, "token d_out"]:
        """What they make of an input."""
        return np.asarray(np.square(x @ self.vectors.T) @ self.rows)


def strongest_squares(layer: BilinearLayer, n: int) -> Squares:
    """The n eigenvectors of largest |λ| of all shared factors' forms; all where there are fewer.

    No |λ| of a factor's form exceeds the factor's strength, so weak factors need not be decomposed.

    Args:
        layer: without biases.
        n: how many squares.
    """
    strengths, directions = output_factors(layer)
    sizes = np.empty(0)
    found = Squares(np.empty((0, layer.d_in)), np.empty((0, layer.d_out)))
    forms = spectra(layer, directions)
    for strength, direction, form in zip(strengths, directions, forms, strict=True):
        more = form.strongest(min(n, form.rank))
        sizes = np.concatenate([sizes, np.abs(more.values)])
        kept = np.argsort(-sizes, kind="stable")[:n]
        sizes = sizes[kept]
        found = Squares(
            np.vstack([found.vectors, more.vectors])[kept],
            np.vstack([found.rows, more.values[:, None] * direction])[kept],
        )
        if len(sizes) == n and strength < sizes[-1]:
            break
    return found
