"""The statistics that are put side by side: what each says of a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mdlbench.curves.curve import bd_bits
from mdlbench.papers.reliability.plan import FLAT
from mdlbench.papers.reliability.probes import KS
from mdlbench.records.record import EvalRecord
from mdlbench.statistics.tolerance import cheapest_within

NAN = float("nan")
PROBE = "probe"


class Limits(NamedTuple):
    """A part's loss, and the tolerances that are looked at.

    Attributes:
        tight: the headline, as near to the floors as the oracle allows.
        coarse: the largest.
    """

    metric: str
    tight: float
    coarse: float


@dataclass(frozen=True)
class Told:
    """What is known of one SAE.

    Attributes:
        records: by operating mode.
        probed: accuracy of probes, by k.
        anchor: the record of the oracle in its world, of its bits per token at every quality.
    """

    records: Mapping[str, EvalRecord]
    probed: Mapping[int, float]
    anchor: EvalRecord | None

    @property
    def flat(self) -> EvalRecord:
        return self.records[FLAT]


class Statistic(NamedTuple):
    """One number of an SAE.

    Attributes:
        name: as tables have it.
        of: its value; NaN where it has none.
        sign: 1 where higher is said to be better, else −1.
        mode: the operating mode whose record it needs.
        at_limit: whether it has no value beyond the tolerance, where SAEs are placed last.
    """

    name: str
    of: Callable[[Told, Limits], float]
    sign: int = 1
    mode: str = FLAT
    at_limit: bool = False


def bits(record: EvalRecord, metric: str, epsilon: float) -> float:
    """Bits per token at a tolerance; NaN where it is not met."""
    result = record.result(metric, epsilon)
    return NAN if result.bits is None or not result.feasible else result.bits


def bound(record: EvalRecord, metric: str, epsilon: float) -> float:
    """The paper's bound where the score is read: of the same mixture of two steps."""
    if not record.result(metric, epsilon).feasible:
        return NAN
    rates = np.array([[point.bits.total for point in record.points]])
    losses = np.array([[point.loss(metric) for point in record.points]])
    bounds = np.array([[point.bits.bound for point in record.points]])
    return float(cheapest_within(rates, losses, epsilon).of(bounds)[0])


def _bd_bits(told: Told, limits: Limits) -> float:
    if told.anchor is None:
        return NAN
    found = bd_bits(told.anchor.curve(limits.metric), told.flat.curve(limits.metric))
    return NAN if found is None else found


def _l0_at(told: Told, limits: Limits) -> float:
    result = told.flat.result(limits.metric, limits.tight)
    return NAN if result.l0 is None or not result.feasible else result.l0


def bits_of(mode: str, which: str) -> Statistic:
    """The score in an operating mode at the tight or the coarse tolerance."""
    words = "flat" if mode == FLAT else mode
    return Statistic(
        f"bits, {words}, {which}",
        lambda told, limits: bits(told.records[mode], limits.metric, getattr(limits, which)),
        -1,
        mode,
        at_limit=True,
    )


def _truth(name: str, key: str) -> Statistic:
    return Statistic(
        name,
        lambda told, _: NAN if told.flat.truth is None else float(getattr(told.flat.truth, key)),
    )


def _probed(k: int) -> Statistic:
    return Statistic(f"{k}-sparse probing", lambda told, _: told.probed.get(k, NAN), mode=PROBE)


def _loss(name: str, metric: str) -> Statistic:
    return Statistic(name, lambda told, _: told.flat.floor.loss(metric), -1)


TIGHT, COARSE = "tight", "coarse"
SETTINGS = (TIGHT, COARSE)


def statistics(modes: tuple[str, ...]) -> list[Statistic]:
    """All of them, the truths last."""
    return [
        *(bits_of(mode, which) for which in SETTINGS for mode in modes),
        Statistic(
            "bound, tight",
            lambda told, limits: bound(told.flat, limits.metric, limits.tight),
            -1,
            at_limit=True,
        ),
        Statistic("BD-bits to the oracle", _bd_bits, -1),
        Statistic("L0", lambda told, _: told.flat.coder.l0, -1),
        Statistic("L0 at tight ε", _l0_at, -1, at_limit=True),
        _loss("FVU", "fvu"),
        _loss("ΔCE", "delta_ce"),
        _loss("KL", "kl"),
        Statistic("dead share", lambda told, _: told.flat.coder.dead_fraction, -1),
        _truth("uniqueness", "uniqueness"),
        *map(_probed, KS),
        *TRUTHS,
    ]


TRUTHS = (_truth("F1", "f1"), _truth("MCC", "mcc"))
