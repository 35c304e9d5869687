"""The quantiser `rdo`: rate-aware rounding with a dead zone, and centroids (maths §2).

A latent of value a whose nearest symbol is v takes whichever of 0, v and the next one towards 0 has
the least (a − value)² + λ·bits. λ is the slope of the curve of plain steps at Δ: (ln2/6)Δ² at high
rate, less at low ones. Bits are those of a codebook fitted on symbols so decided; values are
centroids. All that is an encoder's choice: a decoder knows the centroids alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy import sparse

from mdlbench.allocation import measure_choices
from mdlbench.codelength import Codebook
from mdlbench.errors import UsageError
from mdlbench.latents import SparseLatents, concatenate
from mdlbench.quantise import Symbols, dequantise, half_steps, quantise, symbol_at
from mdlbench.tally import SymbolCounts

ROUNDS = 2
"""Times that symbols are decided, and prices and centroids fitted on them."""

N_CENTROIDS = 4
"""Symbols ±1 … ±4 have centroids; those beyond are rare or narrow, and stay whole steps."""

FRACTION = 64
"""Centroids are sent as offsets from whole steps in 64ths of a step, …"""
OFFSET_BITS = 8
"""… in so many bits each, …"""
OFFSETS = (1 - FRACTION, 127)
"""… within these, so that a symbol keeps its sign."""

FIT_TOKENS = 4096
"""Calibration tokens that centroids are fitted on, at least, where there are so many."""

Runs = Callable[[], Iterable[SparseLatents]]


@dataclass(frozen=True, eq=False)
class Centroids:
    """Values sign(v)·(|v| + offset/64)·step of the symbols v; all that a decoder needs.

    Attributes:
        step: Δ.
        offset: of |v| = 1 … 4; beyond, there is none.
    """

    step: float
    offset: Int64[np.ndarray, " centroid"]

    @classmethod
    def whole_steps(cls, step: float) -> Self:
        return cls(step, np.zeros(N_CENTROIDS, dtype=np.int64))

    @classmethod
    def of_columns(cls, step: float, columns: Mapping[str, list[int]], n_latents: int) -> Self:
        """The centroids that `columns` say; raises `UsageError` where they say none."""
        offset = np.array(columns.get("offset", ()), dtype=np.int64)
        if set(columns) != {"offset"} or len(offset) != N_CENTROIDS:
            raise UsageError(f"rdo: not the offsets of {N_CENTROIDS} centroids")
        if (offset < OFFSETS[0]).any() or (offset > OFFSETS[1]).any():
            raise UsageError(f"rdo: an offset is not from {OFFSETS[0]} to {OFFSETS[1]}")
        return cls(step, offset)

    @property
    def header_bits(self) -> float:
        return float(OFFSET_BITS * len(self.offset))

    @property
    def columns(self) -> Mapping[str, list[int]]:
        return {"offset": self.offset.tolist()}

    def values(self, symbols: Symbols) -> SparseLatents:
        value = self.of(symbols.symbol).astype(np.float32)
        return SparseLatents(
            symbols.token, symbols.latent, value, symbols.n_tokens, symbols.n_latents
        )

    def of(self, symbol: Int32[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The value of each symbol; exactly 0 for 0."""
        shift = np.concatenate([[0.0], self.offset / FRACTION, [0.0]]) * self.step
        shifts = shift[np.minimum(np.abs(symbol), N_CENTROIDS + 1)]
        values: Float64[np.ndarray, " n"] = symbol * self.step + np.sign(symbol) * shifts
        return values


@dataclass(frozen=True, eq=False)
class RateAware:
    """Rate-aware rounding at one step.

    Attributes:
        centroids: what symbols stand for.
        prices: the codebook by which symbols are decided.
        slope: λ, squared error that a bit is worth.
    """

    centroids: Centroids
    prices: Codebook
    slope: float

    @property
    def step(self) -> float:
        return self.centroids.step

    @property
    def header_bits(self) -> float:
        return self.centroids.header_bits

    @property
    def columns(self) -> Mapping[str, list[int]]:
        return self.centroids.columns

    def values(self, symbols: Symbols) -> SparseLatents:
        return self.centroids.values(symbols)

    def symbols(self, latents: SparseLatents) -> Symbols:
        nearest = symbol_at(half_steps(latents.value, self.step), 0)
        best = np.zeros_like(nearest)
        least = self.cost(latents, best)
        for candidate in (nearest, nearest - np.sign(nearest)):
            cost = self.cost(latents, candidate)
            best = np.where(cost < least, candidate, best)
            least = np.minimum(cost, least)
        on = best != 0
        return Symbols(
            latents.token[on], latents.latent[on], best[on], latents.n_tokens, latents.n_latents
        )

    def cost(
        self, latents: SparseLatents, symbol: Int32[np.ndarray, " nnz"]
    ) -> Float64[np.ndarray, " nnz"]:
        """Squared error + λ·bits of each latent as that symbol; bits above those of zero."""
        error = latents.value - self.centroids.of(symbol)
        return np.asarray(error**2 + self.slope * self.prices.excess_bits(latents.latent, symbol))


def fit_rate_aware(
    runs: Runs, directions: Float32[np.ndarray, "latent d_out"], step: float, finest: float
) -> RateAware:
    """Prices and centroids of calibration tokens, each fitted on what the other decides.

    Args:
        runs: the tokens' latents, scaled, from the start each time.
        directions: what one unit of each scaled latent adds to the reconstruction.
        step: Δ, at least `finest`.
        finest: the finest step at which the curve of plain steps is known.
    """
    n_latents = len(directions)
    slope = measure_choices(runs, n_latents, step, finest, range(-1, 2)).slope(step)
    sample = _first(runs(), FIT_TOKENS, n_latents)
    rounded = (quantise(run, step) for run in runs())
    prices = Codebook.fit(SymbolCounts.of_runs(rounded, n_latents))
    quantiser = RateAware(Centroids.whole_steps(step), prices, slope)
    for _ in range(ROUNDS):
        decided = map(quantiser.symbols, runs())
        prices = Codebook.fit(SymbolCounts.of_runs(decided, n_latents))
        centroids = fit_centroids(sample, quantiser.symbols(sample), directions, step)
        quantiser = RateAware(centroids, prices, slope)
    return quantiser


def fit_centroids(
    latents: SparseLatents,
    symbols: Symbols,
    directions: Float32[np.ndarray, "latent d_out"],
    step: float,
) -> Centroids:
    """The offsets whose reconstruction is nearest to that of the latents themselves.

    Least squares in the space of the activations, where the errors of latents that are on together
    add up: a latent left out is partly made up for by others that point the same way. A symbol seen
    once counts as much as the prior, which is no offset.
    """
    missing = _decoded(latents, latents.value, directions)
    missing -= _decoded(symbols, dequantise(symbols, step).value, directions)
    magnitude, sign = np.abs(symbols.symbol), np.sign(symbols.symbol)
    parts = [
        _decoded(symbols, np.where(magnitude == v, sign, 0), directions)
        for v in range(1, N_CENTROIDS + 1)
    ]
    gram = np.array([[(a * b).sum(dtype=np.float64) for b in parts] for a in parts])
    target = np.array([(part * missing).sum(dtype=np.float64) for part in parts])
    unit = np.square(directions).sum(axis=1, dtype=np.float64).max(initial=0.0) or 1.0
    shift = np.linalg.solve(gram + unit * np.eye(N_CENTROIDS), target)
    offset = np.clip(np.rint(shift / step * FRACTION), *OFFSETS)
    return Centroids(step, offset.astype(np.int64))


def _first(runs: Iterable[SparseLatents], n_tokens: int, n_latents: int) -> SparseLatents:
    """The first runs that have so many tokens together, cut off there."""
    nothing = SparseLatents.from_dense(np.zeros((0, n_latents), dtype=np.float32))
    taken = [nothing, *_until(runs, n_tokens)]
    whole = concatenate(taken)
    return whole.rows(0, min(n_tokens, whole.n_tokens))


def _until(runs: Iterable[SparseLatents], n_tokens: int) -> Iterator[SparseLatents]:
    seen = 0
    for run in runs:
        yield run
        seen += run.n_tokens
        if seen >= n_tokens:
            return


def _decoded(
    where: SparseLatents | Symbols,
    value: Float32[np.ndarray, " nnz"] | Int32[np.ndarray, " nnz"],
    directions: Float32[np.ndarray, "latent d_out"],
) -> Float32[np.ndarray, "token d_out"]:
    """Σ value · direction of each token."""
    shape = where.n_tokens, where.n_latents
    z = sparse.csr_array((value.astype(np.float32), (where.token, where.latent)), shape=shape)
    return np.asarray(z @ directions)
