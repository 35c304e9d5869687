"""How sure a study is: crossed bootstrap, simultaneous intervals, shares of variance (maths §7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from mdlbench.statistics.bootstrap import CONFIDENCE
from mdlbench.studies.results import Family, Level

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
        shortest: of each, the bits of its best configuration, with an interval for it alone.
        differences: bits of the second minus bits of the first, of every pair by name; all
            intervals together cover with 95%. Empty where there is one training seed.
        order: the architectures, those of fewest bits first.
    """

    shortest: dict[str, Interval]
    differences: dict[tuple[str, str], Interval]
    order: tuple[str, ...]

    def difference(self, one: str, other: str) -> Interval:
        """Bits of `other` minus bits of `one`."""
        if (one, other) in self.differences:
            return self.differences[one, other]
        found = self.differences[other, one]
        return Interval(-found.value, -found.high, -found.low)


def standing(level: Level, seed: int) -> Standing:
    """Compare the architectures that meet a tolerance.

    Args:
        level: what they cost there.
        seed: of the training seeds that are drawn.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    draws = {family.name: crossed_draws(family, generator) for family in level.met}
    values = {family.name: family.shortest for family in level.met}
    order = tuple(sorted(values, key=lambda name: values[name]))
    return Standing(
        shortest={name: _interval(values[name], draws[name]) for name in order},
        differences=simultaneous(values, draws) if level.n_seeds > 1 else {},
        order=order,
    )


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


def simultaneous(
    values: dict[str, float], draws: dict[str, Draws]
) -> dict[tuple[str, str], Interval]:
    """Intervals of all pairs' differences that cover all at once with 95%: max-|t|.

    Each is value ± q·SE, q the 95% quantile of the largest |deviation| / SE over pairs.
    """
    pairs = list(combinations(values, 2))
    if not pairs:
        return {}
    differences = np.array([draws[b] - draws[a] for a, b in pairs])
    deviations = differences - differences.mean(axis=1, keepdims=True)
    errors = deviations.std(axis=1, ddof=1, keepdims=True)
    ratios = np.divide(np.abs(deviations), errors, out=np.zeros_like(deviations), where=errors > 0)
    quantile = float(np.quantile(ratios.max(axis=0), CONFIDENCE))
    found = {}
    for (a, b), error in zip(pairs, errors[:, 0], strict=True):
        value, half = values[b] - values[a], quantile * float(error)
        found[a, b] = Interval(value, value - half, value + half)
    return found


def _interval(value: float, draws: Draws) -> Interval:
    """Value ± the quantiles of the draws about their mean."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws - draws.mean(), [tail, 1 - tail])
    return Interval(value, value + float(low), value + float(high))


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
