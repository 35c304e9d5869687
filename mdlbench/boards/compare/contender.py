"""What is compared: one SAE, or a family of SAEs that answers with the best of its members."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mdlbench.boards.leaderboard import unique_labels
from mdlbench.curves.chords import Chords
from mdlbench.curves.curve import RateDistortionCurve, RatePoint
from mdlbench.errors import RecordError
from mdlbench.records.measured import resampled_curves
from mdlbench.records.record import EvalRecord, ToleranceResult
from mdlbench.suite.base import MetricName


@dataclass(frozen=True)
class Contender:
    """One SAE or several.

    Attributes:
        name: on a board; of a family "all ARCHITECTURE", with its quantiser as on a board.
        members: one record for each SAE, at least one.
        is_family: named as a family, even if it has one member.
    """

    name: str
    members: tuple[EvalRecord, ...]
    is_family: bool = False

    @property
    def ids(self) -> frozenset[str]:
        """Ids of the members' records."""
        return frozenset(member.id for member in self.members)

    @cached_property
    def labels(self) -> dict[str, str]:
        """What to call each member, by record id: no two alike."""
        if not self.is_family:
            return {member.id: self.name for member in self.members}
        return unique_labels(self.members)

    def curve(self, metric: MetricName) -> RateDistortionCurve:
        """All operating points of all members."""
        points = [point for member in self.members for point in member.curve(metric).points]
        return RateDistortionCurve.of(points, self.name, metric)

    def member_at(self, point: RatePoint) -> EvalRecord:
        """The member whose operating point this is."""
        for member in self.members:
            for own in member.points:
                if (own.step, own.bits.total) == (point.step, point.rate):
                    return member
        raise RecordError(f"{self.name}: no operating point at step {point.step:g}")

    def best_at(
        self, metric: MetricName, epsilon: float
    ) -> tuple[EvalRecord, ToleranceResult] | None:
        """The member of fewest bits within ε, and its result; None where none is."""
        found = [(m, r) for m, r in self.results_at(metric, epsilon) if r.bits is not None]
        return min(found, key=lambda pair: (pair[1].bits, pair[0].label), default=None)

    def results_at(
        self, metric: MetricName, epsilon: float
    ) -> list[tuple[EvalRecord, ToleranceResult]]:
        """The feasible results of the members."""
        results = [(member, member.result(metric, epsilon)) for member in self.members]
        return [(member, result) for member, result in results if result.feasible]


class ByQuality(NamedTuple):
    """Bits per token by quality, and their log₁₀; no such where too few vertices have a rate."""

    rate: Chords
    log_rate: Chords | None


@dataclass(frozen=True)
class ComparedCurve:
    """A contender's curve as it is compared.

    Attributes:
        vertices: of its lower hull, by rising rate (maths §8).
        resampled: its hull in every bootstrap resample, vertices selected anew; None where it has
            no chord. Empty where a record has no resamples.
    """

    contender: Contender
    vertices: RateDistortionCurve
    resampled: list[ByQuality | None]

    @classmethod
    def of(cls, contender: Contender, metric: MetricName) -> ComparedCurve:
        resampled = [_by_quality(curve) for curve in _resampled_curves(contender, metric)]
        return cls(contender, contender.curve(metric).lower_hull(), resampled)

    @property
    def n_points(self) -> int:
        """Vertices that have a quality."""
        return int((self.vertices.distortions > 0).sum())


def _by_quality(curve: RateDistortionCurve) -> ByQuality | None:
    hull = curve.lower_hull()
    rate = hull.by_quality()
    return None if rate is None else ByQuality(rate, hull.log_rate_by_quality())


def _resampled_curves(contender: Contender, metric: MetricName) -> list[RateDistortionCurve]:
    """The contender's curve in every resample; none where a point lacks resamples."""
    points = [point for member in contender.members for point in member.points]
    return resampled_curves(points, contender.name, metric)
