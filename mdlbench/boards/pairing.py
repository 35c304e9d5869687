"""What two records' SAEs cost beside each other: differences of bits, paired over documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.errors import RecordError
from mdlbench.records.record import EvalRecord, ToleranceResult, shortened
from mdlbench.statistics.bootstrap import percentile_interval, percentile_intervals, side
from mdlbench.suite.base import MetricName


class Difference(NamedTuple):
    """Bits per token of one SAE minus another's, with the 95% interval of the paired difference."""

    bits: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or −1 where the interval lies on one side of 0; 0 where it covers it."""
        return side(self.low, self.high)


class AtTolerance(NamedTuple):
    """A difference at one tolerance that both SAEs meet."""

    epsilon: float
    difference: Difference


def differences(anchor: EvalRecord, test: EvalRecord, metric: MetricName) -> list[AtTolerance]:
    """Bits of `test` minus bits of `anchor` at every tolerance that both meet, by rising ε.

    Both are read off their own curves at ε, as on a leaderboard (maths §8).

    Raises:
        RecordError: the records' bootstrap resamples are not the same, so nothing is paired.
    """
    return [
        AtTolerance(one.epsilon, _difference(_gap(one, other), _replicates(one, other, test.name)))
        for one, other in _shared(anchor, test, metric)
    ]


def intervals_of_pairs(
    replicates: Float64[np.ndarray, "sae replicate"],
) -> Float64[np.ndarray, "pair 2"]:
    """The intervals of `differences` for every two SAEs: bits of j minus bits of i, i < j.

    Args:
        replicates: bits at one tolerance; a column is one resample of the documents.

    Returns:
        Ends in bits per token; pairs in the order (0, 1), (0, 2), …, (1, 2), ….
    """
    ends = [percentile_intervals(replicates[i + 1 :] - own) for i, own in enumerate(replicates)]
    return np.concatenate([np.empty((0, 2)), *ends])


def mean_difference(anchor: EvalRecord, test: EvalRecord, metric: MetricName) -> Difference | None:
    """The mean of `differences`, paired within each resample as well; None where there are none."""
    shared = list(_shared(anchor, test, metric))
    if not shared:
        return None
    gaps = [_gap(one, other) for one, other in shared]
    replicates = [_replicates(one, other, test.name) for one, other in shared]
    return _difference(float(np.mean(gaps)), np.mean(replicates, axis=0))


def sign_change(
    anchor: EvalRecord, test: EvalRecord, metric: MetricName
) -> tuple[AtTolerance, AtTolerance] | None:
    """A tolerance at which `anchor` is shorter and one at which `test` is, both beyond chance.

    These are paired differences at tolerances, the largest of either sign.
    """
    found = differences(anchor, test, metric)
    above = [at for at in found if at.difference.sign > 0]
    below = [at for at in found if at.difference.sign < 0]
    if not above or not below:
        return None
    return max(above, key=_size), max(below, key=_size)


def _size(at: AtTolerance) -> float:
    return abs(at.difference.bits)


def _shared(
    anchor: EvalRecord, test: EvalRecord, metric: MetricName
) -> Iterator[tuple[ToleranceResult, ToleranceResult]]:
    """Results of both at the tolerances that both meet, by rising ε."""
    refuse_unpaired(anchor, test)
    others = {r.epsilon: r for r in test.tolerances if r.metric == metric and r.feasible}
    for result in sorted(anchor.tolerances, key=lambda result: result.epsilon):
        if result.metric == metric and result.feasible and result.epsilon in others:
            yield result, others[result.epsilon]


def _gap(one: ToleranceResult, other: ToleranceResult) -> float:
    if one.bits is None or other.bits is None:
        raise RecordError(f"feasible at {one.metric} {one.epsilon:g}, but without bits")
    return other.bits - one.bits


def _replicates(
    one: ToleranceResult, other: ToleranceResult, name: str
) -> Float64[np.ndarray, " replicate"]:
    if not one.replicates or len(one.replicates) != len(other.replicates):
        raise RecordError(
            f"{name}: {len(other.replicates)} bootstrap replicates at {one.metric} "
            f"{one.epsilon:g} cannot be paired with {len(one.replicates)}"
        )
    pair = np.array([one.replicates, other.replicates], dtype=np.float64)
    return np.asarray(pair[1] - pair[0])


def _difference(bits: float, replicates: Float64[np.ndarray, " replicate"]) -> Difference:
    return Difference(bits, *percentile_interval(replicates))


def refuse_unlike(one: EvalRecord, other: EvalRecord) -> None:
    """Raises `RecordError` unless both belong to one measurement, wherever in the suite."""
    _refuse_difference(one, other, _measured)


def refuse_other_data(one: EvalRecord, other: EvalRecord) -> None:
    """Raises `RecordError` unless they are alike, and measured on the same data."""
    refuse_unlike(one, other)
    _refuse_difference(one, other, _data)


def refuse_unpaired(anchor: EvalRecord, test: EvalRecord) -> None:
    """Raises `RecordError` unless they are alike, in one place and on the same documents."""
    refuse_unlike(anchor, test)
    _refuse_difference(anchor, test, _placed)
    _refuse_difference(anchor, test, _data)


def _refuse_difference(
    one: EvalRecord, other: EvalRecord, premises: Callable[[EvalRecord], dict[str, str]]
) -> None:
    for (what, value), others in zip(premises(one).items(), premises(other).values(), strict=True):
        if value != others:
            raise RecordError(
                f"{one.label} and {other.label} cannot be compared: their {what} differs "
                f"({shortened(value)} and {shortened(others)})"
            )


def _measured(record: EvalRecord) -> dict[str, str]:
    identity = record.identity
    return {
        "suite": identity.suite,
        "suite_digest": identity.suite_digest,
        "protocol": str(identity.protocol),
        "seed": str(identity.seed),
        "limit": "all documents" if identity.limit is None else f"{identity.limit} documents",
        "set of tolerances": ", ".join(
            f"{result.metric} {result.epsilon}" for result in record.tolerances
        ),
    }


def _data(record: EvalRecord) -> dict[str, str]:
    return {"data_sha256": record.identity.data_sha256}


def _placed(record: EvalRecord) -> dict[str, str]:
    return {"site": record.site.label}
