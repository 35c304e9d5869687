"""How long a matrix is that is rounded at a step (maths §11)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from mdlbench.codes.codelength import PARAMETER_BITS, adaptive
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import Symbols, dequantise, quantise
from mdlbench.codes.tally import SymbolCounts


class Rounded(NamedTuple):
    """A matrix as it arrives, and the bits that it took."""

    matrix: Float32[np.ndarray, "row column"]
    bits: float


def rounded(matrix: Float32[np.ndarray, "row column"], step: float) -> Rounded:
    """Entries at the nearest multiples of a step, sent by the adaptive code of maths §3.

    Rows stand for latents and columns for tokens, or the other way round, whichever is shorter; a
    bit says which. The step takes 32 bits.

    Raises:
        CoderError: an entry is not finite, or too large for the step.
        UsageError: the step is not a positive number.
    """
    by_row, by_column = (
        quantise(SparseLatents.from_dense(one), step) for one in (matrix.T, matrix)
    )
    bits = min(_bits(by_row), _bits(by_column)) + 1 + PARAMETER_BITS
    return Rounded(dequantise(by_column, step).to_dense(), bits)


def _bits(symbols: Symbols) -> float:
    return adaptive(SymbolCounts.of(symbols)) * symbols.n_tokens
