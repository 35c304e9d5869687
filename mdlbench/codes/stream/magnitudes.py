"""The symbols of firing latents, each latent's under its own q_i(v | on) (maths §3)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int32, Int64

from mdlbench.codes.codelength import Codebook, PooledMagnitudes
from mdlbench.codes.stream.channel import TABLE_CELLS, Channel, categorical, uniform, within

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
    if escape:
        _code_cells(channel, codebook, active, cell)
    coded = np.append(pooled.alphabet, np.int32(0))[cell]
    novel = np.flatnonzero(cell == escape)
    tails = channel.given(len(novel), lambda: symbols[novel].astype(np.int64))
    coded[novel] = code_integers(channel, tails, pooled.signed)
    return coded


def _code_cells(
    channel: Channel,
    codebook: Codebook,
    active: Int64[np.ndarray, " latent"],
    cell: Int32[np.ndarray, " nnz"],
) -> None:
    """Code the cells in place, a model per latent."""
    latents = np.flatnonzero(active)
    channel.tabulate(len(latents) * (len(codebook.pooled.alphabet) + 1))
    batch = max(1, TABLE_CELLS // len(codebook.pooled.alphabet))
    stop = 0
    for first in range(0, len(latents), batch):
        block = latents[first : first + batch]
        for mass, n in zip(_masses(codebook, block), active[block].tolist(), strict=True):
            start, stop = stop, stop + n
            cell[start:stop] = channel.code(categorical(mass), cell[start:stop])


def _masses(
    codebook: Codebook, latents: Int64[np.ndarray, " latent"]
) -> Float64[np.ndarray, "latent value_and_escape"]:
    """q_i(v | on) up to its denominator, n_i(v) + s·g(v), of every pooled symbol and the escape."""
    pooled, counts = codebook.pooled, codebook.counts
    base = codebook.strength * np.append(pooled.probability, pooled.escape)
    masses = np.repeat(base[None], len(latents), axis=0)
    begin, end = np.searchsorted(counts.latent, [latents, latents + 1])
    row = np.repeat(np.arange(len(latents)), end - begin)
    pair = np.repeat(begin, end - begin) + within(end - begin)
    # not divided by their sum: the coder itself scales weights to integers of 24 bits
    masses[row, np.searchsorted(pooled.alphabet, counts.symbol[pair])] += counts.count[pair]
    return masses


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
    # bit by bit over all integers, rather than integer by integer: one call of the coder for a
    # plane. The bound ends a corrupt stream of ones, which would grow for ever.
    while len(longer) and exponent.max() < LARGEST_EXPONENT:
        longer = longer[bits(size[longer] >> exponent[longer] > 1) == 1]
        exponent[longer] += 1
    coded = np.ones(len(size), dtype=np.int64)
    for bit in range(int(exponent.max(initial=0)) - 1, -1, -1):
        wide = np.flatnonzero(exponent > bit)
        coded[wide] = 2 * coded[wide] + bits(size[wide] >> bit & 1)
    negative = bits(integers < 0) if signed else np.zeros(len(size), dtype=np.int32)
    return np.where(negative == 1, -coded, coded)
