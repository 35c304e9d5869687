"""Whether a record's operating points are consistent, each in itself and with the others."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from collections.abc import Iterator

import numpy as np

from mdlbench.modes import MODES
from mdlbench.record import Distortion, EvalRecord, Point
from mdlbench.suite import Suite
from mdlbench.tolerance import STEPS_PER_OCTAVE, step_at
from mdlbench.validation.approx import is_interval_of, same

MOST_CODED_EXCESS = 0.005
"""Of `heldout`: how far a real bitstream may be from it (maths §3)."""
FLUSHED_BITS = 128
"""Of a bitstream, at its end, beside that."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    if not record.points:
        yield "no operating points"
        return
    yield from _of_grid(record, suite)
    for point in record.points:
        for problem in _of_point(record, suite, point):
            yield f"point at step {point.step:g}: {problem}"
    yield from _of_losses([record.floor, *record.points])
    yield from _of_order(record.points)


def positions(record: EvalRecord) -> list[int | None]:
    """Where each point lies on the grid finest·2^(p/20); None where it does not."""
    finest = record.points[0].step
    return [_position(point.step, finest) for point in record.points]


def _position(step: float, finest: float) -> int | None:
    if not (finest > 0 and step > 0):
        return None
    position = round(STEPS_PER_OCTAVE * math.log2(step / finest))
    return position if same(step_at(finest, position), step) else None


def _of_grid(record: EvalRecord, suite: Suite) -> Iterator[str]:
    finest = record.points[0].step
    if suite.steps.unit == "absolute" and finest != suite.steps.finest:
        yield f"the finest step {finest:g} is not the suite's, {suite.steps.finest:g}"
    found = positions(record)
    known = [position for position in found if position is not None]
    if len(known) < len(found) or not all(a < b for a, b in itertools.pairwise(known)):
        yield "steps are not distinct ones of the grid, from the finest to the coarsest"
    dyadic = range(0, suite.steps.octaves * STEPS_PER_OCTAVE, STEPS_PER_OCTAVE)
    accepted = {result.step for result in record.tolerances}
    beside = [p for p in record.points if _position(p.step, finest) not in dyadic]
    if not set(dyadic) <= set(known) or any(point.step not in accepted for point in beside):
        yield "points are not the dyadic steps and those accepted at a tolerance"


def _of_point(record: EvalRecord, suite: Suite, point: Point) -> Iterator[str]:
    if point.quantiser != (record.identity.quantiser or suite.quantiser):
        yield f"quantiser {point.quantiser!r} is not the record's"
    if point.top_k is not None:
        yield "top_k is not used"
    yield from _of_rates(record, point)
    if not (0 <= point.l0 <= record.coder.d_latents and (point.header_bits or 0) >= 0):
        yield "l0 or header_bits is out of range"
    if not (point.mse >= 0 and -1 - 1e-9 <= point.cosine <= 1 + 1e-9 and point.kl >= -1e-6):
        yield "a loss is out of range"
    yield from _of_resamples(suite, point)


def _of_rates(record: EvalRecord, point: Point) -> Iterator[str]:
    bits = point.bits
    if not same(bits.plugin, bits.support + bits.magnitude):
        yield "bits.plugin is not support + magnitude"
    if not same(bits.total, bits.heldout + bits.side):
        yield "bits.total is not heldout + side"
    rates = (bits.support, bits.magnitude, bits.heldout, bits.adaptive, bits.enumerative, bits.side)
    if min(rates) < 0:
        yield "a rate is negative"
    if bits.heldout < bits.plugin * (1 - 1e-9):
        yield "bits.heldout is below plugin, the entropy of the same symbols"
    if not _is_bound(bits.bound, point.l0, record.coder.d_latents):
        yield "bits.bound is not L0·(B + log₂ D) for a whole B"
    if bits.coded is not None and not math.isclose(
        bits.coded,
        bits.heldout,
        rel_tol=MOST_CODED_EXCESS,
        abs_tol=0.01 + FLUSHED_BITS / record.n_tokens.test,
    ):
        yield "bits.coded is not within 0.5% of heldout"


def _is_bound(bound: float, l0: float, n_latents: int) -> bool:
    if not l0 > 0 or not n_latents:
        return bound == 0
    precision = bound / l0 - math.log2(n_latents)
    return -1e-6 < precision < 64 and abs(precision - round(precision)) < 1e-6


def _of_resamples(suite: Suite, point: Point) -> Iterator[str]:
    drawn = point.resamples
    if drawn is None:
        yield "no bootstrap resamples"
        return
    for text in (drawn.bits, drawn.mse, drawn.delta_ce):
        shares = _half_floats(text)
        if shares is None or len(shares) != suite.replicates or not np.isfinite(shares).all():
            yield f"resamples are not {suite.replicates} finite numbers"
            return
    if not is_interval_of(point.bits.heldout_ci, point.resampled_bits() - point.bits.side):
        yield "bits.heldout_ci is not that of the resamples"
    if not is_interval_of(point.mse_ci, point.resampled("mse")):
        yield "mse_ci is not that of the resamples"
    if not is_interval_of(point.delta_ce_ci, point.resampled("delta_ce")):
        yield "delta_ce_ci is not that of the resamples"


def _half_floats(text: str) -> np.ndarray | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return np.frombuffer(data, dtype="<f2") if len(data) % 2 == 0 else None


def _of_losses(losses: list[Distortion]) -> Iterator[str]:
    """The clean and the ablated loss and the variance are one number each for all points."""
    one = losses[0]
    for other in losses[1:]:
        if not same(one.fvu * other.mse, other.fvu * one.mse):
            yield "fvu is not mse over one variance at every point"
        if not same(one.ce - one.delta_ce, other.ce - other.delta_ce):
            yield "ce − delta_ce is not one clean loss at every point"
        if not _same_ablated(one, other):
            yield "ce_recovered is not 1 − delta_ce / (ablated − clean loss) at every point"


def _same_ablated(one: Distortion, other: Distortion) -> bool:
    if one.ce_recovered is None or other.ce_recovered is None:
        return one.ce_recovered is other.ce_recovered
    a = one.delta_ce * (1 - other.ce_recovered)
    b = other.delta_ce * (1 - one.ce_recovered)
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-11)


def _of_order(points: list[Point]) -> Iterator[str]:
    """A coarser step of the same rounding leaves fewer latents on."""
    if points[0].quantiser not in MODES or points[0].quantiser in ("per-feature", "rdo"):
        return
    if any(b.l0 > a.l0 * (1 + 1e-9) for a, b in itertools.pairwise(points)):
        yield "L0 rises from a step to a coarser one"
