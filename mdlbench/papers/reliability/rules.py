"""Scores other than bits at a tolerance, tried on the same records (maths §7).

They were written after the falsifiers, and after the first SAEs were scored. What they say is shown
beside the score, and replaces it nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mdlbench.papers.reliability.plan import FLAT
from mdlbench.papers.reliability.statistics import NAN, Limits, Statistic, Told, bits
from mdlbench.records.record import EvalRecord
from mdlbench.statistics.tolerance import cheapest_within

TOKENS = 1_000_000
"""Over how many tokens decoder and codebook are shared out."""
PRECISION = 0.01
"""To which share of the variance a residual is told."""
ABOVE_FLOOR = 1.25
"""A tolerance of each SAE's own, over its floor."""
OfRecord = Callable[[EvalRecord, Limits], float]


def rules(modes: tuple[str, ...]) -> list[Statistic]:
    """All of them, in each operating mode; fewer bits are better."""
    return [_rule(name, of, mode) for name, of in RULES.items() for mode in modes]


def with_model(record: EvalRecord, limits: Limits) -> float:
    """Bits per token at the tight tolerance with decoder and codebook, which `TOKENS` share.

    NaN where the SAE misses the tolerance.
    """
    sent_once = (record.coder.decoder_bits or 0.0) + (record.coder.codebook_bits or 0.0)
    return bits(record, limits.metric, limits.tight) + sent_once / TOKENS


def with_residual(record: EvalRecord, limits: Limits) -> float:
    """The least R + (d/2)·log₂(1 + FVU/κ) over steps, κ = `PRECISION`; no tolerance is needed.

    What a Gaussian channel of noise κ takes for a residual of variance FVU in each dimension.
    """
    return min(
        point.bits.total + record.coder.d_out / 2 * float(np.log2(1 + point.fvu / PRECISION))
        for point in record.points
    )


def above_own_floor(record: EvalRecord, limits: Limits) -> float:
    """Bits per token, along chords, where the loss is `ABOVE_FLOOR` times the SAE's own floor.

    NaN where no step is within.
    """
    losses = np.array([[point.loss(limits.metric) for point in record.points]])
    rates = np.array([[point.bits.total for point in record.points]])
    epsilon = ABOVE_FLOOR * record.floor.loss(limits.metric)
    if losses.min() > epsilon:
        return NAN
    return float(cheapest_within(rates, losses, epsilon).of(rates)[0])


def at_finest_step(record: EvalRecord, limits: Limits) -> float:
    """Bits per token at the finest step: code lengths differ there as at ever finer steps."""
    return min(record.points, key=lambda point: point.step).bits.total


RULES: dict[str, OfRecord] = {
    f"with the model, over {TOKENS:,} tokens": with_model,
    f"with the residual, to {PRECISION:g} of the variance": with_residual,
    f"at {ABOVE_FLOOR:g} × the own floor": above_own_floor,
    "at the finest step": at_finest_step,
}


def _rule(name: str, of: OfRecord, mode: str) -> Statistic:
    def value(told: Told, limits: Limits) -> float:
        return of(told.records[mode], limits)

    words = "flat" if mode == FLAT else mode
    return Statistic(f"bits, {words}, {name}", value, -1, mode, at_limit=of is with_model)
