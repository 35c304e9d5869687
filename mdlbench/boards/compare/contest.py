"""Contenders against an anchor: their curves, and who is shortest at every tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float64

from mdlbench.boards.compare.contender import ComparedCurve, Contender
from mdlbench.boards.compare.curves import CurveComparison, compare_curves
from mdlbench.boards.leaderboard import shared_ranks
from mdlbench.boards.pairing import Difference, refuse_unpaired
from mdlbench.errors import RecordError, UsageError
from mdlbench.records.record import EvalRecord, ToleranceResult
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.statistics.metrics import metric_of
from mdlbench.suite.base import MetricName


@dataclass(frozen=True)
class Placing:
    """One contender at one tolerance. Absent values: no member is within ε.

    Attributes:
        sae: the member of fewest bits, as on a board.
        bits, interval: its bits per token at ε, with their 95% interval.
        rank: among the contenders, baselines included, as the ranks of a board (maths §7).
        to_anchor: bits above the anchor's best member; None for the anchor, or if it misses ε.
    """

    name: str
    sae: str | None = None
    bits: float | None = None
    interval: tuple[float, float] | None = None
    step: float | None = None
    l0: float | None = None
    rank: int | None = None
    to_anchor: Difference | None = None


@dataclass(frozen=True)
class AtEpsilon:
    """Contenders at one tolerance, fewest bits first, then those that miss it.

    Attributes:
        lead: bits of the second above the first; None with fewer than two within ε.
    """

    epsilon: float
    placings: tuple[Placing, ...]
    lead: Difference | None


@dataclass(frozen=True)
class Contest:
    """Contenders compared with the first of them, the anchor.

    Attributes:
        curves: the compared curves, the anchor's first.
        comparisons: every other curve against the anchor's, in the order given.
        tolerances: of the metric, by rising ε.
    """

    metric: MetricName
    contenders: tuple[Contender, ...]
    curves: tuple[ComparedCurve, ...]
    comparisons: tuple[CurveComparison, ...]
    tolerances: tuple[AtEpsilon, ...]

    @property
    def anchor(self) -> Contender:
        return self.contenders[0]

    @property
    def record(self) -> EvalRecord:
        """One of the records: they agree in all that was measured."""
        return self.anchor.members[0]

    @property
    def is_partial(self) -> bool:
        """Made with `--limit`, as records compared with one another all are or none is."""
        return self.record.partial

    @property
    def n_resamples(self) -> int:
        """Resamples of the curves; 0 where a record has none."""
        return min(len(curve.resampled) for curve in self.curves)


def compare(contenders: Sequence[Contender], metric: str, epsilon: float | None = None) -> Contest:
    """Compare every contender with the first.

    Args:
        contenders: at least two, no two of the same members or of one name.
        metric: the distortion of the curves, by its name in the table of metrics.
        epsilon: a tolerance of the suite on it; all of them by default.

    Raises:
        UsageError: fewer than two contenders, one given twice, two of one name, an unknown metric
            or tolerance.
        RecordError: the records do not measure the same thing on the same data.
    """
    loss = metric_of(metric).name
    _refuse_repeated(contenders)
    for contender in contenders:
        for member in contender.members:
            refuse_unpaired(contenders[0].members[0], member)
    epsilons = _epsilons(contenders[0].members[0], loss, epsilon)
    curves = tuple(ComparedCurve.of(contender, loss) for contender in contenders)
    return Contest(
        metric=loss,
        contenders=tuple(contenders),
        curves=curves,
        comparisons=tuple(compare_curves(curves[0], curve) for curve in curves[1:]),
        tolerances=tuple(placings_at(contenders, loss, value) for value in epsilons),
    )


def placings_at(contenders: Sequence[Contender], metric: MetricName, epsilon: float) -> AtEpsilon:
    """Who is shortest at one tolerance, and by how much (maths §8).

    A family's bits are those of its shortest member, selected anew in every resample, so that an
    interval of a difference covers the selection.

    Raises:
        RecordError: bootstrap replicates are missing or cannot be paired.
    """
    found = [_Found.of(contender, metric, epsilon) for contender in contenders]
    feasible = sorted((f for f in found if f is not None), key=lambda f: (f.bits, f.name))
    missing = [c.name for c, f in zip(contenders, found, strict=True) if f is None]
    ranks = shared_ranks(_stacked(feasible)) if feasible else []
    anchor = found[0]
    placings = [
        Placing(
            name=one.name,
            sae=one.label,
            bits=one.bits,
            interval=one.result.bits_ci,
            step=one.result.step,
            l0=one.result.l0,
            rank=rank,
            to_anchor=None if anchor is None or one is anchor else _difference(anchor, one),
        )
        for one, rank in zip(feasible, ranks, strict=True)
    ]
    lead = _difference(*feasible[:2]) if len(feasible) > 1 else None
    return AtEpsilon(epsilon, (*placings, *map(Placing, missing)), lead)


@dataclass(frozen=True)
class _Found:
    """A contender within ε: its shortest member, and its bits in every resample."""

    name: str
    label: str
    result: ToleranceResult
    bits: float
    replicates: Float64[np.ndarray, " replicate"]

    @classmethod
    def of(cls, contender: Contender, metric: MetricName, epsilon: float) -> _Found | None:
        best = contender.best_at(metric, epsilon)
        if best is None:
            return None
        record, result = best
        if result.bits is None:
            return None
        drawn = [result.replicates for _, result in contender.results_at(metric, epsilon)]
        if len(set(map(len, drawn))) > 1:
            raise RecordError(
                f"{contender.name}: bootstrap replicates at {metric} {epsilon:g} cannot be paired"
            )
        replicates = np.array(drawn, dtype=np.float64).min(axis=0)
        return cls(contender.name, contender.labels[record.id], result, result.bits, replicates)


def _stacked(found: Sequence[_Found]) -> Float64[np.ndarray, "contender replicate"]:
    for one in found:
        if not len(one.replicates) or len(one.replicates) != len(found[0].replicates):
            raise RecordError(
                f"{one.label}: {len(one.replicates)} bootstrap replicates at "
                f"{one.result.metric} {one.result.epsilon:g} cannot be paired with "
                f"{len(found[0].replicates)} of {found[0].label}"
            )
    return np.stack([one.replicates for one in found])


def _difference(anchor: _Found, test: _Found) -> Difference:
    replicates = test.replicates - anchor.replicates
    return Difference(test.bits - anchor.bits, *percentile_interval(replicates))


def _epsilons(record: EvalRecord, metric: MetricName, epsilon: float | None) -> list[float]:
    known = sorted(result.epsilon for result in record.tolerances if result.metric == metric)
    if epsilon is None:
        return known
    if epsilon not in known:
        tolerances = ", ".join(f"{value:g}" for value in known) or "none"
        raise UsageError(f"the suite has no tolerance {metric} {epsilon:g}. Known: {tolerances}.")
    return [epsilon]


def _refuse_repeated(contenders: Sequence[Contender]) -> None:
    if len(contenders) < 2:
        raise UsageError("name at least two to compare: the anchor first")
    for one, other in combinations(contenders, 2):
        if one.ids == other.ids:
            names = one.name if one.name == other.name else f"{one.name} and {other.name}"
            raise UsageError(f"{names}: the same SAEs, given twice")
        if one.name == other.name:
            raise UsageError(f"two to compare are called {one.name}: give each a name of its own")
