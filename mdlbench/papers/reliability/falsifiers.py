"""What would show that bits at a tolerance are not reliable: six tests, written before the run.

Each is a pure function from arrays to a verdict with the numbers that decided it. One that is
falsified is enough, for the setting (suite, tolerance, operating mode) that it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.stats import norm

from mdlbench.papers.reliability import precision
from mdlbench.papers.reliability.panel import Ranked, Redraws, Snapshots
from mdlbench.papers.reliability.ranks import NOTHING, correlation, difference, mean, spearman
from mdlbench.statistics.bootstrap import CONFIDENCE, percentile_interval
from mdlbench.studies.inference import Interval

LARGEST_CV = 0.01
LARGEST_PAIRED_DIFFERENCE = 0.02
LEAST_COVERAGE = 0.85
MOST_WORSENED = 0.10
LEAST_SNR = 3.0
MOST_ABOVE_ORACLE = 0.10
MATCHING_PURSUIT = "matching_pursuit"
TITLES = {
    1: f"precise: CV at most {LARGEST_CV:.0%}, paired least difference at most "
    f"{LARGEST_PAIRED_DIFFERENCE:.0%} of bits, intervals that cover at least {LEAST_COVERAGE:.0%}",
    2: f"improves in training: at most {MOST_WORSENED:.0%} of the pairs of snapshots worsen beyond "
    "chance, and no early one is preferred to the last",
    3: f"separates variants of one architecture: SNR at least {LEAST_SNR:g} once training seeds "
    "count",
    4: "follows the truth: ρ with F1 and with MCC above 0 beyond chance in each world, not below 0 "
    "within strata of L0",
    5: f"places the truth first: at most {MOST_ABOVE_ORACLE:.0%} of the trained SAEs above the "
    "oracle of their width, and Matching Pursuit is not first with an F1 below the median",
    6: "adds to L0 and FVU: a higher ρ with F1 and with MCC than either, beyond chance, in each "
    "world",
}
"""What holds where a falsifier, by its number, fails to falsify."""


class Verdict(NamedTuple):
    """What a falsifier says of one setting.

    Attributes:
        number: of the falsifier, 1 to 6.
        falsified: whether it happened; None where the numbers cannot say.
        numbers: those that decided it, by name, with their intervals where they have one.
        why: which of them did, in words; empty where it did not happen.
        untold: which of several parts cannot say, where others can, and why.
    """

    number: int
    falsified: bool | None
    numbers: dict[str, Interval]
    why: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What holds where it did not happen."""
        return TITLES[self.number]


def unknown(number: int, why: str) -> Verdict:
    """The verdict where there is nothing to decide by."""
    return Verdict(number, None, {}, (why,))


def not_precise(redraws: Redraws) -> Verdict:
    """1: CV > 1%, or paired least difference > 2% of bits, or intervals that cover < 85%.

    One SAE has no paired difference: it can falsify, and nothing holds by it.
    """
    kept = precision.met_always(redraws)
    if redraws.bits.shape[1] < 3 or not kept.saes:
        return unknown(1, "no SAE meets the tolerance in every one of three or more draws")
    cv, paired = precision.cv(kept), precision.least_paired_difference(kept)
    covered = precision.coverage(kept)
    why: dict[str, bool | None] = {
        f"CV {cv.value:.2%} > {LARGEST_CV:.0%}": cv.value > LARGEST_CV,
        f"paired least difference {paired.value:.2%} > {LARGEST_PAIRED_DIFFERENCE:.0%}": (
            paired.value > LARGEST_PAIRED_DIFFERENCE
        ),
        f"intervals cover {covered.value:.0%} < {LEAST_COVERAGE:.0%}": (
            covered.value < LEAST_COVERAGE
        ),
    }
    if len(kept.saes) < 2:
        why["only one SAE meets the tolerance in every draw, so that no two can be compared"] = None
    numbers = {
        "CV": cv,
        "least difference": precision.least_difference(kept),
        "paired least difference": paired,
        "coverage": covered,
    }
    return _decided(1, numbers, why)


def worsens_in_training(snapshots: Snapshots) -> Verdict:
    """2: over 10% of consecutive snapshots worsen beyond chance, or an early one is preferred.

    Pairs count from the first feasible snapshot on. One worsens where its paired 95% interval is
    above 0, or where an infeasible one follows a feasible one. Intervals draw configurations anew.
    Whether any early snapshot is preferred to the last is asked of all of them at once, by
    Bonferroni.
    """
    pairs = [list(_changes(snapshots, run)) for run in range(len(snapshots.runs))]
    configuration = snapshots.configuration
    owner = np.array([configuration[run] for run, own in enumerate(pairs) for _ in own])
    worse = np.array([change for own in pairs for change in own], dtype=np.float64)
    if not len(worse):
        return unknown(2, "no two snapshots of a run are feasible")
    share = mean(worse, owner)
    preferred = sorted(_preferred(snapshots))
    slopes = np.array([_slope(snapshots.bits[run]) for run in range(len(snapshots.runs))])
    known = ~np.isnan(slopes)
    rho = mean(slopes[known], configuration[known]) if known.any() else NOTHING
    why = {
        f"{share.value:.0%} of the pairs worsen, more than {MOST_WORSENED:.0%}": (
            share.value > MOST_WORSENED
        ),
        f"early snapshots are preferred to the last: {', '.join(preferred)}": bool(preferred),
    }
    return _decided(2, {"worsened": share, "ρ of −bits with the step": rho}, why)


def _changes(snapshots: Snapshots, run: int) -> Iterator[bool]:
    """Whether each consecutive pair worsens, from the first feasible snapshot on."""
    bits = snapshots.bits[run]
    feasible = np.flatnonzero(~np.isnan(bits))
    first = int(feasible[0]) if len(feasible) else len(bits)
    for early, late in pairwise(range(first, len(bits))):
        if np.isnan(bits[late]) or np.isnan(bits[early]):
            yield bool(np.isnan(bits[late]) and not np.isnan(bits[early]))
        else:
            draws = snapshots.draws[run, late] - snapshots.draws[run, early]
            yield percentile_interval(draws)[0] > 0


def _preferred(snapshots: Snapshots) -> Iterator[str]:
    """Early snapshots that are shorter than the last one beyond chance, all tested at once."""
    n = int((~np.isnan(snapshots.bits[:, :-1])).sum())
    quantile = float(norm.ppf(1 - (1 - CONFIDENCE) / 2 / max(n, 1)))
    for run, step in np.argwhere(~np.isnan(snapshots.bits[:, :-1])):
        last, early = snapshots.bits[run, -1], snapshots.bits[run, step]
        error = (snapshots.draws[run, -1] - snapshots.draws[run, step]).std(ddof=1)
        if np.isnan(last) or last - early > quantile * error:
            yield f"{snapshots.runs[run]} at step {snapshots.steps[step]}"


def _slope(bits: Float64[np.ndarray, " step"]) -> float:
    feasible = np.flatnonzero(~np.isnan(bits))
    return spearman(-bits[feasible], feasible.astype(np.float64))


def cannot_separate(panel: Float64[np.ndarray, "configuration seed"], reseed: float) -> Verdict:
    """3: SNR of small differences < 3 once training seeds count.

    Args:
        panel: bits of variants of one architecture with several training seeds.
        reseed: standard deviation of bits when the data are drawn anew.
    """
    if np.isnan(reseed):
        return unknown(3, "no SAE meets the tolerance in every draw")
    snr = precision.signal_to_noise(panel, reseed)
    if snr is None:
        return unknown(3, "no two variants are feasible with every seed")
    low = {f"SNR {snr.value:.1f} < {LEAST_SNR:g}": snr.value < LEAST_SNR}
    return _decided(3, {"SNR": snr}, low)


def strays_from_truth(worlds: Mapping[str, Ranked]) -> Verdict:
    """4: ρ with a truth is not above 0 beyond chance in a world, or negative within strata of L0.

    Signs that differ between worlds are a case of that. Infeasible SAEs are placed last.
    """
    met, why = _met(worlds)
    numbers: dict[str, Interval] = {}
    for name, world in met.items():
        for truth, values in world.truths.items():
            where, inside = (
                f"ρ with {truth}, {name}",
                f"ρ with {truth}, {name}, within strata of L0",
            )
            clusters, inner = world.configuration, world.world
            rho = correlation(world.score, values, clusters, inner)
            rho_inside = correlation(world.score, values, clusters, inner, world.strata())
            numbers |= {where: rho, inside: rho_inside}
            why |= _unless_unknown(where, rho, f"{_shown(rho)} is not above 0", rho.sign <= 0)
            below = f"{rho_inside.value:+.2f} < 0"
            why |= _unless_unknown(inside, rho_inside, below, rho_inside.value < 0)
    return _decided(4, numbers, why)


def prefers_to_oracle(worlds: Mapping[str, Ranked]) -> Verdict:
    """5: over 10% of trained SAEs above the oracle of their width, or Matching Pursuit misplaced.

    It is misplaced where its configuration has the fewest bits of all, and an F1 below the median
    of the configurations.
    """
    met, why = _met(worlds)
    numbers: dict[str, Interval] = {}
    for name, world in met.items():
        share = mean(world.above_oracle, world.configuration)
        numbers[f"above the oracle, {name}"] = share
        why[f"{share.value:.0%} above the oracle in {name} > {MOST_ABOVE_ORACLE:.0%}"] = (
            share.value > MOST_ABOVE_ORACLE
        )
        why[f"Matching Pursuit is first in {name}, its F1 below the median"] = _misplaced(world)
    return _decided(5, numbers, why)


def _misplaced(world: Ranked) -> bool:
    score, f1 = world.means(world.score), world.means(world.truths["F1"])
    first = max(score, key=lambda number: score[number])
    architecture = world.architecture[int(np.flatnonzero(world.configuration == first)[0])]
    return architecture == MATCHING_PURSUIT and f1[first] < float(np.median(list(f1.values())))


def adds_nothing(worlds: Mapping[str, Ranked]) -> Verdict:
    """6: L0 or FVU alone does as well: the difference of ρ is not above 0 beyond chance."""
    met, why = _met(worlds)
    numbers: dict[str, Interval] = {}
    for name, world in met.items():
        for truth, values in world.truths.items():
            for cheap, other in world.cheap.items():
                more = difference(world.score, other, values, world.configuration, world.world)
                where = f"ρ with {truth} above that of {cheap}, {name}"
                numbers[where] = more
                why |= _unless_unknown(
                    where, more, f"{_shown(more)} is not above 0", more.sign <= 0
                )
    return _decided(6, numbers, why)


def together(number: int, parts: Mapping[str, Verdict]) -> Verdict:
    """One verdict from those of several parts: falsified where any of them is.

    What no part can say, nobody can. Where some can, the verdict is theirs, and names the others.
    """
    known = {name: one for name, one in parts.items() if one.falsified is not None}
    if not known:
        reasons = dict.fromkeys(why for one in parts.values() for why in one.why)
        return unknown(number, "; ".join(reasons) or "nothing was measured")
    numbers = {f"{k}, {name}": v for name, one in parts.items() for k, v in one.numbers.items()}
    why = tuple(f"{name}: {reason}" for name, one in known.items() for reason in one.why)
    untold = tuple(
        f"{name}: {reason}"
        for name, one in parts.items()
        if name not in known
        for reason in one.why
    )
    return Verdict(number, any(one.falsified for one in known.values()), numbers, why, untold)


def _met(worlds: Mapping[str, Ranked]) -> tuple[dict[str, Ranked], dict[str, bool | None]]:
    """The worlds in which some trained SAE has the score; and of the others, that they lack one."""
    met = {name: world for name, world in worlds.items() if len(world.feasible)}
    missed: dict[str, bool | None] = {
        f"no trained SAE meets the tolerance in {name}": None for name in worlds if name not in met
    }
    return met, missed or ({} if met else {"no world knows its features": None})


def _unless_unknown(
    what: str, found: Interval, happened: str, is_so: bool
) -> dict[str, bool | None]:
    """Whether something happened, by a number; None where that has no value or no interval."""
    if np.isnan(found).any():
        return {f"{what}: too few SAEs differ": None}
    return {f"{what}: {happened}": is_so}


def _shown(found: Interval) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def _decided(number: int, numbers: dict[str, Interval], why: Mapping[str, bool | None]) -> Verdict:
    """Falsified where anything happened; else unknown where nobody can tell of something."""
    happened = tuple(reason for reason, is_so in why.items() if is_so)
    untold = tuple(reason for reason, is_so in why.items() if is_so is None)
    if untold and not happened:
        return Verdict(number, None, numbers, untold)
    return Verdict(number, bool(happened), numbers, happened)
