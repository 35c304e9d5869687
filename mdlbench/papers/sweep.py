"""A sweep of SAEs over width and sparsity, read as the paper reads it (maths §8).

Everything here follows from records alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64
from scipy.stats import linregress

from mdlbench.boards import pairing
from mdlbench.boards.leaderboard import Row, rank
from mdlbench.boards.pairing import AtTolerance, Difference
from mdlbench.curves.curve import Crossing, RateDistortionCurve, bd_bits, bd_rate, crossings
from mdlbench.errors import MdlbenchError
from mdlbench.papers.wording import all_positive
from mdlbench.records.record import EvalRecord, OperatingPoint
from mdlbench.statistics.metrics import metric_of

T = TypeVar("T")
METRIC = "mse"
"""The loss at which the paper compares."""
Regime = Literal["A", "B", "C", "D"]
DEAD_SHARES = (0.001, 0.01, 0.1)
"""Shares of dead latents at which their onset is measured."""
DEAD_SHARE = 0.01
"""The one that decides."""


@dataclass(frozen=True)
class SweepEntry:
    """One SAE at ε: its bits there, and its accepted step.

    Attributes:
        k: nonzero latents per token that it was trained for, where its config says so.
        rank: among the sweep at this ε, shared by ties (maths §7).
        point: the operating point at that step.
    """

    record: EvalRecord
    k: float | None
    rank: int | None
    bits: float
    bits_low: float
    bits_high: float
    point: OperatingPoint

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def width(self) -> int:
        return self.record.coder.d_latents

    @property
    def l0(self) -> float:
        return self.point.l0

    @property
    def dead(self) -> float:
        return self.record.coder.dead_fraction

    @property
    def delta_mse(self) -> float:
        """What quantisation adds to the MSE."""
        return self.point.mse - self.record.floor.mse

    @property
    def magnitude_share(self) -> float:
        """Share of the plug-in rate that says how active latents are."""
        return self.point.bits.magnitude / self.point.bits.plugin if self.point.bits.plugin else 0.0


@dataclass(frozen=True)
class Level:
    """The sweep at one ε that at least one SAE meets.

    Attributes:
        entries: SAEs that meet it, by width, then bits.
        infeasible: those that do not, by width.
    """

    epsilon: float
    entries: tuple[SweepEntry, ...]
    infeasible: tuple[EvalRecord, ...]

    @property
    def limit(self) -> str:
        """The tolerance in words: "MSE ≤ 0.015"."""
        return limit_name(self.epsilon)

    @property
    def pairs(self) -> list[SweepEntry]:
        """The sparsity with the fewest bits at each width: pairs of equal test MSE, by width."""
        return [group[0] for group in _by_width(self.entries, lambda entry: entry.width).values()]

    @property
    def best(self) -> SweepEntry:
        """The ε-MDL-optimal SAE."""
        return min(self.entries, key=lambda entry: (entry.bits, entry.name))

    @property
    def tied(self) -> list[SweepEntry]:
        """Those that share the first rank with `best`, itself among them."""
        return [entry for entry in self.entries if entry.rank == 1]

    @property
    def narrow(self) -> list[SweepEntry]:
        """SAEs as wide as `best` or narrower: where the paper's DL is linear in L0."""
        return [entry for entry in self.entries if entry.width <= self.best.width]

    def regimes(self) -> dict[Regime, SweepEntry]:
        """The paper's four regimes as far as the sweep has them, A first.

        B is the minimum. A is the sparsest SAE of the largest width, if that is wider than B; D the
        densest of the smallest width, if that is narrower; C the other SAE narrower than B whose
        L0 is nearest to the geometric mean of B's and D's.
        """
        best, found = self.best, dict[Regime, SweepEntry]()
        wide = [e for e in self.entries if e.width == self.entries[-1].width > best.width]
        narrow = [e for e in self.entries if e.width < best.width]
        if wide:
            found["A"] = min(wide, key=lambda entry: entry.l0)
        found["B"] = best
        if narrow:
            densest = max((e for e in narrow if e.width == narrow[0].width), key=lambda e: e.l0)
            middle = 0.5 * math.log(best.l0 * densest.l0)
            others = [entry for entry in narrow if entry is not densest]
            if others:
                found["C"] = min(others, key=lambda entry: abs(math.log(entry.l0) - middle))
            found["D"] = densest
        return found


def limit_name(epsilon: float) -> str:
    """A tolerance on the paper's loss in words: "MSE ≤ 0.015"."""
    return metric_of(METRIC).short_limit(epsilon)


def level(records: Sequence[EvalRecord], epsilon: float) -> Level:
    """The sweep at one tolerance on the MSE.

    Raises:
        MdlbenchError: no SAE meets it.
        RecordError: it is not among the records' tolerances, or they cannot stand on one board.
    """
    rows = rank(records, METRIC, epsilon).rows
    entries = [_entry(row) for row in rows if row.result.bits is not None]
    missed = [row.record for row in rows if row.result.bits is None]
    if not entries:
        raise MdlbenchError(f"no SAE of the sweep keeps {METRIC} within {epsilon:g}")
    entries.sort(key=lambda entry: (entry.width, entry.bits, entry.name))
    missed.sort(key=lambda record: (record.coder.d_latents, record.name))
    return Level(epsilon, tuple(entries), tuple(missed))


def levels(records: Sequence[EvalRecord]) -> list[Level]:
    """The sweep at every tolerance on the MSE that an SAE meets, by rising ε."""
    results = (result for record in records for result in record.tolerances)
    met = {result.epsilon for result in results if result.metric == METRIC and result.feasible}
    return [level(records, epsilon) for epsilon in sorted(met)]


class Minimum(NamedTuple):
    """Where DL against width is smallest, and how far the ends of the sweep lie above it.

    Attributes:
        narrowest, widest: the end pairs' bits minus the best one's; None where that end is the
            best one.
    """

    entry: SweepEntry
    narrowest: Difference | None
    widest: Difference | None

    @property
    def interior(self) -> bool | None:
        """Whether both ends lie above; None where an end does so within chance."""
        ends = self.narrowest, self.widest
        return all_positive(-1 if end is None else end.sign for end in ends)


def minimum(at: Level) -> Minimum:
    """The minimum of DL over the widths that meet ε."""
    pairs, best = at.pairs, at.best
    ends = [None if e.width == best.width else above(best, e, at) for e in (pairs[0], pairs[-1])]
    return Minimum(best, *ends)


def above(best: SweepEntry, entry: SweepEntry, at: Level) -> Difference:
    """Bits of an SAE minus those of the best one at ε, paired over images."""
    found = pairing.differences(best.record, entry.record, METRIC)
    return next(one.difference for one in found if one.epsilon == at.epsilon)


class LinearFit(NamedTuple):
    """Least squares of DL against L0."""

    slope: float
    intercept: float
    r_squared: float
    n: int


def linear_fit(entries: Sequence[SweepEntry]) -> LinearFit | None:
    """Bits per token against L0; None with fewer than three SAEs of different L0."""
    if len({entry.l0 for entry in entries}) < 3:
        return None
    fit = linregress([entry.l0 for entry in entries], [entry.bits for entry in entries])
    return LinearFit(float(fit.slope), float(fit.intercept), float(fit.rvalue) ** 2, len(entries))


class Precision(NamedTuple):
    """How finely latents are sent.

    Attributes:
        step: of the quantiser, in units of the activation.
        magnitude_bits: entropy of a nonzero's magnitude, given that it is on, in bits.
        float_bits: ⌈log₂ of the magnitude levels in use⌉: bits of a fixed-length float, B of
            `bound` (maths §3).
    """

    step: float
    magnitude_bits: float
    float_bits: float


def precision(record: EvalRecord, point: OperatingPoint) -> Precision:
    """The effective precision at an operating point that has nonzero symbols."""
    float_bits = point.bits.bound / point.l0 - math.log2(record.coder.d_latents)
    return Precision(point.step, point.bits.magnitude / point.l0, float_bits)


def precision_at(record: EvalRecord, delta_mse: float) -> Precision | None:
    """The precision at which quantisation adds so much MSE, between the two points next to it.

    Linear in the logarithm of the step, which is linear in that of ΔMSE; None where the record's
    steps do not span it.
    """
    points = sorted((p for p in record.points if p.top_k is None and p.l0), key=lambda p: p.step)
    added = [point.mse - record.floor.mse for point in points]
    after = next((i for i, more in enumerate(added) if more > delta_mse), None)
    if not after or added[after - 1] <= 0:
        return None
    logs = np.log([added[after - 1], delta_mse, added[after]])
    share = (logs[1] - logs[0]) / (logs[2] - logs[0])
    fine, coarse = (np.array(precision(record, p)) for p in points[after - 1 : after + 1])
    fine[0], coarse[0] = np.log2([fine[0], coarse[0]])
    step, magnitude_bits, float_bits = (1 - share) * fine + share * coarse
    return Precision(float(2.0**step), float(magnitude_bits), float(float_bits))


def onset(records: Iterable[EvalRecord], share: float) -> int | None:
    """The smallest width at which more than this share of latents is dead; None if there is none.

    A latent is dead if it is active on no token of either split, before quantisation.
    """
    return min((r.coder.d_latents for r in records if r.coder.dead_fraction > share), default=None)


def sparsest(records: Iterable[EvalRecord]) -> list[EvalRecord]:
    """The SAE with the smallest L0 before quantisation at each width, by width."""
    ordered = sorted(records, key=lambda record: (record.coder.l0, record.name))
    groups = _by_width(ordered, lambda record: record.coder.d_latents)
    return [groups[width][0] for width in sorted(groups)]


class PairOfCurves(NamedTuple):
    """How the curves of two SAEs lie to each other.

    Attributes:
        crossings: of their hulls (maths §8).
        confirmed: two tolerances at which one, then the other, is shorter beyond chance.
    """

    one: EvalRecord
    other: EvalRecord
    crossings: tuple[Crossing, ...]
    confirmed: tuple[AtTolerance, AtTolerance] | None


def pairs_of_curves(records: Sequence[EvalRecord]) -> list[PairOfCurves]:
    """All pairs of SAEs whose curves share a range of quality."""
    curves = {record.id: record.curve(METRIC) for record in records}
    found = []
    for one, other in combinations(records, 2):
        crossed = crossings(curves[one.id], curves[other.id])
        if crossed is not None:
            confirmed = pairing.sign_change(one, other, METRIC)
            found.append(PairOfCurves(one, other, crossed.points, confirmed))
    return found


def envelope(
    curves: Sequence[RateDistortionCurve], distortions: Float64[np.ndarray, " point"]
) -> tuple[Float64[np.ndarray, "sae point"], Float64[np.ndarray, " point"]]:
    """Rates along all curves' hulls, NaN where one does not reach, and the smallest of them."""
    rates = np.array([curve.rates_at(distortions) for curve in curves])
    reached = np.where(np.isnan(rates), np.inf, rates).min(axis=0)
    return rates, np.where(np.isinf(reached), np.nan, reached)


class Gain(NamedTuple):
    """What another operating mode of the quantiser changes for one SAE.

    Attributes:
        mean: bits minus those of the anchor mode, averaged over the tolerances that both meet.
        at: the same at each tolerance.
        bd_bits: over the curves within the largest ε that both meet, without an interval. A step
            means something else in each mode, so how far curves go beyond that ε says nothing.
        bd_rate: likewise, in percent.
    """

    record: EvalRecord
    mean: Difference | None
    at: tuple[AtTolerance, ...]
    bd_bits: float | None
    bd_rate: float | None


def gains(anchors: Sequence[EvalRecord], others: Sequence[EvalRecord]) -> list[Gain]:
    """Each SAE in another mode against itself in the anchor's, matched by weights; by width, L0."""
    by_coder = {_coder(record): record for record in anchors}
    matched = [(by_coder[_coder(r)], r) for r in others if _coder(r) in by_coder]
    matched.sort(key=lambda pair: _by_size(pair[1]))
    return [_gain(anchor, record) for anchor, record in matched]


def _by_size(record: EvalRecord) -> tuple[int, float, str]:
    return record.coder.d_latents, record.coder.l0, record.name


def _coder(record: EvalRecord) -> tuple[str, str]:
    return record.name, record.identity.coder.weights_sha256


def _gain(anchor: EvalRecord, record: EvalRecord) -> Gain:
    found = pairing.differences(anchor, record, METRIC)
    coarsest = max((at.epsilon for at in found), default=0.0)
    curves = anchor.curve(METRIC).within(coarsest), record.curve(METRIC).within(coarsest)
    return Gain(
        record,
        pairing.mean_difference(anchor, record, METRIC),
        tuple(found),
        bd_bits(*curves),
        bd_rate(*curves),
    )


def trained_k(record: EvalRecord) -> float | None:
    """Nonzero latents per token that the SAE was trained for, where its config says so."""
    k = record.coder.details.get("k")
    return float(k) if isinstance(k, int | float) else None


def _entry(row: Row) -> SweepEntry:
    record, result, point = row.record, row.result, row.point
    if point is None or result.bits is None or result.bits_ci is None:
        raise MdlbenchError(
            f"{record.name}: no operating point at {result.metric} {result.epsilon:g}"
        )
    return SweepEntry(
        record, trained_k(record), row.ranking.rank, result.bits, *result.bits_ci, point
    )


def _by_width(items: Iterable[T], width: Callable[[T], int]) -> dict[int, list[T]]:
    groups: dict[int, list[T]] = {}
    for item in items:
        groups.setdefault(width(item), []).append(item)
    return groups


@dataclass(frozen=True)
class Study:
    """A sweep in every operating mode of the quantiser, read at one ε and at all others.

    Attributes:
        anchor: the mode that all but `gains` is of.
        records: of that mode, by width, then L0.
        at: the sweep at the ε of the study.
        levels: at every ε that an SAE meets.
        curves: pairs of SAEs with curves that share a range of quality.
        gains: each other mode against the anchor's.
    """

    anchor: str
    records: tuple[EvalRecord, ...]
    at: Level
    levels: tuple[Level, ...]
    curves: tuple[PairOfCurves, ...]
    gains: Mapping[str, list[Gain]]

    @classmethod
    def of(cls, modes: Mapping[str, Sequence[EvalRecord]], epsilon: float) -> Study:
        """The study of records by mode, the anchor's first; raises as `level` does."""
        anchor, *others = modes
        records = sorted(modes[anchor], key=_by_size)
        return cls(
            anchor,
            tuple(records),
            level(records, epsilon),
            tuple(levels(records)),
            tuple(pairs_of_curves(records)),
            {mode: gains(records, modes[mode]) for mode in others},
        )

    @property
    def widths(self) -> list[int]:
        return sorted({record.coder.d_latents for record in self.records})
