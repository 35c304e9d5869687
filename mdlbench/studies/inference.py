"""How sure a study is: crossed bootstrap, simultaneous intervals, shares of variance (maths §7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.studies.results import Family, Level

LARGE = 10_000
"""Degrees of freedom that do as if there were infinitely many."""

Draws = Float64[np.ndarray, " replicate"]


class Interval(NamedTuple):
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 where the interval lies on one side of 0; 0 where it covers it."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Standing:
    """How the architectures that meet a tolerance compare.

    Attributes:
        shortest: of each, the bits of its best configuration, with an interval for it alone; those
            of fewest bits first.
        more: how many bits each takes beyond the first. The intervals of all pairs' differences,
            of which these are some, cover together. Empty where there is one training seed.
    """

    shortest: dict[str, Interval]
    more: dict[str, Interval]

    @property
    def order(self) -> tuple[str, ...]:
        """The architectures, those of fewest bits first."""
        return tuple(self.shortest)


def standing(level: Level, seed: int) -> Standing:
    """Compare the architectures that meet a tolerance.

    Args:
        level: what they cost there.
        seed: of the training seeds that are drawn.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = {family.name: crossed_draws(family, generator) for family in level.met}
    ranked = sorted(level.met, key=lambda family: family.shortest)
    return Standing(
        shortest={
            family.name: interval(family.shortest, draws[family.name], [family])
            for family in ranked
        },
        more={
            other.name: interval(
                other.shortest - ranked[0].shortest,
                draws[other.name] - draws[ranked[0].name],
                [ranked[0], other],
                n_compared=len(ranked),
            )
            for other in ranked[1:]
            if level.n_seeds > 1
        },
    )


def interval(
    value: float, draws: Draws, families: Sequence[Family], n_compared: int = 2
) -> Interval:
    """Value ± SE times the `critical` value, after Games and Howell (1976).

    SE is the standard deviation of the draws.

    Args:
        value: bits of one architecture, or what a second one takes beyond a first.
        draws: the same in each draw of the crossed bootstrap.
        families: those that it is of.
        n_compared: of how many architectures any two are compared.
    """
    error = float(draws.std(ddof=1))
    half = critical(n_compared, _floor(degrees_of_freedom(error**2, families))) * error
    return Interval(value, value - half, value + half)


@cache
def critical(n_compared: int, freedom: float) -> float:
    """The 95% quantile of the studentized range of so many means, over √2; for two, Student's t."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, n_compared, freedom)) / math.sqrt(2)


def _floor(freedom: float) -> float:
    """Two significant digits, rounded down, so that few critical values are computed."""
    if freedom > LARGE:
        return math.inf
    unit = 10.0 ** (math.floor(math.log10(freedom)) - 1)
    return round(math.floor(freedom / unit) * unit, 12)


def degrees_of_freedom(variance: float, families: Sequence[Family]) -> float:
    """Of a variance, as far as a few training seeds estimate it (Welch and Satterthwaite).

    It is variance² / Σ (s² / S)² / (S − 1) over the families, s² the variance of the best
    configuration's bits over its S seeds, and at least the least S − 1. What test documents add is
    known far better.
    """
    seeds = [bits[~np.isnan(bits)] for bits in (family.bits[family.best] for family in families)]
    several = [bits for bits in seeds if len(bits) > 1]
    noise = sum(float(bits.var(ddof=1) / len(bits)) ** 2 / (len(bits) - 1) for bits in several)
    if noise == 0:
        return math.inf
    return max(variance**2 / noise, min(len(bits) for bits in several) - 1.0)


def crossed_draws(family: Family, generator: np.random.Generator) -> Draws:
    """Bits of an architecture's best configuration where documents and seeds are drawn anew.

    In draw b test documents are those of every record's b-th resample; as many training seeds as
    there are are drawn with replacement, the same ones for all configurations; and the best
    configuration is chosen again. A mean of S drawn values varies too little, by (S − 1)/S, so
    deviations of seeds from their mean are stretched by √(S/(S − 1)).
    """
    stretched = _stretched(family.resampled)
    n_replicates = stretched.shape[2]
    drawn: Int64[np.ndarray, "replicate seed"] = generator.integers(
        family.n_seeds, size=(n_replicates, family.n_seeds)
    )
    replicate = np.arange(n_replicates)[:, None]
    chosen = stretched[:, drawn, replicate]
    count = (~np.isnan(chosen)).sum(axis=2)
    means = np.nansum(chosen, axis=2) / np.maximum(count, 1)
    everything = np.nanmean(stretched, axis=1)
    means = np.where(count > 0, means, everything)
    return np.asarray(means.min(axis=0))


def _stretched(
    resampled: Float64[np.ndarray, "configuration seed replicate"],
) -> Float64[np.ndarray, "configuration seed replicate"]:
    centre = np.nanmean(resampled, axis=1, keepdims=True)
    n = (~np.isnan(resampled)).sum(axis=1, keepdims=True)
    factor = np.sqrt(n / np.maximum(n - 1, 1))
    return np.asarray(centre + np.where(n > 1, factor, 1.0) * (resampled - centre))


class Shares(NamedTuple):
    """Shares of the variance of log₂ bits over runs; they sum to 1.

    Attributes:
        architecture: between architectures' means.
        width: between widths within an architecture.
        sparsity: between sparsities within a width.
        seed: between training seeds within a configuration; NaN where none has two.
        n_runs: how many runs there are.
    """

    architecture: float
    width: float
    sparsity: float
    seed: float
    n_runs: int


def variance_shares(families: Sequence[Family]) -> Shares | None:
    """Nested sums of squares, in this order, as shares of their total; None for fewer than 2 runs.

    Each run is a value; what it is nested in are group means, so that a grid with holes will do.
    """
    rows = [
        (np.log2(bits), i, configuration.width, j)
        for i, family in enumerate(families)
        for j, configuration in enumerate(family.configurations)
        for bits in family.bits[j]
        if bits > 0
    ]
    values = np.array([row[0] for row in rows])
    total = float(((values - values.mean()) ** 2).sum()) if len(rows) > 1 else 0.0
    if total == 0:
        return None
    explained = [_between(values, [row[1 : 1 + depth] for row in rows]) for depth in (1, 2, 3)]
    shares = np.maximum(np.diff([0.0, *explained, total]), 0.0) / total
    architecture, width, sparsity, seed = map(float, shares)
    has_seeds = len({row[1:] for row in rows}) < len(rows)
    return Shares(architecture, width, sparsity, seed if has_seeds else float("nan"), len(rows))


def _between(values: Float64[np.ndarray, " run"], groups: list[tuple[int, ...]]) -> float:
    """The sum of squares between the means of groups."""
    mean = values.mean()
    found = 0.0
    for group in dict.fromkeys(groups):
        own = values[[other == group for other in groups]]
        found += len(own) * float(own.mean() - mean) ** 2
    return found
