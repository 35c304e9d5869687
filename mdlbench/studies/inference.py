"""How sure a study is: crossed bootstrap, simultaneous intervals, shares of variance (maths §7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from mdlbench.statistics.bootstrap import CONFIDENCE, side
from mdlbench.studies.results import Family, Level

LARGE = 10_000
"""Degrees of freedom above which they count as infinitely many."""

Draws = Float64[np.ndarray, " replicate"]


class Interval(NamedTuple):
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 where the interval lies on one side of 0; 0 where it covers it."""
        return side(self.low, self.high)


@dataclass(frozen=True)
class Standing:
    """How the architectures that meet a tolerance compare.

    Attributes:
        shortest: of each, the bits of its best configuration, with an interval for it alone; those
            of fewest bits first.
        more: how many bits each takes beyond the first, with intervals that hold together with
            those of all other pairs. Empty where there is one training seed.
    """

    shortest: dict[str, Interval]
    more: dict[str, Interval]

    @property
    def order(self) -> tuple[str, ...]:
        """The architectures, those of fewest bits first."""
        return tuple(self.shortest)


class Estimate(NamedTuple):
    """What is known of an architecture's bits.

    Attributes:
        bits: those of its best configuration.
        draws: the same where test documents and training seeds are drawn anew.
        seed_variance: what training seeds add to the variance of the draws.
        n_seeds: how many training seeds the best configuration has.
    """

    bits: float
    draws: Draws
    seed_variance: float
    n_seeds: int


def standing(level: Level, seed: int) -> Standing:
    """Compare the architectures that meet a tolerance.

    Args:
        level: what they cost there.
        seed: of the training seeds that are drawn.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    found = {family.name: estimate(family, generator) for family in level.met}
    ranked = sorted(found, key=lambda name: found[name].bits)
    others = ranked[1:] if level.n_seeds > 1 else []
    return Standing(
        shortest={name: alone(found[name]) for name in ranked},
        more={name: beyond(found[ranked[0]], found[name], len(ranked)) for name in others},
    )


def estimate(family: Family, generator: np.random.Generator) -> Estimate:
    """What is known of an architecture that meets the tolerance.

    What training seeds add is s² / S, s² the variance of the best configuration's bits over its S
    seeds, or what the variance of the draws has beyond that of documents alone, if this is more: it
    has the choice of the configuration in it.
    """
    draws = crossed_draws(family, generator)
    bits = family.bits[family.best]
    own = bits[~np.isnan(bits)]
    documents_alone = np.nanmean(family.resampled, axis=1).min(axis=0)
    rest = float(draws.var(ddof=1) - documents_alone.var(ddof=1))
    added = max(float(own.var(ddof=1)) / len(own), rest) if len(own) > 1 else 0.0
    return Estimate(family.shortest, draws, added, len(own))


def alone(one: Estimate) -> Interval:
    """An architecture's bits, with an interval for it alone."""
    return _interval(one.bits, one.draws, [one], n_compared=2)


def beyond(first: Estimate, one: Estimate, n_compared: int) -> Interval:
    """How many bits one architecture takes beyond another, where so many are compared."""
    return _interval(one.bits - first.bits, one.draws - first.draws, [first, one], n_compared)


def _interval(value: float, draws: Draws, of: Sequence[Estimate], n_compared: int) -> Interval:
    """Value ± SE times the `critical` value, after Games and Howell (1976).

    SE is the standard deviation of the draws. For one architecture alone, as for the difference of
    two that are all there are, the critical value is Student's t.
    """
    error = float(draws.std(ddof=1))
    half = critical(n_compared, _floor(degrees_of_freedom(error**2, of))) * error
    return Interval(value, value - half, value + half)


def degrees_of_freedom(variance: float, of: Sequence[Estimate]) -> float:
    """How many degrees of freedom a variance has that few seeds estimate (Welch, Satterthwaite).

    It is variance² / Σ V² / (S − 1) over the architectures, V what their S training seeds add to
    it, and at least the least S − 1. What test documents add is known far better.
    """
    several = [one for one in of if one.n_seeds > 1]
    noise = sum(one.seed_variance**2 / (one.n_seeds - 1) for one in several)
    if noise == 0:
        return math.inf
    return max(variance**2 / noise, min(one.n_seeds for one in several) - 1.0)


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
