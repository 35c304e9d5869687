"""Where each tolerance is met: the step that it accepts, and what lies around ε."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.resampled import Resampled
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import ToleranceSearch, asked_next, found_within
from mdlbench.suite.base import MetricName


@dataclass(frozen=True)
class Limit:
    """One tolerance of a suite, and where the search for its step ended."""

    metric: MetricName
    epsilon: float
    search: ToleranceSearch


def search_limits(resampled: Resampled, wanted: Sequence[tuple[MetricName, float]]) -> list[Limit]:
    """Where each tolerance, (metric, ε), is met (maths §6).

    The positions that all of them ask for next are measured at once. Raises `UsageError` for an
    unknown metric.
    """
    sweep = resampled.sweep
    wanted = [(metric_of(metric).name, epsilon) for metric, epsilon in wanted]
    sweep.measure(sweep.dyadic)
    while missing := {
        position for metric, epsilon in wanted for position in _next(resampled, metric, epsilon)
    }:
        sweep.measure(sorted(missing))
    return [
        Limit(metric, epsilon, found_within(resampled.losses(metric), epsilon))
        for metric, epsilon in wanted
    ]


def _next(resampled: Resampled, metric: MetricName, epsilon: float) -> list[int]:
    """Positions to measure next for one tolerance."""
    mixture = partial(resampled.mixture, metric, epsilon)
    return asked_next(resampled.losses(metric), mixture, epsilon)


def search_limit(resampled: Resampled, metric: MetricName, epsilon: float) -> Limit:
    """Where one tolerance is met, as `search_limits` finds it."""
    return search_limits(resampled, [(metric, epsilon)])[0]


def headline_limit(bench: Bench, limits: list[Limit]) -> Limit | None:
    """The suite's headline tolerance if it is met, else the first one that is."""
    headline = bench.suite.headline
    met = [limit for limit in limits if limit.search.position is not None]
    for limit in met:
        if (limit.metric, limit.epsilon) == (headline.metric, headline.epsilon):
            return limit
    return met[0] if met else None
