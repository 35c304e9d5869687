"""The arrays that the falsifiers are decided by: redraws, snapshots, and ranked SAEs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

Values = Float64[np.ndarray, " run"]


@dataclass(frozen=True, eq=False)
class Redraws:
    """The same SAEs scored on several draws of the data; all SAEs see the same draws.

    Attributes:
        saes: their names.
        bits: the score in each draw.
        low, high: the ends of the 95% interval that the record of each draw gives.
    """

    saes: tuple[str, ...]
    bits: Float64[np.ndarray, "sae draw"]
    low: Float64[np.ndarray, "sae draw"]
    high: Float64[np.ndarray, "sae draw"]


@dataclass(frozen=True, eq=False)
class Snapshots:
    """SAEs scored along their training.

    Attributes:
        runs: names of the training runs.
        steps: after which they are scored, rising, in words.
        bits: the score; NaN where the SAE is infeasible.
        draws: the same where test documents are drawn anew, the same ones for all.
    """

    runs: tuple[str, ...]
    steps: tuple[str, ...]
    bits: Float64[np.ndarray, "run step"]
    draws: Float64[np.ndarray, "run step replicate"]

    @property
    def configuration(self) -> Int64[np.ndarray, " run"]:
        """Which runs have the same settings but for seeds, by number."""
        return numbered([but_for_seed(run) for run in self.runs])


@dataclass(frozen=True, eq=False)
class Ranked:
    """The trained SAEs of one kind of world, by one score.

    Attributes:
        configuration: which of them have the same settings but for seeds, by number.
        world: in which world each was trained, by number.
        architecture: of each.
        bits: the score, of which less is better; NaN where the SAE is infeasible.
        floor: the loss before quantisation, by which infeasible SAEs are ordered.
        oracle: bits of the true features, as many as the SAE has latents, in its world; NaN where
            those are infeasible.
        oracle_floor: their loss before quantisation.
        truths: how well features are found, by name: F1 and MCC.
        cheap: what everybody reports, by name, oriented so that higher is better: −L0, −FVU.
        l0: active latents per token.
    """

    configuration: Int64[np.ndarray, " run"]
    world: Int64[np.ndarray, " run"]
    architecture: tuple[str, ...]
    bits: Values
    floor: Values
    oracle: Values
    oracle_floor: Values
    truths: dict[str, Values]
    cheap: dict[str, Values]
    l0: Values

    @cached_property
    def score(self) -> Values:
        """Higher is better: −bits; those that are infeasible come last, by their floor."""
        return infeasible_last(self.bits, self.floor)

    @property
    def feasible(self) -> Int64[np.ndarray, " feasible"]:
        """The indices of those that meet the tolerance."""
        return np.flatnonzero(~np.isnan(self.bits))

    @property
    def above_oracle(self) -> Values:
        """1 where a board places the SAE above the oracle of its width, else 0."""
        own = np.where(np.isnan(self.bits), np.inf, self.bits)
        other = np.where(np.isnan(self.oracle), np.inf, self.oracle)
        both_fail = np.isinf(own) & np.isinf(other)
        above = np.where(both_fail, self.floor < self.oracle_floor, own < other)
        return np.asarray(above.astype(np.float64))

    def means(self, values: Values) -> dict[int, float]:
        """The mean of each configuration, by its number, of what is not NaN."""
        return {
            int(number): float(np.nanmean(own)) if not np.isnan(own).all() else float("nan")
            for number in dict.fromkeys(self.configuration.tolist())
            for own in [values[self.configuration == number]]
        }

    def strata(self, least: int = 4) -> Int64[np.ndarray, " run"]:
        """The stratum of L0 of each: configurations in groups of equal size by their mean L0.

        There are as many groups, at most three, as leave each `least` configurations.
        """
        means = self.means(self.l0)
        order = sorted(means, key=lambda number: means[number])
        n = max(1, min(3, len(order) // least))
        group = {number: place * n // len(order) for place, number in enumerate(order)}
        return np.array([group[int(number)] for number in self.configuration])


def infeasible_last(bits: Values, floor: Values) -> Values:
    """−bits; below all of them, where there are none, −floor."""
    worst = np.nanmax(bits) if not np.isnan(bits).all() else 0.0
    return np.asarray(np.where(np.isnan(bits), -(worst + 1.0 + floor), -bits))


def but_for_seed(run: str) -> str:
    """What a run's name has in common with those of other training seeds."""
    return re.sub(r"-seed\d+$", "", run)


def numbered(names: Sequence[str]) -> Int64[np.ndarray, " name"]:
    """The number of each name, by when it came first."""
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([order[name] for name in names], dtype=np.int64)
