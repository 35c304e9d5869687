"""How the numbers of one operating mode move: on other data, and along training."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from mdlbench.papers.reliability.measure import (
    BOTH,
    CALIBRATION,
    HALVES,
    SNAPSHOTS,
    draw_folder,
    draws_of,
    mode_folder,
    redrawn,
    snapshot_key,
)
from mdlbench.papers.reliability.panel import Redraws, Snapshots
from mdlbench.papers.reliability.plan import FLAT, Part
from mdlbench.papers.reliability.statistics import NAN, Limits, Statistic, Told, bits
from mdlbench.records.record import EvalRecord, ToleranceResult
from mdlbench.studies.run import records_of

Records = dict[str, EvalRecord]


def by_name(folder: Path, mode: str) -> Records:
    """The records of a folder that are of an operating mode, by the SAE's name.

    One that was edited counts for nothing.
    """
    return {
        record.name: record
        for record in records_of(folder)
        if (record.identity.quantiser or FLAT) == mode and not record.is_edited
    }


class Movement:
    """What was redrawn and followed in one operating mode, in a part's first place.

    Args:
        part: what was to be measured.
        folder: of the part.
        limits: the tolerances that are looked at.
        mode: the operating mode; of one that is not moved, there is nothing.
    """

    def __init__(self, part: Part, folder: Path, limits: Limits, mode: str) -> None:
        self.part, self.limits, self.mode = part, limits, mode
        self.folder = folder / part.places[0].name

    # --- other data ---

    @cached_property
    def redrawn(self) -> tuple[str, ...]:
        """The SAEs that are scored on other draws, or on halves."""
        return redrawn(self.part.places[0], self.folder)

    @cached_property
    def drawn(self) -> dict[str, list[Records]]:
        """Records of each draw, by what was drawn; a draw is there once it is whole."""
        place = self.part.places[0]
        wanted = set(self.redrawn)
        found: dict[str, list[Records]] = {BOTH: [], CALIBRATION: []}
        if place.world is None:
            return found
        for kind, number in draws_of(place):
            records = by_name(draw_folder(self.folder, kind, number), self.mode)
            if wanted <= records.keys():
                found[kind].append(records)
        found[CALIBRATION] = found[BOTH][:1] + found[CALIBRATION]
        return found

    def redraws(self, which: str, kind: str = BOTH) -> Redraws | None:
        """The score of the redrawn SAEs in each draw, or on each half; None before two draws."""
        epsilon = getattr(self.limits, which)
        if not self.part.worlds:
            return self._halved(epsilon)
        if len(self.drawn[kind]) < 2:
            return None
        results = [
            [records[name].result(self.part.metric, epsilon) for records in self.drawn[kind]]
            for name in self.redrawn
        ]
        arrays = (
            np.array([[_end(result, i) for result in row] for row in results]) for i in range(3)
        )
        return Redraws(self.redrawn, *arrays)

    def _halved(self, epsilon: float) -> Redraws | None:
        """The interval of a half is taken to lie about its score as the whole's about its own."""
        paths = sorted(mode_folder(self.folder / HALVES, self.mode).glob("*.json"))
        scores = {
            one["sae"]: one
            for path in paths
            for one in json.loads(path.read_text())
            if one["limit"] == [self.part.metric, epsilon]
        }
        if not scores:
            return None
        drawn = np.array([one["halves"] for one in scores.values()])
        whole, low, high = (
            np.array([[one[key]] for one in scores.values()]) for key in ("bits", "low", "high")
        )
        return Redraws(tuple(scores), drawn, drawn - (whole - low), drawn + (high - whole))

    def values(self, statistic: Statistic) -> Float64[np.ndarray, "sae draw"] | None:
        """A number of each redrawn SAE in each draw of all data; None before two draws."""
        if len(self.drawn[BOTH]) < 2:
            return None
        oracle = self.part.oracle
        return np.array(
            [
                [
                    statistic.of(
                        Told({self.mode: records[name]}, {}, records.get(oracle)), self.limits
                    )
                    for records in self.drawn[BOTH]
                ]
                for name in self.redrawn
            ]
        )

    # --- along training ---

    @cached_property
    def followed(self) -> dict[str, list[EvalRecord]]:
        """Records of each followed run by its key: its snapshots, then its last SAE."""
        training = self.part.training
        if training is None:
            return {}
        early = by_name(self.folder / SNAPSHOTS, self.mode)
        names = {
            run.key: [snapshot_key(run, step) for step in training.snapshots]
            for run in training.followed
        }
        return {
            key: [*(early[name] for name in own), self._last[key]]
            for key, own in names.items()
            if key in self._last and all(name in early for name in own)
        }

    @cached_property
    def _last(self) -> Records:
        """Those of the trained SAEs."""
        return by_name(mode_folder(self.folder, self.mode), self.mode)

    @property
    def steps(self) -> tuple[str, ...]:
        """When runs are scored, in words."""
        training = self.part.training
        return () if training is None else (*map(str, training.snapshots), "end")

    def snapshots(self, which: str) -> Snapshots | None:
        """The score along training; None before any run was followed to its end."""
        if not self.followed:
            return None
        epsilon = getattr(self.limits, which)
        results = [
            [record.result(self.part.metric, epsilon) for record in records]
            for records in self.followed.values()
        ]
        n = max((len(r.replicates) for row in results for r in row), default=0)
        nothing = [NAN] * n
        return Snapshots(
            runs=tuple(self.followed),
            steps=self.steps,
            bits=np.array([[_end(result, 0) for result in row] for row in results]),
            draws=np.array(
                [[r.replicates if r.feasible else nothing for r in row] for row in results]
            ),
        )

    @cached_property
    def small(self) -> list[list[EvalRecord]]:
        """Records of the variants that differ little, a row each; of those that are whole."""
        training = self.part.training
        if training is None:
            return []
        keys = [[run.key for run in training.of((variant,))] for variant in training.small]
        last = self._last
        return [[last[key] for key in row] for row in keys if all(k in last for k in row)]

    def small_bits(self, which: str) -> Float64[np.ndarray, "configuration seed"]:
        """Their bits."""
        epsilon = getattr(self.limits, which)
        rows = [[bits(one, self.part.metric, epsilon) for one in row] for row in self.small]
        return np.array(rows).reshape(len(rows), -1 if rows else 0)


def _end(result: ToleranceResult, which: int) -> float:
    """Bits of a result, or the lower or the upper end of their interval; NaN where infeasible."""
    if result.bits is None or result.bits_ci is None:
        return NAN
    return (result.bits, *result.bits_ci)[which]
