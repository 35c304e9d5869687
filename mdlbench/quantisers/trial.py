"""Fitted quantisers compared in the space of activations, where distortion is measured (maths §2).

Modes decide latent by latent, as if errors of latents were independent. Latents that are on
together point alike, and at coarse steps their errors add up. So what a mode decided is kept only
where it then costs less than plain rounding, at the slope of the curve of plain rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int32
from scipy import sparse

from mdlbench.codes.codelength import Codebook
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import FittedQuantiser, PlainStep, Symbols
from mdlbench.codes.tally import SymbolCounts

SAMPLE_TOKENS = 4096
"""Calibration tokens on which quantisers are compared, where there are so many."""

HIGH_RATE_SLOPE = math.log(2) / 6
"""−dD/dR in squared steps per bit, where D = Δ²/12 and R = h − log₂Δ."""

Candidate = TypeVar("Candidate", bound=FittedQuantiser)


class Cost(NamedTuple):
    """What a quantiser costs on the sample.

    Attributes:
        distortion: ‖Σ(z − ẑ)w‖² per token.
        rate: bits per token under the trial's code of the sample's own symbols.
    """

    distortion: float
    rate: float

    def lagrangian(self, slope: float) -> float:
        return self.distortion + slope * self.rate


def flat_rate(symbols: Symbols) -> float:
    """Bits per token under the flat codebook of the symbols themselves."""
    counts = SymbolCounts.of(symbols)
    return Codebook.fit(counts).bits(counts).total


@dataclass(frozen=True, eq=False)
class Trial:
    """Calibration tokens on which quantisers are compared.

    Attributes:
        runs: the tokens' latents, scaled.
        directions: what one unit of each scaled latent adds to the reconstruction.
        finest: the suite's finest step.
        rate: bits per token of symbols, under a code fitted on them.
        missing: what the sample's unquantised latents leave of the activations; without it, an
            error is a distance from the SAE's own reconstruction.
    """

    runs: Runs[SparseLatents]
    directions: Float32[np.ndarray, "latent d_out"]
    finest: float
    rate: Callable[[Symbols], float] = flat_rate
    missing: Float32[np.ndarray, "token d_out"] | None = None

    @property
    def n_latents(self) -> int:
        return len(self.directions)

    @cached_property
    def sample(self) -> SparseLatents:
        """The first tokens, as one run."""
        return _first_rows(self.runs.map(partial(_sample_of, self.n_latents)))

    @cached_property
    def target(self) -> Float32[np.ndarray, "token d_out"]:
        """What the sample's quantised latents are to add up to, in activations."""
        unquantised = reconstruction(self.sample, self.sample.value, self.directions)
        return unquantised if self.missing is None else unquantised + self.missing

    def priced(self, rate: Callable[[Symbols], float]) -> Trial:
        """The same tokens, under another code."""
        return replace(self, rate=rate)

    def cost(self, quantiser: FittedQuantiser) -> Cost:
        symbols = quantiser.symbols(self.sample)
        values = quantiser.values(symbols)
        error = self.target - reconstruction(values, values.value, self.directions)
        squared = float(np.square(error).sum(dtype=np.float64))
        return Cost(squared / max(self.sample.n_tokens, 1), self.rate(symbols))

    def slope(self, step: float) -> float:
        """λ of the curve of plain rounding at Δ, in the space of activations.

        0 where the whole error does not grow with the step: nothing is to be gained by more of it.
        """
        if step / 2 < self.finest * (1 - 1e-9):
            return HIGH_RATE_SLOPE * step**2
        around = [self.cost(PlainStep(step * factor)) for factor in (0.5, 1.0, 2.0)]
        distortion, rate = np.array(around).T
        if self.missing is not None and (np.diff(distortion) <= 0).any():
            return 0.0
        return curve_slope(distortion, rate, step)

    def best(self, step: float, candidates: Sequence[Candidate]) -> Candidate:
        """The quantiser of least D + λR, the first of equal ones."""
        slope = self.slope(step)
        return min(candidates, key=lambda candidate: self.cost(candidate).lagrangian(slope))


def curve_slope(
    distortion: Float64[np.ndarray, " point"], rate: Float64[np.ndarray, " point"], step: float
) -> float:
    """λ = −dD/dR of a curve at Δ, from its points at Δ/2, Δ and 2Δ (maths §2).

    The geometric mean of the two chords, but at most (ln2/6)Δ², which it exceeds by a twelfth at
    high rate. That value itself where a chord does not fall.
    """
    usual = HIGH_RATE_SLOPE * step**2
    added, saved = np.diff(distortion), -np.diff(rate)
    if not (added > 0).all() or not (saved > 0).all():
        return usual
    return min(float(np.sqrt(np.prod(added / saved))), usual)


def reconstruction(
    where: SparseLatents | Symbols,
    value: Float32[np.ndarray, " nnz"] | Int32[np.ndarray, " nnz"],
    directions: Float32[np.ndarray, "latent d_out"],
) -> Float32[np.ndarray, "token d_out"]:
    """Σ value · direction of each token."""
    shape = where.n_tokens, where.n_latents
    z = sparse.csr_array((value.astype(np.float32), (where.token, where.latent)), shape=shape)
    return np.asarray(z @ directions)


def _sample_of(n_latents: int, part: Part[SparseLatents]) -> SparseLatents:
    """The first tokens of a part: no more are in the sample, even if the part is the first."""
    nothing = SparseLatents.from_dense(np.zeros((0, n_latents), dtype=np.float32))
    return _first_rows([nothing, *_until(part, SAMPLE_TOKENS)])


def _first_rows(runs: Sequence[SparseLatents]) -> SparseLatents:
    whole = concatenate(runs)
    return whole.rows(0, min(SAMPLE_TOKENS, whole.n_tokens))


def _until(runs: Iterable[SparseLatents], n_tokens: int) -> Iterator[SparseLatents]:
    seen = 0
    for run in runs:
        yield run
        seen += run.n_tokens
        if seen >= n_tokens:
            return
