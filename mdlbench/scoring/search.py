"""The step that each tolerance accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.sweep import Sweep
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.metrics import Metric, metric_of
from mdlbench.statistics.tolerance import ToleranceSearch, coarsest_within
from mdlbench.suite.base import MetricName


@dataclass(frozen=True)
class Limit:
    """One tolerance of a suite, and where the search for its step ended."""

    metric: MetricName
    epsilon: float
    search: ToleranceSearch


class UpperLimits:
    """The upper confidence limits of an SAE's losses, each computed once (maths §6)."""

    def __init__(self, bench: Bench, sweep: Sweep) -> None:
        self._bench, self._sweep = bench, sweep
        self._known: dict[tuple[str, int], float] = {}

    def of(self, name: MetricName) -> Callable[[int], float]:
        """That of one loss at each position; raises `UsageError` for an unknown one."""
        return partial(self._at, metric_of(name))

    def _at(self, metric: Metric, position: int) -> float:
        if (metric.name, position) not in self._known:
            measure = self._sweep.distortion if metric.spliced else self._sweep.errors
            sums = self._bench.per_document(measure(position), metric.name)
            self._known[metric.name, position] = upper_limit(self._bench.bootstrap.means(sums))
        return self._known[metric.name, position]


def search_limits(
    bench: Bench, sweep: Sweep, wanted: Iterable[tuple[MetricName, float]]
) -> list[Limit]:
    """The coarsest step within each tolerance, (metric, ε).

    A step passes if the upper confidence limit of its distortion is within ε (maths §6). Raises
    `UsageError` for an unknown metric.
    """
    limits = UpperLimits(bench, sweep)
    return [_search(limits, sweep, metric, epsilon) for metric, epsilon in wanted]


def search_limit(bench: Bench, sweep: Sweep, metric: MetricName, epsilon: float) -> Limit:
    """The coarsest step within one tolerance, as `search_limits` finds it."""
    return search_limits(bench, sweep, [(metric, epsilon)])[0]


def _search(limits: UpperLimits, sweep: Sweep, metric: MetricName, epsilon: float) -> Limit:
    distortion_at = limits.of(metric)
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
