"""The falsifiers asked of what was measured, setting by setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mdlbench.papers.reliability import falsifiers, precision
from mdlbench.papers.reliability.evidence import Evidence
from mdlbench.papers.reliability.falsifiers import Verdict, together, unknown
from mdlbench.papers.reliability.movement import Movement
from mdlbench.papers.reliability.plan import FLAT, MODES
from mdlbench.papers.reliability.statistics import SETTINGS, Statistic, bits_of


class Setting(NamedTuple):
    """A code and a tolerance.

    Attributes:
        mode: the operating mode.
        which: `tight` or `coarse`.
    """

    mode: str
    which: str

    @property
    def score(self) -> Statistic:
        """What is held against the truth."""
        return bits_of(self.mode, self.which)

    @property
    def words(self) -> str:
        return f"{'flat' if self.mode == FLAT else self.mode}, {self.which}"


def settings(parts: Sequence[Evidence]) -> list[Setting]:
    """Those that some part was scored in; the headline's first."""
    modes = [mode for mode in MODES if any(part.has_mode(mode) for part in parts)]
    return [Setting(mode, which) for which in SETTINGS for mode in modes]


def verdicts(parts: Sequence[Evidence], setting: Setting) -> list[Verdict]:
    """All six, in order."""
    moved = {one.part.key: one.moved[setting.mode] for one in parts if setting.mode in one.moved}
    alone = [
        together(number, {key: ask(one, setting.which) for key, one in moved.items()})
        for number, ask in ((1, _precise), (2, _improves), (3, _separates))
    ]
    return [*alone, *against_truth(parts, setting.score)]


def against_truth(parts: Sequence[Evidence], score: Statistic) -> list[Verdict]:
    """The last three, of any score of which less is better."""
    found = {part.part.key: part.ranked(score) for part in parts}
    worlds = {name: one for name, one in found.items() if one is not None}
    return [
        falsifiers.strays_from_truth(worlds),
        falsifiers.prefers_to_oracle(worlds),
        falsifiers.adds_nothing(worlds),
    ]


def _precise(moved: Movement, which: str) -> Verdict:
    redraws = moved.redraws(which)
    return unknown(1, "nothing was redrawn") if redraws is None else falsifiers.not_precise(redraws)


def _improves(moved: Movement, which: str) -> Verdict:
    snapshots = moved.snapshots(which)
    if snapshots is None:
        return unknown(2, "nothing was followed along training")
    return falsifiers.worsens_in_training(snapshots)


def _separates(moved: Movement, which: str) -> Verdict:
    redraws = moved.redraws(which)
    if redraws is None or not moved.small:
        return unknown(3, "no small differences were measured")
    return falsifiers.cannot_separate(
        moved.small_bits(which), precision.reseed_deviation(precision.met_always(redraws))
    )
