"""How many steps a curve needs: BD-bits of sparse curves against those of dense ones.

    python benchmarks/curve_points.py -o runs/curve-points    # half an hour on one thread
    python benchmarks/curve_points.py --suite toy truth shortest split-all -o runs/curve-points

Every SAE is scored at all steps 0.05 octave apart, and curves of fewer steps are made by leaving
steps out. Errors are against BD-bits of the dense hulls, over all pairs, as shares of the width of
their 95% intervals: along the chords of lower hulls, as the package compares, and by splines
through Pareto fronts over quality. Records are kept in the folder and not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from scipy.interpolate import Akima1DInterpolator, PchipInterpolator

from mdlbench.boards.compare.contender import Contender
from mdlbench.boards.compare.contest import compare
from mdlbench.curves.curve import RateDistortionCurve, bd_bits
from mdlbench.records.record import EvalRecord, OperatingPoint
from mdlbench.records.store import read_intact_record
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.sources.protocol import known_dtype
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.tolerance import (
    STEPS_PER_OCTAVE,
    Loss,
    position_of,
    step_at,
    unmeasured,
)
from mdlbench.suite.load import load_suite

SUITE = "mnist"
SAES = ("batchtopk-128-k11", "mdl-256-s1.2", "jumprelu-128-c0.5")
METRIC = "mse"
OPEN_BITS = (0.1, 0.05, 0.02, 0.01)
"""Bits of BD-bits that a chord may leave open before a step between its ends is measured."""

Positions = set[int]
BdBits = Callable[[RateDistortionCurve, RateDistortionCurve], float | None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("saes", nargs="*", default=SAES)
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("-o", "--folder", type=Path, default=Path("runs/curve-points"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    records = dense_records(arguments.suite, arguments.saes, arguments.folder)
    print("\n".join(report(records)))


# --- dense curves ---------------------------------------------------------------------------


def dense_records(suite_name: str, keys: Sequence[str], folder: Path) -> list[EvalRecord]:
    """The SAEs at every step, from the folder where they are in it."""
    suite = load_suite(suite_name)
    opener = Opener(suite, Setting("cpu", None, None, known_dtype("float32"), cache=True))
    octaves = suite.steps.octaves - 1
    for key in keys:
        path = dense_path(folder, suite_name, key)
        if not path.exists():
            (target,) = targets(suite, [key], adapter=None)
            path.write_text(scored(opener, target, octaves).to_json())
    return [read_intact_record(dense_path(folder, suite_name, key)) for key in keys]


def dense_path(folder: Path, suite: str, key: str) -> Path:
    return folder / f"{suite}-{key}-normalised.json"


def scored(opener: Opener, target: Target, octaves: int) -> EvalRecord:
    """One SAE at every step 0.05 octave apart."""
    bench = Bench.open(InProcess(opener), target_site(opener, target), "normalised")
    with encoded(bench, target.sae) as run:
        finest = run.sweep.finest
    steps = [step_at(finest, position) for position in range(STEPS_PER_OCTAVE * octaves + 1)]
    identity = bench.identity(bench.identify(target.sae), target.name)
    return evaluate_coder(bench, target.sae, identity, steps=steps).record


# --- which steps are kept -------------------------------------------------------------------


@dataclass(frozen=True)
class Dense:
    """An SAE's points by position on the grid of 0.05 octave."""

    record: EvalRecord
    points: dict[int, OperatingPoint]

    @classmethod
    def of(cls, record: EvalRecord) -> Dense:
        finest = min(point.step for point in record.points)
        return cls(record, {position_of(finest, p.step): p for p in record.points})

    @property
    def dyadic(self) -> Positions:
        return self.every(STEPS_PER_OCTAVE)

    def every(self, apart: int) -> Positions:
        return {position for position in self.points if position % apart == 0}

    def curve(self, positions: Positions) -> RateDistortionCurve:
        points = [self.points[position] for position in positions]
        return self.record.model_copy(update={"points": points}).curve(METRIC)


@dataclass(frozen=True)
class Choice:
    """A rule for the steps at which an SAE is measured."""

    name: str
    positions: Callable[[Dense], Positions]


def refined(dense: Dense, start: Positions) -> Positions:
    """With the positions that every tolerance of the suite asks for, as `eval` does."""
    found = set(start)
    for result in dense.record.tolerances:
        losses = dense_losses(dense, result.metric)
        while wanted := unmeasured({p: losses[p] for p in found}, result.epsilon):
            found |= set(wanted)
    return found


def dense_losses(dense: Dense, metric: str) -> dict[int, Loss]:
    return {
        position: Loss(point.loss(metric), upper_limit(point.resampled(metric)))
        for position, point in dense.points.items()
    }


def bisected(dense: Dense, start: Positions, bits: float) -> Positions:
    """With steps between the ends of every chord below which a convex curve may lie so far."""
    found = set(start)
    while wanted := set(unsettled(dense, found, bits)):
        found |= wanted
    return found


def unsettled(dense: Dense, found: Positions, bits: float) -> Iterator[int]:
    """The middle of the widest gap of the grid within each chord that leaves so much open.

    A convex curve through the vertices lies above the lines on through the chords beside each.
    """
    hull = dense.curve(found).lower_hull()
    at = {(p.bits.total, p.loss(METRIC)): position for position, p in dense.points.items()}
    positions = [at[point[:2]] for point in hull.points]
    for i, share in enumerate(open_bits(hull.rates, hull.distortions)):
        between = sorted(p for p in found if positions[i + 1] <= p <= positions[i])
        fine, coarse = max(pairwise(between), key=lambda gap: gap[1] - gap[0])
        if share > bits and coarse - fine > 1:
            yield (fine + coarse) // 2


def open_bits(
    rates: Float64[np.ndarray, " vertex"], distortions: Float64[np.ndarray, " vertex"]
) -> Float64[np.ndarray, " chord"]:
    """What each chord's triangle may take off the mean over quality of a curve, in bits."""
    slopes = np.diff(rates) / np.diff(distortions)
    coarser, finer = np.append(0.0, slopes[:-1]), np.append(slopes[1:], -np.inf)
    rise, run = np.diff(rates), -np.diff(distortions)
    # from the coarse end d further on, the line of the chord before rises by −coarser·d
    with np.errstate(invalid="ignore"):
        meets = np.where(np.isinf(finer), run, (rise + finer * run) / (finer - coarser))
    heights = -(slopes - coarser) * meets
    falls = np.diff(-10.0 * np.log10(distortions))
    return np.asarray(heights / 2.0 * falls / falls.sum())


def above_floor(dense: Dense, apart: int, share: float) -> Positions:
    """Dyadic steps, and those so far apart where the loss is so much above the finest's."""
    losses = {position: point.loss(METRIC) for position, point in dense.points.items()}
    lossy = {p for p in dense.every(apart) if losses[p] > (1.0 + share) * losses[0]}
    return dense.dyadic | lossy


def chords_to(bits: float) -> Choice:
    """The refined steps, and those that chords leave open."""
    return Choice(
        f"refined, chords to {bits:g} bits",
        lambda dense: bisected(dense, refined(dense, dense.dyadic), bits),
    )


CHOICES = (
    Choice("dyadic", lambda dense: dense.dyadic),
    Choice("dyadic, refined at every ε", lambda dense: refined(dense, dense.dyadic)),
    Choice("every 1/2 octave", lambda dense: dense.every(10)),
    Choice("every 1/2 octave, refined", lambda dense: refined(dense, dense.every(10))),
    Choice("every 1/4 octave", lambda dense: dense.every(5)),
    Choice("every 1/5 octave", lambda dense: dense.every(4)),
    Choice("every 1/10 octave", lambda dense: dense.every(2)),
    Choice("1/5 from 2% above the floor", lambda dense: above_floor(dense, 4, 0.02)),
    Choice("1/10 from 2% above the floor", lambda dense: above_floor(dense, 2, 0.02)),
    Choice("1/20 from 2% above the floor", lambda dense: above_floor(dense, 1, 0.02)),
    *map(chords_to, OPEN_BITS),
)


# --- BD-bits --------------------------------------------------------------------------------


def spline_bd_bits(
    kind: type[PchipInterpolator] | type[Akima1DInterpolator],
) -> BdBits:
    """BD-bits by a spline through the Pareto front over quality, as codecs are compared."""

    def found(anchor: RateDistortionCurve, test: RateDistortionCurve) -> float:
        one, other = (kind(*front(curve)) for curve in (anchor, test))
        low, high = max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])
        return float((other.integrate(low, high) - one.integrate(low, high)) / (high - low))

    return found


def front(
    curve: RateDistortionCurve,
) -> tuple[Float64[np.ndarray, " point"], Float64[np.ndarray, " point"]]:
    """Quality and rate of the points that no other beats."""
    least = np.minimum.accumulate(curve.distortions)
    unbeaten = np.concatenate([[True], curve.distortions[1:] < least[:-1]])
    return -10.0 * np.log10(curve.distortions[unbeaten]), curve.rates[unbeaten]


METHODS: dict[str, BdBits] = {
    "hull": bd_bits,
    "PCHIP": spline_bd_bits(PchipInterpolator),
    "Akima": spline_bd_bits(Akima1DInterpolator),
}


@dataclass(frozen=True)
class Pair:
    """Two SAEs and what their dense hulls say."""

    anchor: Dense
    test: Dense
    bits: float
    width: float

    @classmethod
    def of(cls, anchor: Dense, test: Dense) -> Pair | None:
        """None where the two are not comparable."""
        one, other = (Contender(d.record.label, (d.record,)) for d in (anchor, test))
        found = compare([one, other], METRIC).comparisons[0].bd_bits
        if found is None or found.low is None or found.high is None:
            return None
        return cls(anchor, test, found.value, found.high - found.low)

    def error(self, curves: Mapping[str, RateDistortionCurve], method: BdBits) -> float:
        """As a share of the interval's width, of curves by record id; NaN where there is none."""
        found = method(*(curves[dense.record.id] for dense in (self.anchor, self.test)))
        return np.nan if found is None else (found - self.bits) / self.width


# --- the report -----------------------------------------------------------------------------


def report(records: Sequence[EvalRecord]) -> Iterator[str]:
    every = [Dense.of(record) for record in records]
    pairs = [p for p in (Pair.of(a, b) for a, b in combinations(every, 2)) if p is not None]
    suite, names = records[0].identity.suite, [record.label for record in records]
    widths = [pair.width for pair in pairs]
    yield f"{suite}, {METRIC}: BD-bits of {len(pairs)} pairs of {', '.join(names)},"
    yield "from fewer steps than every 0.05 octave; |error| as a share of the 95% interval's width"
    yield f"({min(widths):.2f} to {max(widths):.2f} bits)"
    yield ""
    header = "".join(f"{method + ' ' + what:>12}" for method in METHODS for what in ("mean", "max"))
    yield f"{'':<30}{'steps':>6}{header}"
    for choice in CHOICES:
        curves = {dense.record.id: dense.curve(choice.positions(dense)) for dense in every}
        n_steps = np.mean([len(curve.points) for curve in curves.values()])
        found = [np.abs([p.error(curves, method) for p in pairs]) for method in METHODS.values()]
        cells = [f"{value:12.3f}" for errors in found for value in (errors.mean(), errors.max())]
        yield f"{choice.name:<30}{n_steps:6.1f}{''.join(cells)}"


if __name__ == "__main__":
    main()
