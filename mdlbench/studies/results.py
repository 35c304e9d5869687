"""What a study found, as arrays: bits at a tolerance by configuration and training seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from jaxtyping import Float64

from mdlbench.records.record import EvalRecord
from mdlbench.studies.plan import Run


@dataclass(frozen=True)
class Done:
    """A run with its record."""

    run: Run
    record: EvalRecord


@dataclass(frozen=True)
class Configuration:
    """What runs of one architecture have in common but for their seeds."""

    width: int
    level: int
    label: str

    @property
    def words(self) -> str:
        return f"{self.width} latents, {self.label}"


@dataclass(frozen=True, eq=False)
class Family:
    """An architecture's runs at one tolerance.

    Attributes:
        name: the architecture's key.
        configurations: those that meet the tolerance with every seed that was run.
        bits: bits per token there; NaN where a seed was not run.
        resampled: the same where test documents are drawn anew, the same ones for all runs.
        left_out: configurations of which some run does not meet the tolerance.
    """

    name: str
    configurations: tuple[Configuration, ...]
    bits: Float64[np.ndarray, "configuration seed"]
    resampled: Float64[np.ndarray, "configuration seed replicate"]
    left_out: tuple[Configuration, ...]

    @property
    def n_seeds(self) -> int:
        return int(self.bits.shape[1])

    @property
    def is_met(self) -> bool:
        return bool(self.configurations)

    @property
    def best(self) -> int:
        """Which configuration has the fewest bits, the mean over seeds."""
        return int(np.argmin(np.nanmean(self.bits, axis=1)))

    @property
    def shortest(self) -> float:
        """Its bits, the mean over seeds."""
        return float(np.nanmean(self.bits[self.best]))


@dataclass(frozen=True, eq=False)
class Level:
    """All architectures at one tolerance, in the study's order."""

    metric: str
    epsilon: float
    families: tuple[Family, ...]

    @property
    def n_seeds(self) -> int:
        """How many training seeds every architecture has."""
        return min((family.n_seeds for family in self.families), default=0)

    @property
    def met(self) -> list[Family]:
        return [family for family in self.families if family.is_met]


def level(done: Sequence[Done], metric: str, epsilon: float) -> Level:
    """What the runs cost at a tolerance of their suite."""
    names = dict.fromkeys(one.run.architecture for one in done)
    families = (
        _family(name, [one for one in done if one.run.architecture == name], metric, epsilon)
        for name in names
    )
    return Level(metric, epsilon, tuple(families))


def _family(name: str, done: Sequence[Done], metric: str, epsilon: float) -> Family:
    seeds = list(dict.fromkeys(one.run.seed for one in done))
    kept, left_out, bits, resampled = [], [], [], []
    for configuration, found in by_configuration(done).items():
        results = {one.run.seed: one.record.result(metric, epsilon) for one in found}
        if not all(result.feasible for result in results.values()):
            left_out.append(configuration)
            continue
        n = len(next(iter(results.values())).replicates)
        own, drawn = np.full(len(seeds), np.nan), np.full((len(seeds), n), np.nan)
        for seed, result in results.items():
            own[seeds.index(seed)] = result.bits
            drawn[seeds.index(seed)] = result.replicates
        kept.append(configuration)
        bits.append(own)
        resampled.append(drawn)
    return Family(
        name,
        tuple(kept),
        np.array(bits).reshape(len(kept), len(seeds)),
        np.array(resampled).reshape(len(kept), len(seeds), -1 if kept else 0),
        tuple(left_out),
    )


def by_configuration(done: Iterable[Done]) -> dict[Configuration, list[Done]]:
    """The runs of one architecture by what they share but for seeds, in the study's order."""
    found: dict[Configuration, list[Done]] = {}
    for one in done:
        key = Configuration(one.run.width, one.run.level, one.run.label)
        found.setdefault(key, []).append(one)
    return dict(sorted(found.items(), key=lambda pair: (pair[0].width, pair[0].level)))


FACTORS: dict[str, Callable[[Run], int]] = {
    "width": attrgetter("width"),
    "sparsity": attrgetter("level"),
    "seed": attrgetter("seed"),
}
"""What spans a grid beside architectures."""


@dataclass(frozen=True)
class EqualGrid:
    """What every architecture has, and in words what some have beyond it.

    Attributes:
        done: the runs within it.
        warnings: where grids differ; nothing where they are all equal.
    """

    done: tuple[Done, ...]
    warnings: tuple[str, ...]

    @property
    def seeds(self) -> list[int]:
        """The training seeds, in the study's order."""
        return list(dict.fromkeys(one.run.seed for one in self.done))


def equal_grid(done: Sequence[Done]) -> EqualGrid:
    """The widths, sparsity levels and seeds that all architectures have; the rest is left out.

    A width and a level are left out for all where an architecture has no run of them, or one only
    of several training seeds.
    """
    names = list(dict.fromkeys(one.run.architecture for one in done))
    common, warnings = list(done), []
    for noun, of in FACTORS.items():
        values = {
            name: {of(one.run) for one in common if one.run.architecture == name} for name in names
        }
        shared = set.intersection(*values.values()) if values else set()
        common = [one for one in common if of(one.run) in shared]
        for name in names:
            if beyond := sorted(values[name] - shared):
                shown = [value + 1 for value in beyond] if noun == "sparsity" else beyond
                listed = ", ".join(map(str, shown))
                warnings.append(
                    f"{name} has {noun} {listed}, and not every architecture has: left out of the "
                    "comparison"
                )
    common, missing = _without_missing(common, names)
    return EqualGrid(tuple(common), (*warnings, *missing, *_holes(common)))


COUNTED = ("no run", "one run")


def _without_missing(done: Sequence[Done], names: Sequence[str]) -> tuple[list[Done], list[str]]:
    """The runs where every architecture has enough, and what is lacking elsewhere.

    Two training seeds of a width and a level are enough, or one where there is one.
    """
    enough = min(2, len({one.run.seed for one in done}))
    runs = Counter((one.run.architecture, _cell(one.run)) for one in done)
    dropped, lines = set(), []
    for cell in sorted({_cell(one.run) for one in done}):
        lacking = [name for name in names if runs[name, cell] < enough]
        if lacking:
            dropped.add(cell)
            listed = ", ".join(f"{name} has {COUNTED[runs[name, cell]]}" for name in lacking)
            lines.append(
                f"width {cell[0]} and sparsity {cell[1] + 1} are left out of the comparison "
                f"({listed})"
            )
    return [one for one in done if _cell(one.run) not in dropped], lines


def _cell(run: Run) -> tuple[int, int]:
    return run.width, run.level


def _holes(done: Sequence[Done]) -> list[str]:
    """Configurations with fewer seeds than the others of the grid."""
    seeds = {one.run.seed for one in done}
    holes = []
    for name in dict.fromkeys(one.run.architecture for one in done):
        own = by_configuration(one for one in done if one.run.architecture == name)
        for configuration, found in own.items():
            if len(found) < len(seeds):
                holes.append(
                    f"{name}, {configuration.words}: {len(found)} of {len(seeds)} seeds; its mean "
                    "is over those"
                )
    return holes
