"""Whether the results at a suite's tolerances are what the operating points say."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mdlbench.records.checks.approx import same, slack
from mdlbench.records.checks.points import positions
from mdlbench.records.record import EvalRecord, OperatingPoint, ToleranceResult, operating_point
from mdlbench.statistics.bootstrap import percentile_interval, upper_limit
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE
from mdlbench.suite.suite import Suite


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    if [(result.metric, result.epsilon) for result in record.tolerances] != list(suite.limits()):
        yield "tolerances are not the suite's"
        return
    for result in record.tolerances:
        check = _of_feasible if result.feasible else _of_infeasible
        for problem in check(record, result):
            yield f"{result.metric} ≤ {result.epsilon:g}: {problem}"


def _of_infeasible(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    absent = (result.step, result.bits, result.bits_ci, result.l0)
    if any(value is not None for value in absent) or result.replicates or result.ranked:
        yield "infeasible, but with a step, bits, or a rank"
    if result.at_coarsest:
        yield "infeasible, but at the coarsest step"
    finest, *coarser = _dyadic(record)
    if not _may_fail(finest, result):
        yield "infeasible, but the finest step is within ε"
    yield from _of_monotony(result, coarser)


def _of_feasible(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    point = operating_point(record, result)
    if point is None or result.bits is None or result.bits_ci is None or result.l0 is None:
        yield "feasible, but without bits, L0, or a point at its step"
        return
    if not (same(result.bits, point.bits.total) and same(result.l0, point.l0)):
        yield "bits or L0 are not those of the point at its step"
    if result.ranked != (record.identity.limit is None):
        yield "ranked and partial do not agree"
    yield from _of_replicates(result, point)
    yield from _of_step(record, result, point)


def _of_replicates(result: ToleranceResult, point: OperatingPoint) -> Iterator[str]:
    drawn = point.resampled_bits()
    if len(result.replicates) != len(drawn) or result.bits_ci is None:
        yield "there are not as many replicates as resamples of the point"
        return
    width = float(np.ptp(drawn))
    replicates = np.array(result.replicates, dtype=np.float64)
    if np.abs(replicates - drawn).max() > 1e-3 * width + 1e-6 * abs(point.bits.total):
        yield "replicates are not the point's resamples"
    ends = percentile_interval(replicates)
    if not all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in zip(ends, result.bits_ci, strict=True)
    ):
        yield "bits_ci is not the interval of the replicates"


def _of_step(record: EvalRecord, result: ToleranceResult, point: OperatingPoint) -> Iterator[str]:
    """The step passes, so do all finer dyadic ones, and the next coarser dyadic one fails."""
    dyadic = _dyadic(record)
    finer = [other for other in dyadic if other.step <= point.step]
    coarser = [other for other in dyadic if other.step > point.step]
    if not all(_may_pass(other, result) for other in [*finer, point]):
        yield "the step, or a finer one, is not within ε"
    if result.at_coarsest != (not coarser):
        yield "at_coarsest does not agree with the step"
    if coarser and not _may_fail(coarser[0], result):
        yield "a coarser step is within ε, too"
    yield from _of_monotony(result, coarser[1:])


def _of_monotony(result: ToleranceResult, coarser: list[OperatingPoint]) -> Iterator[str]:
    """Check `non_monotone`; `coarser` are the dyadic points beyond the first that fails."""
    may = any(_may_pass(point, result) for point in coarser)
    must = not all(_may_fail(point, result) for point in coarser)
    if (result.non_monotone and not may) or (must and not result.non_monotone):
        yield "non_monotone does not agree with the points"


def _dyadic(record: EvalRecord) -> list[OperatingPoint]:
    found = zip(positions(record), record.points, strict=True)
    return [point for position, point in found if (position or 0) % STEPS_PER_OCTAVE == 0]


def _may_pass(point: OperatingPoint, result: ToleranceResult) -> bool:
    limit, tolerance = _upper(point, result)
    return limit - tolerance <= result.epsilon


def _may_fail(point: OperatingPoint, result: ToleranceResult) -> bool:
    limit, tolerance = _upper(point, result)
    return limit + tolerance > result.epsilon


def _upper(point: OperatingPoint, result: ToleranceResult) -> tuple[float, float]:
    """Upper confidence limit of a point's loss (maths §6), and how far rounding moves it."""
    drawn = point.resampled(result.metric)
    limit = upper_limit(drawn)
    return limit, slack(limit, point.loss(result.metric), point.unit(result.metric))
