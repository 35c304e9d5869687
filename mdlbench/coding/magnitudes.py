"""The symbols of firing latents, each latent's under its own q_i(v | on) (maths §3)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64

from mdlbench.codelength import Codebook, PooledMagnitudes
from mdlbench.coding.channel import Channel, categorical, uniform

LARGEST_EXPONENT = 30
"""Symbols stay below 2^31."""


def code_magnitudes(
    channel: Channel,
    codebook: Codebook,
    active: Int64[np.ndarray, " latent"],
    symbols: Int32[np.ndarray, " nnz"],
) -> Int32[np.ndarray, " nnz"]:
    """Nonzero symbols sorted by latent, `active[i]` of latent i; ignored when reading."""
    pooled = codebook.pooled
    escape = len(pooled.alphabet)
    cell = channel.given(int(active.sum()), lambda: _cells(pooled, symbols)).astype(np.int32)
    stop = 0
    for latent in np.flatnonzero(active if escape else 0 * active).tolist():
        start, stop = stop, stop + int(active[latent])
        _, probability = codebook.magnitude_distribution(latent)
        cell[start:stop] = channel.code(categorical(probability), cell[start:stop])
    coded = np.append(pooled.alphabet, np.int32(0))[cell]
    novel = np.flatnonzero(cell == escape)
    tails = channel.given(len(novel), lambda: symbols[novel].astype(np.int64))
    coded[novel] = code_integers(channel, tails, pooled.signed)
    return coded


def _cells(pooled: PooledMagnitudes, symbols: Int32[np.ndarray, " nnz"]) -> np.ndarray:
    """Each symbol's place in the pooled alphabet, or the escape after it."""
    cell = np.searchsorted(pooled.alphabet, symbols)
    return np.where(pooled.of(symbols) > 0, cell, len(pooled.alphabet)).astype(np.int64)


def code_integers(
    channel: Channel, integers: Int64[np.ndarray, " n"], signed: bool
) -> Int64[np.ndarray, " n"]:
    """Nonzero integers in Exp-Golomb bits, 2⌊log₂|x|⌋ + 1, and a sign bit where there are signs."""
    size = np.abs(integers)
    fair = uniform(2)

    def bits(values: np.ndarray) -> np.ndarray:
        return channel.code(fair, values.astype(np.int32))

    exponent = np.zeros(len(size), dtype=np.int64)
    longer = np.arange(len(size))
    while len(longer) and exponent.max() < LARGEST_EXPONENT:
        longer = longer[bits(size[longer] >> exponent[longer] > 1) == 1]
        exponent[longer] += 1
    coded = np.ones(len(size), dtype=np.int64)
    for bit in range(int(exponent.max(initial=0)) - 1, -1, -1):
        wide = np.flatnonzero(exponent > bit)
        coded[wide] = 2 * coded[wide] + bits(size[wide] >> bit & 1)
    negative = bits(integers < 0) if signed else np.zeros(len(size), dtype=np.int32)
    return np.where(negative == 1, -coded, coded)
