"""The step that each tolerance accepts."""

from __future__ import annotations

from dataclasses import dataclass

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.sweep import Sweep
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import ToleranceSearch, coarsest_within
from mdlbench.suite.base import MetricName


@dataclass(frozen=True)
class Limit:
    """One tolerance of a suite, and where the search for its step ended."""

    metric: MetricName
    epsilon: float
    search: ToleranceSearch


def search_limit(bench: Bench, sweep: Sweep, metric: MetricName, epsilon: float) -> Limit:
    """The coarsest step within one tolerance.

    A step passes if the upper confidence limit of its distortion is within ε (maths §6). Raises
    `UsageError` for an unknown metric.
    """
    spliced = metric_of(metric).spliced

    def distortion_at(position: int) -> float:
        sums = sweep.distortion(position) if spliced else sweep.errors(position)
        return upper_limit(bench.bootstrap.means(bench.per_document(sums, metric)))

    dyadic = [distortion_at(position) for position in sweep.dyadic]
    return Limit(metric, epsilon, coarsest_within(dyadic, distortion_at, epsilon))


def headline_limit(bench: Bench, limits: list[Limit]) -> Limit | None:
    """The suite's headline tolerance if it is met, else the first one that is."""
    headline = bench.suite.headline
    met = [limit for limit in limits if limit.search.position is not None]
    for limit in met:
        if (limit.metric, limit.epsilon) == (headline.metric, headline.epsilon):
            return limit
    return met[0] if met else None
