"""Whether the results at a suite's tolerances are what the operating points say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float64

from mdlbench.records.checks.approx import same, slack
from mdlbench.records.checks.points import positions
from mdlbench.records.record import EvalRecord, OperatingPoint, ToleranceResult, operating_point
from mdlbench.statistics.bootstrap import percentile_interval, upper_limit
from mdlbench.statistics.tolerance import (
    Loss,
    Mixture,
    asked_next,
    cheapest_within,
    dyadic_positions,
    unmeasured_beside,
)
from mdlbench.suite.suite import Suite

KEPT = 2.0**-8
"""How far replicates may lie from those of draws in half precision, as a share of their range.

Close to a floor, where little loss is many bits, 0.0027 was met."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    if [(result.metric, result.epsilon) for result in record.tolerances] != list(suite.limits()):
        yield "tolerances are not the suite's"
        return
    yield from _of_asked(record, suite)
    for result in record.tolerances:
        check = _of_feasible if result.feasible else _of_infeasible
        for problem in check(record, result):
            yield f"{result.metric} ≤ {result.epsilon:g}: {problem}"


def _of_asked(record: EvalRecord, suite: Suite) -> Iterator[str]:
    """No step is measured that the search does not ask for: more steps find cheaper chords."""
    found = positions(record)
    points = {p: point for p, point in zip(found, record.points, strict=True) if p is not None}
    if 0 not in points:
        return
    first = {result.metric: result for result in record.tolerances}
    limits = {
        metric: {position: _upper(point, result) for position, point in points.items()}
        for metric, result in first.items()
    }
    asked: set[int] = set()
    for shift in (-1, 0, 1):
        losses = {
            metric: {p: Loss(points[p].loss(metric), u + shift * r) for p, (u, r) in known.items()}
            for metric, known in limits.items()
        }
        asked |= _asked(record, suite, points, losses)
    for position in sorted(set(points) - asked):
        yield f"step {points[position].step:g}: no tolerance asks for it"


def _asked(
    record: EvalRecord,
    suite: Suite,
    points: Mapping[int, OperatingPoint],
    losses: Mapping[str, Mapping[int, Loss]],
) -> set[int]:
    """Positions that the search measures, from the dyadic ones on."""
    asked: set[int] = set()
    missing = set(dyadic_positions(suite.steps.octaves)) & set(points)
    while missing:
        asked |= missing
        known = sorted(asked)
        missing = {
            position
            for result in record.tolerances
            for position in asked_next(
                {p: losses[result.metric][p] for p in known},
                partial(_mixture, [points[p] for p in known], result),
                result.epsilon,
            )
        }
        missing = (missing & set(points)) - asked
    return asked


def _mixture(points: Sequence[OperatingPoint], result: ToleranceResult) -> Mixture:
    """Where the score at ε lies among these points."""
    bits = np.array([point.bits.total for point in points])
    losses = np.array([point.loss(result.metric) for point in points])
    return cheapest_within(bits, losses, result.epsilon)


def _of_infeasible(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    absent = (result.step, result.bits, result.bits_ci, result.l0)
    if any(value is not None for value in absent) or result.replicates or result.ranked:
        yield "infeasible, but with a step, bits, or a rank"
    if result.at_coarsest:
        yield "infeasible, but at the coarsest step"
    if not _may_fail(record.points[0], result):
        yield "infeasible, but the finest step is within ε"
    if result.non_monotone != _returns(record, result):
        yield "non_monotone does not agree with the points"


def _of_feasible(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    point = operating_point(record, result)
    if point is None or result.bits is None or result.bits_ci is None or result.l0 is None:
        yield "feasible, but without bits, L0, or a point at its step"
        return
    if result.ranked != (record.identity.limit is None):
        yield "ranked and partial do not agree"
    yield from _of_bits(record, result)
    yield from _of_step(record, result, point)
    yield from _of_curve(record, result)


def _of_bits(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    """Bits, L0 and replicates are those of the points' hull at ε."""
    points, metric = record.points, result.metric
    bits = np.array([point.bits.total for point in points])
    mixture = _mixture(points, result)
    l0 = float(mixture.of(np.array([point.l0 for point in points])))
    if not (same(result.bits or 0.0, float(mixture.of(bits))) and same(result.l0 or 0.0, l0)):
        yield "bits or L0 are not those of the points at ε"
    found = positions(record)
    if None not in found and unmeasured_beside([p for p in found if p is not None], mixture):
        yield "the steps of the score at ε have neighbours that were not measured"
    drawn = np.stack([point.resampled_bits() for point in points], axis=-1)
    drawn_losses = np.stack([point.resampled(metric) for point in points], axis=-1)
    drawn_bits = cheapest_within(drawn, drawn_losses, result.epsilon).of(drawn)
    yield from _of_replicates(result, drawn_bits)


def _of_replicates(
    result: ToleranceResult, drawn: Float64[np.ndarray, " replicate"]
) -> Iterator[str]:
    if len(result.replicates) != len(drawn) or result.bits_ci is None:
        yield "there are not as many replicates as resamples of the points"
        return
    width = float(np.ptp(drawn))
    replicates = np.array(result.replicates, dtype=np.float64)
    if np.abs(replicates - drawn).max() > KEPT * width + 1e-6 * abs(result.bits or 0.0):
        yield "replicates are not those of the points' resamples at ε"
    ends = percentile_interval(replicates)
    if not all(
        math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9)
        for a, b in zip(ends, result.bits_ci, strict=True)
    ):
        yield "bits_ci is not the interval of the replicates"


def _of_step(record: EvalRecord, result: ToleranceResult, point: OperatingPoint) -> Iterator[str]:
    """The step passes, so do all finer ones, and its neighbour on the refined grid fails."""
    index = record.points.index(point)
    if not all(_may_pass(other, result) for other in record.points[: index + 1]):
        yield "the step, or a finer one, is not within ε"
    if index + 1 == len(record.points):
        return
    if not _may_fail(record.points[index + 1], result):
        yield "a coarser step is within ε, too"
    if not _are_neighbours(record, index, index + 1):
        yield "the step has no neighbour on the refined grid that fails"


def _of_curve(record: EvalRecord, result: ToleranceResult) -> Iterator[str]:
    """Where the loss leaves ε, neighbours are measured; `at_coarsest` and `non_monotone` are so."""
    leaves = _leaves(record, result)
    if result.at_coarsest != (leaves == len(record.points)):
        yield "at_coarsest does not agree with the points"
    if 0 < leaves < len(record.points) and not _are_neighbours(record, leaves - 1, leaves):
        yield "the loss leaves ε between steps that are no neighbours on the refined grid"
    if result.non_monotone != _returns(record, result):
        yield "non_monotone does not agree with the points"


def _leaves(record: EvalRecord, result: ToleranceResult) -> int:
    """The index of the first point whose loss exceeds ε, or how many points there are."""
    above = [point.loss(result.metric) > result.epsilon for point in record.points]
    return above.index(True) if True in above else len(above)


def _returns(record: EvalRecord, result: ToleranceResult) -> bool:
    later = record.points[_leaves(record, result) :]
    return any(point.loss(result.metric) <= result.epsilon for point in later)


def _are_neighbours(record: EvalRecord, one: int, other: int) -> bool:
    found = positions(record)
    low, high = found[one], found[other]
    return low is not None and high is not None and high - low == 1


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
