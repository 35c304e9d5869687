"""Obvious, slow, dense float64 versions of what the package does sparsely and fast."""

from __future__ import annotations

from collections import Counter
from math import comb, floor, log2

import numpy as np
from hypothesis import strategies as st

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.symbols import Symbols


@st.composite
def dense_latents(
    draw: st.DrawFn, max_tokens: int = 24, max_latents: int = 6, signed: bool | None = None
) -> np.ndarray:
    """A [token, latent] matrix, half of it zero, with values on and off rounding boundaries."""
    shape = (draw(st.integers(1, max_tokens)), draw(st.integers(1, max_latents)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    firing = rng.choice([0.0, 0.05, 0.5, 1.0], size=shape[1])
    magnitude = rng.integers(1, 64, size=shape) / 8 + rng.choice([0, 0.01, 20.0], size=shape)
    allowed = draw(st.booleans()) if signed is None else signed
    sign = rng.choice([-1, 1], size=shape) if allowed else 1
    return (magnitude * sign * (rng.random(shape) < firing)).astype(np.float32)


def quantised(z: np.ndarray, step: float) -> np.ndarray:
    """Round half away from zero, value by value."""
    rounded = [[np.sign(a) * floor(abs(float(a)) / step + 0.5) for a in row] for row in z]
    return np.array(rounded, dtype=np.int64).reshape(z.shape)


def histogram(column: np.ndarray) -> Counter[int]:
    return Counter(int(symbol) for symbol in column)


def entropy(column: np.ndarray) -> float:
    """Bits of the empirical distribution of a column of symbols, zero included."""
    n = len(column)
    return -sum(count / n * log2(count / n) for count in histogram(column).values())


def subset_bits(n_latents: int, k: int) -> float:
    return log2(comb(n_latents, k))


def exp_golomb(x: int) -> int:
    """Length of the Exp-Golomb codeword of x ≥ 1: its binary form, after as many zeros less one."""
    binary = bin(x)[2:]
    return len("0" * (len(binary) - 1) + binary)


def sparse(z: np.ndarray) -> SparseLatents:
    return SparseLatents.from_dense(z)


def symbols_of(dense: np.ndarray) -> Symbols:
    """The nonzeros of an integer [token, latent] matrix."""
    dense = np.asarray(dense, dtype=np.int32)
    token, latent = np.nonzero(dense)
    return Symbols(
        token.astype(np.int32), latent.astype(np.int32), dense[token, latent], *dense.shape
    )


@st.composite
def forests(draw: st.DrawFn, min_latents: int = 0, max_latents: int = 8) -> np.ndarray:
    """Parents of a random forest whose latents are in random order."""
    n = draw(st.integers(min_latents, max_latents))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    name = rng.permutation(n)
    parents = np.full(n, -1, dtype=np.int32)
    for latent in range(1, n):
        if rng.random() < 0.7:
            parents[name[latent]] = name[rng.integers(latent)]
    return parents
