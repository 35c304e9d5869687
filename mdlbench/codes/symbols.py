"""Latents to integer symbols and back (maths §2), and the half-steps that hold every dyadic step.

The quantiser `uniform` is `quantise(latents, step)`. The quantiser `normalised` is the same on
`latents.scaled(norms)`, undone by `dequantise(symbols, step).scaled(1 / norms)`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Int32, Int64

from mdlbench.codes.latents import SparseLatents
from mdlbench.errors import CoderError, UsageError

HALF_STEP_LIMIT = 2**30
"""Half-steps stay below it, so that symbols of every octave are exact in int32."""


@dataclass(frozen=True, eq=False)
class Symbols:
    """The nonzero symbols of a run of tokens, sorted by token, then by latent.

    Attributes:
        token: row of each nonzero within this run, 0-based, non-decreasing.
        latent: dictionary index of each nonzero, increasing within a token.
        symbol: integer code, never zero; negative only for signed latents.
        n_tokens: tokens in the run, those without a nonzero included.
        n_latents: dictionary size D.
    """

    token: Int32[np.ndarray, " nnz"]
    latent: Int32[np.ndarray, " nnz"]
    symbol: Int32[np.ndarray, " nnz"]
    n_tokens: int
    n_latents: int

    @property
    def nnz(self) -> int:
        return len(self.symbol)

    @property
    def active_per_token(self) -> Int64[np.ndarray, " token"]:
        """k_t, the nonzero symbols of each token."""
        return np.bincount(self.token, minlength=self.n_tokens)


class Reconstruction(Protocol):
    """A quantiser as its decoder knows it: from symbols to values."""

    @property
    def header_bits(self) -> float:
        """Bits of its parameters, sent once; the step itself is not charged."""
        ...

    @property
    def columns(self) -> Mapping[str, list[int]]:
        """The integers that, with the step, determine it; none for a plain step."""
        ...

    def values(self, symbols: Symbols) -> SparseLatents:
        """The latents that symbols stand for; a latent that is off stays exactly zero."""
        ...


class FittedQuantiser(Reconstruction, Protocol):
    """A quantiser at one step, fitted on calibration tokens.

    It can be hashed, and equal ones round alike.
    """

    def symbols(self, latents: SparseLatents) -> Symbols:
        """Nonzero symbols of scaled latents; raises `CoderError` as `quantise` does."""
        ...


@dataclass(frozen=True)
class PlainStep:
    """One step for all latents, rounded half away from zero: nothing to fit, nothing to send."""

    step: float

    @property
    def header_bits(self) -> float:
        return 0.0

    @property
    def columns(self) -> Mapping[str, list[int]]:
        return {}

    def symbols(self, latents: SparseLatents) -> Symbols:
        return quantise(latents, self.step)

    def values(self, symbols: Symbols) -> SparseLatents:
        return dequantise(symbols, self.step)


def quantise(latents: SparseLatents, step: float) -> Symbols:
    """Symbols round-half-away(value / step); those that round to zero are off.

    Raises:
        CoderError: a value is not finite, or too large for this step.
    """
    symbol = symbol_at(half_steps(latents.value, step), 0)
    on = symbol != 0
    return Symbols(
        latents.token[on], latents.latent[on], symbol[on], latents.n_tokens, latents.n_latents
    )


def dequantise(symbols: Symbols, step: float) -> SparseLatents:
    """Latents symbol · step; a latent that was off stays exactly zero."""
    value = (symbols.symbol * np.float64(step)).astype(np.float32)
    return SparseLatents(symbols.token, symbols.latent, value, symbols.n_tokens, symbols.n_latents)


def half_steps(value: Float32[np.ndarray, " nnz"], step: float) -> Int32[np.ndarray, " nnz"]:
    """c = sign(a)·⌊2|a|/step⌋, from which every coarser dyadic symbol follows (maths §4).

    Raises:
        CoderError: a value is not finite, or too large for this step.
        UsageError: the step is not a positive number.
    """
    if not (step > 0 and math.isfinite(step)):
        raise UsageError(f"step must be positive and finite, not {step}")
    if len(value) == 0:
        return np.zeros(0, dtype=np.int32)
    ratio = np.divide(value, 0.5 * step, dtype=np.float64)
    if not (ratio.max() < HALF_STEP_LIMIT and ratio.min() > -HALF_STEP_LIMIT):
        largest = value[np.argmax(np.abs(ratio))]
        raise CoderError(
            f"latents: a value of {largest:.6g} cannot be quantised at step {step:.6g}; "
            "values must be finite and below 2^29 steps: use a coarser step"
        )
    half_step: Int32[np.ndarray, " nnz"] = ratio.astype(np.int32)
    return half_step


def symbol_at(half_step: Int32[np.ndarray, "*shape"], octave: int) -> Int32[np.ndarray, "*shape"]:
    """The symbol at step 2^octave · finest, sign(c)·((|c| + 2^octave) >> (octave + 1))."""
    magnitude = (np.abs(half_step) + np.int32(1 << octave)) >> np.int32(octave + 1)
    symbol: Int32[np.ndarray, "*shape"] = np.sign(half_step) * magnitude
    return symbol
