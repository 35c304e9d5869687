"""Inputs that excite one eigenvector and no other: adversarial masks from weights (maths §11)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mdlbench.errors import UsageError


def decoder_of(vectors: Float64[np.ndarray, "factor d"]) -> Float64[np.ndarray, "factor d"]:
    """Rows r with v_i·r_j = 1 for i = j and 0 else, in the span of the vectors: V⁺ transposed.

    Raises:
        UsageError: the vectors are linearly dependent, so that there are more than their rank.
    """
    rank = int(np.linalg.matrix_rank(vectors)) if len(vectors) else 0
    if rank < len(vectors):
        raise UsageError(
            f"{len(vectors)} factors span only {rank} dimensions: ask for fewer, at most that many"
        )
    return np.asarray(np.linalg.pinv(vectors).T)


def masks(vectors: Float64[np.ndarray, "factor d"]) -> Float64[np.ndarray, "factor d"]:
    """For each vector the unit input that excites it most of those that excite no other.

    The sign is such that the entries' sum is not negative: brightening, for images.

    Raises:
        UsageError: the vectors are linearly dependent.
    """
    rows = decoder_of(vectors)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(unit * np.where(unit.sum(axis=1) < 0, -1.0, 1.0)[:, None])
