"""What a folder shows so far, as the arrays that falsifiers and tables are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mdlbench.papers.reliability.edges import Edges
from mdlbench.papers.reliability.measure import (
    EDGES,
    PROBES,
    mode_folder,
    redrawn,
)
from mdlbench.papers.reliability.movement import Movement, Records, by_name
from mdlbench.papers.reliability.panel import Ranked, Values, numbered
from mdlbench.papers.reliability.plan import FLAT, Part, Place
from mdlbench.papers.reliability.statistics import (
    NAN,
    PROBE,
    TRUTHS,
    Limits,
    Statistic,
    Told,
)
from mdlbench.studies.plan import Run
from mdlbench.studies.run import diverged

TIGHTNESS = 1.5
"""A tolerance is tight up to this many times the smallest floor of a trained SAE (maths §6)."""


@dataclass(frozen=True, eq=False)
class Scored:
    """What was measured at one place.

    Attributes:
        records: by operating mode and name; a mode is there once all SAEs are scored in it.
        probed: accuracy of probes by k, of each run.
        edges: learned edges against those of the hierarchy, of each run and the oracle; empty
            where there is none.
        diverged: runs that have no SAE, with their reasons.
    """

    place: Place
    records: dict[str, Records]
    probed: dict[str, dict[int, float]]
    edges: dict[str, Edges]
    diverged: dict[str, str]

    @property
    def runs(self) -> list[Run]:
        """The trained SAEs that are ranked."""
        training = self.place.part.training
        ranked = [] if training is None else training.ranked
        return [run for run in ranked if run.key not in self.diverged]

    @property
    def oracle(self) -> Records:
        """The oracle's records by mode; empty where features are not known."""
        name = self.place.part.oracle
        return {mode: found[name] for mode, found in self.records.items() if name in found}

    def told(self, name: str) -> Told:
        """All that is known of one SAE."""
        records = {mode: found[name] for mode, found in self.records.items() if name in found}
        return Told(records, self.probed.get(name, {}), self.oracle.get(FLAT))

    @classmethod
    def read(cls, place: Place, folder: Path) -> Scored | None:
        """What is in a place's folder; None before all its SAEs are scored in the flat mode."""
        training = place.part.training
        ranked = [] if training is None else training.ranked
        reasons = {run.key: diverged(folder, run.key) for run in ranked}
        lost = {key: reason for key, reason in reasons.items() if reason is not None}
        wanted = {run.key for run in ranked} - lost.keys()
        wanted |= set(redrawn(place, folder)) if place.world is None else {place.part.oracle}
        modes = {mode: by_name(mode_folder(folder, mode), mode) for mode in place.modes}
        whole = {mode: found for mode, found in modes.items() if wanted <= found.keys()}
        if FLAT not in whole:
            return None
        probed = {
            path.stem: {int(k): value for k, value in json.loads(path.read_text()).items()}
            for path in sorted((folder / PROBES).glob("*.json"))
        }
        edges = {
            path.stem: Edges(**json.loads(path.read_text()))
            for path in sorted((folder / EDGES).glob("*.json"))
        }
        return cls(place, whole, probed, edges, lost)


class Evidence:
    """One part, as far as it was measured.

    Args:
        part: what was to be measured.
        folder: of the part; each of its places has a folder of its name.
    """

    def __init__(self, part: Part, folder: Path) -> None:
        self.part, self.folder = part, folder
        read = (Scored.read(place, folder / place.name) for place in part.places)
        self.places = [one for one in read if one is not None]

    # --- tolerances ---

    @cached_property
    def limits(self) -> Limits:
        """The suite's headline where its data are fixed; in worlds the least that oracles meet.

        That is the smallest tolerance that the oracle of the trained width meets in every world,
        or the largest where there is none.
        """
        suite = self.part.places[0].suite
        epsilons = sorted(e for metric, e in suite.limits() if metric == self.part.metric)
        if not self.part.worlds:
            return Limits(self.part.metric, suite.headline.epsilon, epsilons[-1])
        met = (
            epsilon
            for epsilon in epsilons
            if all(
                one.oracle[FLAT].result(self.part.metric, epsilon).feasible for one in self.places
            )
        )
        return Limits(self.part.metric, next(met, epsilons[-1]), epsilons[-1])

    @property
    def smallest_floor(self) -> float:
        """The trained SAEs of all worlds."""
        return float(np.nanmin(self.floors)) if len(self.runs) else NAN

    @property
    def is_tight(self) -> bool:
        """Whether the tight tolerance is one by the rule of suites."""
        return self.limits.tight <= TIGHTNESS * self.smallest_floor

    @cached_property
    def moved(self) -> dict[str, Movement]:
        """How scores move on other data and along training, by operating mode."""
        return {
            mode: Movement(self.part, self.folder, self.limits, mode) for mode in self.part.modes
        }

    # --- trained SAEs ---

    @cached_property
    def runs(self) -> list[tuple[Scored, Run]]:
        """The ranked SAEs of all places."""
        return [(scored, run) for scored in self.places for run in scored.runs]

    def values(self, statistic: Statistic) -> Values:
        """A number of each ranked SAE; NaN where its place lacks the mode."""
        return np.array(
            [self.value(statistic, scored.told(run.key)) for scored, run in self.runs],
            dtype=np.float64,
        )

    def value(self, statistic: Statistic, told: Told) -> float:
        """A number of one SAE; NaN where the mode that it needs was not measured."""
        has_it = told.probed if statistic.mode == PROBE else statistic.mode in told.records
        return float(statistic.of(told, self.limits)) if has_it else NAN

    def has_mode(self, mode: str) -> bool:
        return any(mode in scored.records for scored in self.places)

    @property
    def floors(self) -> Values:
        """Losses before quantisation, by the part's metric."""
        return np.array(
            [scored.told(run.key).flat.floor.loss(self.part.metric) for scored, run in self.runs]
        )

    @property
    def configurations(self) -> list[str]:
        """What each ranked SAE has in common with others but for seeds."""
        return [f"{run.architecture}, {run.label}" for _, run in self.runs]

    @property
    def worlds(self) -> list[str]:
        return [scored.place.name for scored, _ in self.runs]

    def ranked(self, score: Statistic) -> Ranked | None:
        """The SAEs of the places that have the score's mode; None where features are not known."""
        rows = [
            (scored, run, scored.told(run.key), self.value(score, scored.told(self.part.oracle)))
            for scored, run in self.runs
            if score.mode in scored.records and score.mode in scored.oracle
        ]
        if not rows:
            return None
        metric = self.part.metric
        told = [one for _, _, one, _ in rows]
        flat = [one.flat for one in told]
        return Ranked(
            configuration=numbered([f"{run.architecture}, {run.label}" for _, run, _, _ in rows]),
            world=numbered([scored.place.name for scored, _, _, _ in rows]),
            architecture=tuple(run.architecture for _, run, _, _ in rows),
            bits=np.array([self.value(score, one) for one in told]),
            floor=np.array([one.floor.loss(metric) for one in flat]),
            oracle=np.array([oracle for *_, oracle in rows]),
            oracle_floor=np.array(
                [scored.oracle[FLAT].floor.loss(metric) for scored, _, _, _ in rows]
            ),
            truths={
                truth.name: np.array([truth.of(one, self.limits) for one in told])
                for truth in TRUTHS
            },
            cheap={
                "L0": np.array([-one.coder.l0 for one in flat]),
                "FVU": np.array([-one.floor.fvu for one in flat]),
            },
            l0=np.array([one.coder.l0 for one in flat]),
        )
