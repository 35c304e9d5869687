"""Which part of the rate-distortion plane is shown, in a figure and on a page alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.records.record import EvalRecord, operating_point
from mdlbench.suite.base import MetricName

NEAR = 2.0
"""A baseline's rate at a tolerance widens the view up to this factor of the SAEs' rates."""
UNKNOWN = (1e-3, 1.0)
"""Losses that are shown where no SAE has an accepted one."""


class Range(NamedTuple):
    """The ends of an axis, from low to high."""

    linear: tuple[float, float]
    log: tuple[float, float]


class View(NamedTuple):
    """The part of the rate-distortion plane that a panel shows: bits per token, and a loss."""

    rates: Range
    losses: Range

    def shows(
        self,
        rates: Float64[np.ndarray, " point"],
        distortions: Float64[np.ndarray, " point"],
    ) -> bool:
        """Whether a point is in view where rates are linear and losses logarithmic."""
        (left, right), (bottom, top) = self.rates.linear, self.losses.log
        inside = (rates >= left) & (rates <= right) & (distortions >= bottom) & (distortions <= top)
        return bool(inside.any())


def view_of(records: Sequence[EvalRecord], metric: MetricName) -> View:
    """The neighbourhood of the tolerances and of the SAEs; the same rates for every metric."""
    return View(_rates(records), _losses(records, metric))


def _rates(records: Sequence[EvalRecord]) -> Range:
    saes = [record for record in records if not record.is_baseline] or records
    rates = [r.bits for record in saes for r in record.tolerances if r.bits is not None]
    rates = rates or [point.bits.total for record in saes for point in record.points] or [0.0]
    low, high = (float(rate) for rate in np.quantile(rates, [0.0, 0.97]))
    results = [result for record in records for result in record.tolerances]
    near = [r.bits for r in results if r.bits is not None and r.bits <= NEAR * high]
    least = min((rate for rate in rates if rate > 0), default=1.0)
    most = max(high, *near, least)
    high = max(high, 1.0, *near)
    return Range((0.0 if low < 0.4 * high else 0.75 * low, 1.1 * high), (0.8 * least, 1.1 * most))


def _losses(records: Sequence[EvalRecord], metric: MetricName) -> Range:
    """About the tolerances; without any, about the losses at the tolerances on other metrics."""
    epsilons = [r.epsilon for record in records for r in record.tolerances if r.metric == metric]
    if epsilons:
        return _above(min(epsilons), 1.6 * max(epsilons))
    accepted = [
        point.loss(metric)
        for record in records
        for result in record.tolerances
        if (point := operating_point(record, result))
    ]
    positive = [loss for loss in accepted if loss > 0]
    return _above(min(positive), 1.2 * max(positive)) if positive else Range(UNKNOWN, UNKNOWN)


def _above(least: float, high: float) -> Range:
    return Range((0.0, high), (0.75 * least, high))
