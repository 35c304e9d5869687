"""The quantiser `rdo`: rate-aware rounding with a dead zone, and centroids (maths §2).

A latent of value a whose nearest symbol is v takes whichever of 0, v and the next one towards 0 has
the least (a − value)² + λ·bits. λ is a share of the slope of the curve of plain steps at Δ, or 0:
whichever costs least where errors of latents add up. Bits are those of a codebook fitted on symbols
so decided; values are centroids. All that is an encoder's choice: a decoder knows the centroids
alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from mdlbench.codes.codelength import Codebook
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import FlatCode
from mdlbench.codes.runs import Part
from mdlbench.codes.symbols import (
    FittedQuantiser,
    PlainStep,
    Symbols,
    dequantise,
    half_steps,
    quantise,
    symbol_at,
)
from mdlbench.codes.tally import SymbolCounts
from mdlbench.errors import UsageError
from mdlbench.quantisers.per_feature import measure_choices
from mdlbench.quantisers.protocol import Calibration, Machinery
from mdlbench.quantisers.trial import Trial, reconstruction


class Signable(Protocol):
    """A codebook that can be given signs."""

    def with_signs(self) -> Self: ...


Prices = TypeVar("Prices", bound=Signable)
Rounding = TypeVar("Rounding", bound="PricedRounding[Any]")

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

SHARES = 1.0, 0.5, 0.25
"""Shares of the slope at which latents would be decided if their errors were independent."""


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
            raise UsageError(f"centroids: not the offsets of {N_CENTROIDS} centroids")
        if (offset < OFFSETS[0]).any() or (offset > OFFSETS[1]).any():
            raise UsageError(f"centroids: an offset is not from {OFFSETS[0]} to {OFFSETS[1]}")
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
class PricedRounding(ABC, Generic[Prices]):
    """Rounding at one step to what squared error and bits decide.

    Attributes:
        centroids: what symbols stand for.
        prices: the codebook by which symbols are decided.
        slope: λ, squared error that a bit is worth; 0 rounds to the nearest.
        negatives: whether negative latents may stay on.
    """

    centroids: Centroids
    prices: Prices
    slope: float
    negatives: bool = True

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

    def priced(self, centroids: Centroids, prices: Prices) -> Self:
        """The same rounding with other centroids and prices."""
        return replace(self, centroids=centroids, prices=prices)

    @abstractmethod
    def symbols(self, latents: SparseLatents) -> Symbols:
        """Nonzero symbols of scaled latents; raises `CoderError` as `quantise` does."""


class RateAware(PricedRounding[Codebook]):
    """Rate-aware rounding under the flat code: each latent is decided alone."""

    def symbols(self, latents: SparseLatents) -> Symbols:
        nearest = symbol_at(half_steps(latents.value, self.step), 0)
        best = np.zeros_like(nearest)
        least = self.cost(latents, best)
        for candidate in (nearest, nearest - np.sign(nearest)):
            cost = self.cost(latents, candidate)
            best = np.where(cost < least, candidate, best)
            least = np.minimum(cost, least)
        on = best != 0 if self.negatives else best > 0
        return Symbols(
            latents.token[on], latents.latent[on], best[on], latents.n_tokens, latents.n_latents
        )

    def cost(
        self, latents: SparseLatents, symbol: Int32[np.ndarray, " nnz"]
    ) -> Float64[np.ndarray, " nnz"]:
        """Squared error + λ·bits of each latent as that symbol; bits above those of zero."""
        error = latents.value - self.centroids.of(symbol)
        return np.asarray(error**2 + self.slope * self.prices.excess_bits(latents.latent, symbol))


def fit_rate_aware(trial: Trial, step: float) -> RateAware:
    """Rate-aware rounding of calibration tokens at Δ, as much of it as pays (maths §2)."""
    return best_share(trial, step, RateAware, flat_prices)


def flat_prices(symbols: Symbols) -> Codebook:
    """The flat code of symbols."""
    return Codebook.fit(SymbolCounts.of(symbols))


def best_share(
    trial: Trial,
    step: float,
    rounding: Callable[[Centroids, Prices, float], Rounding],
    fit: Callable[[Symbols], Prices],
) -> Rounding:
    """What costs least in the trial: plain rounding, or rounding by one of the shares of the slope.

    Prices have signs where a calibration token needs them, be it after the sample. Where none keeps
    its negative symbols, the code has no signs, and other tokens keep none either.

    Args:
        trial: where they are compared.
        step: Δ.
        rounding: of given centroids, prices and λ.
        fit: the prices of symbols.
    """
    choices = measure_choices(trial.runs, trial.n_latents, step, trial.finest, range(-1, 2))
    slope = choices.slope(step)
    signed = _coded_with_signs(trial, PlainStep(step))

    def price(symbols: Symbols) -> Prices:
        return fit(symbols).with_signs() if signed else fit(symbols)

    whole, prices = Centroids.whole_steps(step), price(quantise(trial.sample, step))
    rounded = rounding(whole, prices, 0.0)
    decided = [_fitted(trial, rounding(whole, prices, slope * share), price) for share in SHARES]
    best = trial.best(step, [rounded, *decided])
    return replace(best, negatives=not signed or _coded_with_signs(trial, best))


def _coded_with_signs(trial: Trial, quantiser: FittedQuantiser) -> bool:
    """Whether their code has signs: a calibration token has a negative symbol, or none has any."""
    least = [sign for sign in trial.runs.each(quantiser.symbols).map(_least_sign) if sign]
    return not least or min(least) < 0


def _least_sign(part: Part[Symbols]) -> int:
    """−1 where a symbol is negative, else 1 where there are any, else 0."""
    sign = 0
    for symbols in part:
        if (symbols.symbol < 0).any():
            return -1
        sign = max(sign, int(symbols.nnz > 0))
    return sign


def _fitted(trial: Trial, quantiser: Rounding, fit: Callable[[Symbols], Prices]) -> Rounding:
    """Prices and centroids, each fitted on what the other decides."""
    for _ in range(ROUNDS):
        symbols = quantiser.symbols(trial.sample)
        centroids = fit_centroids(trial.target, symbols, trial.directions, quantiser.step)
        quantiser = quantiser.priced(centroids, fit(symbols))
    return quantiser


def fit_centroids(
    target: Float32[np.ndarray, "token d_out"],
    symbols: Symbols,
    directions: Float32[np.ndarray, "latent d_out"],
    step: float,
) -> Centroids:
    """The offsets whose reconstruction is nearest to the target.

    Least squares in the space of the activations, where the errors of latents that are on together
    add up: a latent left out is partly made up for by others that point the same way. A symbol seen
    once counts as much as the prior, which is no offset.
    """
    missing = target - reconstruction(symbols, dequantise(symbols, step).value, directions)
    magnitude, sign = np.abs(symbols.symbol), np.sign(symbols.symbol)
    parts = [
        reconstruction(symbols, np.where(magnitude == v, sign, 0), directions)
        for v in range(1, N_CENTROIDS + 1)
    ]
    gram = np.array([[(a * b).sum(dtype=np.float64) for b in parts] for a in parts])
    target = np.array([(part * missing).sum(dtype=np.float64) for part in parts])
    unit = np.square(directions).sum(axis=1, dtype=np.float64).max(initial=0.0) or 1.0
    shift = np.linalg.solve(gram + unit * np.eye(N_CENTROIDS), target)
    offset = np.clip(np.rint(shift / step * FRACTION), *OFFSETS)
    return Centroids(step, offset.astype(np.int64))


def _rate_aware(calibration: Calibration, step: float) -> RateAware:
    return fit_rate_aware(calibration.trial, step)


MACHINERY = Machinery(_rate_aware, Centroids.of_columns, FlatCode)
