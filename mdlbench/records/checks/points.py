"""Whether a record's operating points are consistent, each in itself and with the others."""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from collections.abc import Iterator

import numpy as np

from mdlbench.codes import codelength
from mdlbench.quantisers.modes import MODES
from mdlbench.records.checks.approx import is_interval_of, same
from mdlbench.records.record import Distortion, EvalRecord, OperatingPoint, interval_key
from mdlbench.statistics.metrics import METRICS, drawn_metrics, shown_metrics
from mdlbench.statistics.tolerance import dyadic_positions, position_of, step_at
from mdlbench.suite.suite import Suite

MOST_CODED_EXCESS = 0.005
"""How far a real bitstream may be from `heldout`, relatively (maths §3)."""
SIGMAS = 6.0
"""How far a mean of draws may be off, in standard errors."""
CANCELLED = 1e-12
"""How far a small difference of sums may be off, as a share of the sums."""
FLUSHED_BITS = 128
"""Bits at the end of a bitstream, allowed beside that."""
ADAPTIVE_HEADER = 3 * codelength.PARAMETER_BITS + 1
"""The fewest bits that `adaptive` sends, less one for the rounding of its sums (maths §3)."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    if not record.points:
        yield "no operating points"
        return
    yield from _of_grid(record, suite)
    for point in record.points:
        for problem in _of_point(record, suite, point):
            yield f"point at step {point.step:g}: {problem}"
    for loss in (record.floor, *record.points):
        yield from _of_range(loss, suite)
    yield from _of_losses([record.floor, *record.points])
    yield from _of_order(record.points)


def positions(record: EvalRecord) -> list[int | None]:
    """Where each point lies on the grid finest·2^(p/8); None where it does not."""
    finest = record.points[0].step
    return [_position(point.step, finest) for point in record.points]


def _position(step: float, finest: float) -> int | None:
    position = position_of(finest, step)
    return position if same(step_at(finest, position), step) else None


def _of_grid(record: EvalRecord, suite: Suite) -> Iterator[str]:
    finest = record.points[0].step
    if suite.steps.unit == "absolute" and finest != suite.steps.finest:
        yield f"the finest step {finest:g} is not the suite's, {suite.steps.finest:g}"
    found = positions(record)
    known = [position for position in found if position is not None]
    if len(known) < len(found) or not all(a < b for a, b in itertools.pairwise(known)):
        yield "steps are not distinct steps of the grid, from the finest to the coarsest"
    dyadic = dyadic_positions(suite.steps.octaves)
    if any(position not in range(dyadic[-1] + 1) for position in known):
        yield "a step is beyond the suite's grid"
    if not set(dyadic) <= set(known):
        yield "the dyadic steps are not all among the points"


def _of_point(record: EvalRecord, suite: Suite, point: OperatingPoint) -> Iterator[str]:
    if point.quantiser != (record.identity.quantiser or suite.quantiser):
        yield f"quantiser {point.quantiser!r} is not the record's"
    if point.top_k is not None:
        yield "top_k is not used"
    yield from _of_rates(record, point)
    if not (0 <= point.l0 <= record.coder.d_latents and (point.header_bits or 0) >= 0):
        yield "l0 or header_bits is out of range"
    yield from _of_resamples(suite, point)


def _of_rates(record: EvalRecord, point: OperatingPoint) -> Iterator[str]:
    bits = point.bits
    if not same(bits.plugin, bits.support + bits.magnitude):
        yield "bits.plugin is not support + magnitude"
    if not same(bits.total, bits.heldout + bits.side):
        yield "bits.total is not heldout + side"
    rates = (bits.support, bits.magnitude, bits.heldout, bits.adaptive, bits.enumerative, bits.side)
    if min(rates) < 0:
        yield "a rate is negative"
    if bits.heldout < bits.plugin * (1 - 1e-9) - 1e-11:
        yield "bits.heldout is below plugin, the entropy of the same symbols"
    yield from _of_other_codes(record, point)


def _of_other_codes(record: EvalRecord, point: OperatingPoint) -> Iterator[str]:
    """Check the rates that are not ranked against their lower bounds (maths §3)."""
    bits, n_test = point.bits, record.n_tokens.test
    if bits.adaptive < bits.plugin * (1 - 1e-9) + ADAPTIVE_HEADER / n_test:
        yield "bits.adaptive is below plugin plus its header"
    if bits.enumerative < (bits.magnitude + 1) * (1 - 1e-9):
        yield "bits.enumerative is below magnitude plus one bit"
    if not _is_bound(bits.bound, point.l0, record.coder.d_latents):
        yield "bits.bound is not L0·(B + log₂ D) for a whole B"
    if bits.coded is not None and not math.isclose(
        bits.coded,
        bits.heldout,
        rel_tol=MOST_CODED_EXCESS,
        abs_tol=0.01 + FLUSHED_BITS / n_test,
    ):
        yield "bits.coded is not within 0.5% of heldout"


def _is_bound(bound: float, l0: float, n_latents: int) -> bool:
    if not l0 > 0 or not n_latents:
        return bound == 0
    precision = bound / l0 - math.log2(n_latents)
    return -1e-6 < precision < 64 and abs(precision - round(precision)) < 1e-6


def _of_resamples(suite: Suite, point: OperatingPoint) -> Iterator[str]:
    kept = point.resamples
    if kept is None:
        yield "no bootstrap resamples"
        return
    metrics = [metric.name for metric in drawn_metrics(suite.metrics)]
    intervals = {interval_key(metric) for metric in metrics}
    if set(kept.by_metric) != set(metrics) or intervals != _intervals(point):
        yield "intervals or resamples are not those of the suite's metrics"
        return
    texts = [kept.bits, *kept.by_metric.values()]
    for text in texts:
        shares = _half_floats(text)
        if shares is None or len(shares) != suite.replicates or not np.isfinite(shares).all():
            yield f"resamples are not {suite.replicates} finite numbers"
            return
    if not all(_is_centred(shares) for shares in map(_half_floats, texts)):
        yield "resamples do not lie around the point"
    yield from _of_drawn_intervals(point, metrics)


def _of_drawn_intervals(point: OperatingPoint, metrics: list[str]) -> Iterator[str]:
    heldout = point.bits.heldout
    drawn_bits = point.resampled_bits() - point.bits.side
    if not is_interval_of(point.bits.heldout_ci, drawn_bits, heldout, heldout):
        yield "bits.heldout_ci is not that of the resamples"
    for metric in metrics:
        drawn, unit = point.resampled(metric), point.unit(metric)
        if not is_interval_of(point.interval(metric), drawn, point.loss(metric), unit):
            yield f"{interval_key(metric)} is not that of the resamples"


def _intervals(point: OperatingPoint) -> set[str]:
    return {key for key in point.by_metric if key not in METRICS}


def _is_centred(shares: np.ndarray | None) -> bool:
    """Whether the mean of draws is as close to its value as a mean of resamples should be.

    Their mean has a standard error of their spread over √n; half precision adds a little.
    """
    if shares is None or not len(shares):
        return False
    values = shares.astype(np.float64)
    spread = float(values.std())
    return abs(float(values.mean())) <= SIGMAS * spread / math.sqrt(len(values)) + 1e-6


def _half_floats(text: str) -> np.ndarray | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return np.frombuffer(data, dtype="<f2") if len(data) % 2 == 0 else None


def _of_range(loss: Distortion, suite: Suite) -> Iterator[str]:
    wanted = {metric.name for metric in shown_metrics(suite.metrics)} - set(Distortion.model_fields)
    if {key for key in loss.by_metric if key in METRICS} != wanted:
        yield "losses are not those of the suite's metrics"
    for key, value in loss.losses.items():
        if key in METRICS and value < METRICS[key].least:
            yield f"{key} is less than it can be"
    if not (loss.ce >= 0 and abs(loss.cosine) <= 1 + 1e-5):
        yield "ce or cosine is out of range"


def _of_losses(losses: list[Distortion]) -> Iterator[str]:
    """Clean loss, ablated loss and variance must each be the same at all points."""
    largest = max(losses, key=lambda loss: loss.mse)
    if not all(_is_share(loss, largest) for loss in losses):
        yield "fvu is not mse over one variance at every point"
    clean, rounded = losses[0].ce - losses[0].delta_ce, CANCELLED * max(loss.ce for loss in losses)
    if not all(
        math.isclose(clean, loss.ce - loss.delta_ce, rel_tol=1e-9, abs_tol=1e-11 + rounded)
        for loss in losses
    ):
        yield "ce − delta_ce is not one clean loss at every point"
    if not _have_one_ablated_loss(losses):
        yield "ce_recovered is not 1 − delta_ce / (ablated − clean loss) at every point"


def _is_share(loss: Distortion, largest: Distortion) -> bool:
    expected = loss.mse / largest.mse * largest.fvu if largest.mse > 0 else 0.0
    return math.isclose(loss.fvu, expected, rel_tol=1e-9)


def _have_one_ablated_loss(losses: list[Distortion]) -> bool:
    recovered = [loss.ce_recovered for loss in losses]
    if None in recovered:
        return set(recovered) == {None}
    pairs = [(loss.delta_ce, 1 - (loss.ce_recovered or 0.0)) for loss in losses]
    delta, lost = max(pairs, key=lambda pair: abs(pair[0]))
    if delta == 0:
        return all(share == 0 for _, share in pairs)
    rounded = CANCELLED * (1 + abs(lost) + abs(lost / delta) * max(loss.ce for loss in losses))
    return all(
        math.isclose(share, d / delta * lost, rel_tol=1e-6, abs_tol=1e-12 + rounded)
        for d, share in pairs
    )


def _of_order(points: list[OperatingPoint]) -> Iterator[str]:
    """With the same rounding, a coarser step must not leave more latents on."""
    mode = MODES.get(points[0].quantiser)
    if mode is None or not mode.monotone:
        return
    if any(b.l0 > a.l0 * (1 + 1e-9) for a, b in itertools.pairwise(points)):
        yield "L0 rises from a step to a coarser one"
