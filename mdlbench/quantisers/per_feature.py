"""The quantiser `per-feature`: each latent takes one of the dyadic steps, or is dropped (maths §2).

Level j stands for the step Δ·2^j. Latent i takes argmin_j D_ij + λR_ij, D_ij its squared error and
R_ij the bits of its symbols, both per calibration token; unless that costs more, where errors of
latents add up, than level 0 for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from jaxtyping import Float64, Int32

from mdlbench.codes.codelength import fit_codebooks
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import FlatCode
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import Symbols, dequantise, half_steps, quantise, symbol_at
from mdlbench.codes.tally import Tally
from mdlbench.errors import UsageError
from mdlbench.quantisers.protocol import Calibration, Machinery
from mdlbench.quantisers.trial import HIGH_RATE_SLOPE, Trial, curve_slope
from mdlbench.statistics.pairwise import Node, pairwise_sum, partial_sums

LOWEST, HIGHEST = -3, 4
"""Levels that a latent may take."""

DROPPED = HIGHEST + 1
"""The level of a latent that is always off."""


@dataclass(frozen=True, eq=False)
class Allocation:
    """Steps step·2^level; latents of level `DROPPED` are always off.

    Attributes:
        step: Δ.
        level: of each latent, from `LOWEST` to `DROPPED`.
    """

    step: float
    level: Int32[np.ndarray, " latent"]

    @classmethod
    def of_columns(cls, step: float, columns: Mapping[str, list[int]], n_latents: int) -> Self:
        """The allocation that `columns` say; raises `UsageError` where they say none."""
        level = np.array(columns.get("level", ()), dtype=np.int64)
        if set(columns) != {"level"} or len(level) != n_latents:
            raise UsageError(f"per-feature: not a level for each of {n_latents} latents")
        if ((level < LOWEST) | (level > DROPPED)).any():
            raise UsageError(f"per-feature: a level is not from {LOWEST} to {DROPPED}")
        return cls(step, level.astype(np.int32))

    @property
    def header_bits(self) -> float:
        """D·H(level)."""
        counts = np.bincount(self.level - LOWEST)
        share = counts[counts > 0] / max(len(self.level), 1)
        return float(len(self.level) * -(share * np.log2(share)).sum())

    @property
    def columns(self) -> Mapping[str, list[int]]:
        return {"level": self.level.tolist()}

    def symbols(self, latents: SparseLatents) -> Symbols:
        kept = self.level < DROPPED
        return quantise(latents.scaled(np.ldexp(kept.astype(np.float32), -self.level)), self.step)

    def values(self, symbols: Symbols) -> SparseLatents:
        kept = self.level < DROPPED
        scale = np.ldexp(kept.astype(np.float32), self.level)
        return dequantise(symbols, self.step).scaled(scale)


@dataclass(frozen=True, eq=False)
class Choices:
    """What each latent costs at each level.

    Attributes:
        levels: increasing and contiguous, 0 among them; then `DROPPED`.
        distortion: D_ij, squared error per token.
        rate: R_ij in bits per token, under a codebook of all latents at that level.
    """

    levels: Int32[np.ndarray, " level"]
    distortion: Float64[np.ndarray, "latent level"]
    rate: Float64[np.ndarray, "latent level"]

    def cheapest(self, slope: float) -> Int32[np.ndarray, " latent"]:
        """The level of least D + slope·R of each latent."""
        level: Int32[np.ndarray, " latent"] = self.levels[self.lagrangian(slope).argmin(axis=1)]
        return level

    def lagrangian(self, slope: float) -> Float64[np.ndarray, "latent level"]:
        return self.distortion + slope * self.rate

    def slope(self, step: float) -> float:
        """λ = −dD/dR at level 0 of the curve on which all latents share a step.

        That of high rate where there is no finer level.
        """
        at = int(np.flatnonzero(self.levels == 0)[0])
        if at == 0:
            return HIGH_RATE_SLOPE * step**2
        around = slice(at - 1, at + 2)
        distortion, rate = self.distortion.sum(axis=0), self.rate.sum(axis=0)
        return curve_slope(distortion[around], rate[around], step)


def allocate(trial: Trial, step: float) -> Allocation:
    """The allocation of least D + λR on calibration tokens, λ the slope at `step`, or level 0.

    No latent takes a finer step than the suite's finest, and Δ is no finer either.
    """
    levels = range(LOWEST, HIGHEST + 1)
    choices = measure_choices(trial.runs, trial.n_latents, step, trial.finest, levels)
    plain = Allocation(step, np.zeros(trial.n_latents, dtype=np.int32))
    return trial.best(step, [plain, Allocation(step, choices.cheapest(choices.slope(step)))])


def measure_choices(
    runs: Runs[SparseLatents],
    n_latents: int,
    step: float,
    finest: float,
    levels: range,
) -> Choices:
    """What each latent costs at each of the levels no finer than `finest`, and dropped."""
    lowest = max(levels.start, -math.floor(math.log2(step / finest) + 1e-9))
    octaves = levels.stop - lowest
    base = math.ldexp(step, lowest)
    tally = Tally.of_runs(runs, base, octaves, n_latents)
    rate = np.zeros((n_latents, octaves + 1))
    for octave, codebook in enumerate(fit_codebooks(tally)):
        rate[:, octave] = codebook.latent_bits(codebook.counts)
    parts = runs.map(partial(_squared_errors, base, octaves))
    squared = pairwise_sum(parts, np.zeros((n_latents, octaves + 1)))
    taken = np.array([*range(lowest, levels.stop), DROPPED], dtype=np.int32)
    return Choices(taken, squared / max(tally.n_tokens, 1), rate)


def _squared_errors(
    base: float, octaves: int, part: Part[SparseLatents]
) -> list[Node[Float64[np.ndarray, "latent level"]]]:
    """Each latent's squared error at steps base·2^j, and, last, where it is dropped."""
    return partial_sums(part.start, (_run_errors(run, base, octaves) for run in part))


def _run_errors(
    latents: SparseLatents, base: float, octaves: int
) -> Float64[np.ndarray, "latent level"]:
    half_step = half_steps(latents.value, base)
    errors = [
        latents.value - symbol_at(half_step, octave) * math.ldexp(base, octave)
        for octave in range(octaves)
    ]
    errors.append(latents.value.astype(np.float64))
    columns = [
        np.bincount(latents.latent, weights=error**2, minlength=latents.n_latents)
        for error in errors
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _allocated(calibration: Calibration, step: float) -> Allocation:
    return allocate(calibration.trial, step)


MACHINERY = Machinery(_allocated, Allocation.of_columns, FlatCode)
