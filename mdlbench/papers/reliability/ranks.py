"""Rank correlations with intervals: runs are clustered by configuration (maths §7)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.studies.inference import Interval

REPLICATES = 1000
SEED = 0
LEAST = 3
"""Fewer runs have no rank correlation."""
NOTHING = Interval(float("nan"), float("nan"), float("nan"))
Values = Float64[np.ndarray, " run"]
Numbers = Int64[np.ndarray, " run"]
Weights = Float64[np.ndarray, "draw run"]
"""How often each run counts in each draw."""
Drawn = Float64[np.ndarray, " draw"]
Statistic = Callable[[Weights], Drawn]
"""A statistic of the runs in each draw; NaN where it has no value."""


def clustered(statistic: Statistic, clusters: Numbers) -> Interval:
    """A statistic of runs, with a percentile interval where whole clusters are drawn anew.

    No interval where more than half of the draws have no value, nor of one cluster, whose draws
    are all alike.

    Args:
        statistic: of the runs.
        clusters: the number of each run's cluster.
    """
    value = float(statistic(np.ones((1, len(clusters))))[0])
    kinds, place = np.unique(clusters, return_inverse=True)
    if len(kinds) < 2:
        return Interval(value, float("nan"), float("nan"))
    generator = np.random.Generator(np.random.PCG64(SEED))
    drawn = generator.integers(len(kinds), size=(REPLICATES, len(kinds)))
    counts = np.stack([np.bincount(row, minlength=len(kinds)) for row in drawn])
    values = statistic(counts[:, place].astype(np.float64))
    known = values[~np.isnan(values)]
    if len(known) < REPLICATES // 2:
        return Interval(value, float("nan"), float("nan"))
    return Interval(value, *percentile_interval(known))


def mean(values: Values, clusters: Numbers) -> Interval:
    """The mean over runs, whole clusters drawn anew."""
    return clustered(lambda weights: (weights @ values) / weights.sum(axis=1), clusters)


def spearman(one: Values, other: Values) -> float:
    """Spearman's ρ, ties at their mean rank; NaN for fewer than three runs or a constant."""
    return float(weighted_spearman(one, other, np.ones((1, len(one))))[0])


def weighted_spearman(one: Values, other: Values, weights: Weights) -> Drawn:
    """ρ in each draw, of runs that each count as often as their weight says."""
    total = weights.sum(axis=1)
    a, b = (_centred_ranks(values, weights) for values in (one, other))
    products = (weights * a * b).sum(axis=1)
    sizes = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    known = (sizes > 1e-9) & (total >= LEAST)
    return np.where(known, products / np.where(known, sizes, 1.0), np.nan)


def _centred_ranks(values: Values, weights: Weights) -> Weights:
    """Mean ranks less their mean: a run's rank is how many are below it, ties counted by half."""
    below = (values[:, None] < values) + 0.5 * (values[:, None] == values)
    ranks = weights @ below
    total = np.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(ranks - (weights * ranks).sum(axis=1, keepdims=True) / total)


def within(one: Values, other: Values, weights: Weights, *groups: Numbers) -> Drawn:
    """The mean of ρ within groups in each draw, weighted by their number of runs.

    Args:
        one: a number of each run.
        other: another one.
        weights: how often each run counts.
        groups: numberings of the runs; those equal in all of them are a group.
    """
    keys = np.stack(groups)
    total, count = np.zeros(len(weights)), np.zeros(len(weights))
    for key in np.unique(keys, axis=1).T:
        own = (keys == key[:, None]).all(axis=0)
        found = weighted_spearman(one[own], other[own], weights[:, own])
        size = np.where(np.isnan(found), 0.0, weights[:, own].sum(axis=1))
        total += size * np.nan_to_num(found)
        count += size
    return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)


def correlation(
    one: Values, other: Values, configuration: Numbers, world: Numbers, *strata: Numbers
) -> Interval:
    """ρ within each world, and within strata, the mean over those; clustered by configuration.

    Runs of which a number is not known are left out.
    """
    known = ~(np.isnan(one) | np.isnan(other))
    if known.sum() < LEAST:
        return NOTHING
    groups = [group[known] for group in (world, *strata)]
    return clustered(
        lambda weights: within(one[known], other[known], weights, *groups), configuration[known]
    )


def difference(
    one: Values, other: Values, truth: Values, configuration: Numbers, world: Numbers
) -> Interval:
    """By how much ρ(one, truth) exceeds ρ(other, truth), both of the same draws."""
    return clustered(
        lambda weights: within(one, truth, weights, world) - within(other, truth, weights, world),
        configuration,
    )


def partial(
    one: Values, other: Values, given: Values, configuration: Numbers, world: Numbers
) -> Interval:
    """The partial rank correlation given a third number, of the means over worlds.

    (ρ_xy − ρ_xz ρ_yz) / √((1 − ρ_xz²)(1 − ρ_yz²)). Runs of which a number is not known are left
    out.
    """
    known = ~(np.isnan(one) | np.isnan(other) | np.isnan(given))
    if known.sum() < LEAST:
        return NOTHING

    def statistic(weights: Weights) -> Drawn:
        xy, xz, yz = (
            within(a[known], b[known], weights, world[known])
            for a, b in ((one, other), (one, given), (other, given))
        )
        rest = (1 - xz * xz) * (1 - yz * yz)
        defined = rest > 1e-9
        return np.where(defined, (xy - xz * yz) / np.sqrt(np.where(defined, rest, 1.0)), np.nan)

    return clustered(statistic, configuration[known])
