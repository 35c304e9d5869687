"""One SAE's losses and bits at its measured steps, and what they are when documents are redrawn."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.sweep import Sweep
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.metrics import metric_of
from mdlbench.statistics.tolerance import Loss, Mixture, cheapest_within

Draws = Float64[np.ndarray, " replicate"]


class Resampled:
    """The losses and bits of a sweep in every bootstrap draw, each drawn once (maths §7)."""

    def __init__(self, bench: Bench, sweep: Sweep) -> None:
        self.bench, self.sweep = bench, sweep
        self._draws: dict[tuple[str, int], Draws] = {}
        self._losses: dict[str, dict[int, Loss]] = {}

    def loss(self, metric: str, position: int) -> Draws:
        """A loss at one position in every draw; raises `UsageError` for an unknown one."""
        key = metric_of(metric).name, position
        if key not in self._draws:
            self._draws[key] = self.bench.bootstrap.means(self._sums(metric, position))
        return self._draws[key]

    def heldout(self, position: int) -> Draws:
        """Held-out bits per token at one position in every draw."""
        key = "bits", position
        if key not in self._draws:
            bits = self.sweep.rates(position).document_bits
            self._draws[key] = self.bench.bootstrap.means(bits)
        return self._draws[key]

    def losses(self, metric: str) -> dict[int, Loss]:
        """One loss at every measured position, with its upper limit."""
        known = self._losses.setdefault(metric_of(metric).name, {})
        for position in self.sweep.measured():
            if position not in known:
                known[position] = self._loss(metric, position)
        return known

    def mixture(self, metric: str, epsilon: float) -> Mixture:
        """Where the score at ε lies among the measured steps (maths §6)."""
        losses = np.array([loss.value for _, loss in sorted(self.losses(metric).items())])
        return cheapest_within(self.bits, losses, epsilon)

    @property
    def bits(self) -> Float64[np.ndarray, " point"]:
        """Total bits per token of every measured step."""
        measured = self.sweep.measured()
        self.sweep.price(measured)
        heldout = np.array([self.sweep.rates(position).heldout for position in measured])
        return heldout + self.sweep.spec.side_bits

    def bits_at(self, metric: str, epsilon: float) -> Draws:
        """Total bits per token at ε on the curve of each draw (maths §6)."""
        measured = self.sweep.measured()
        heldout = np.stack([self.heldout(position) for position in measured], axis=-1)
        losses = np.stack([self.loss(metric, position) for position in measured], axis=-1)
        bits = heldout + self.sweep.spec.side_bits
        return cheapest_within(bits, losses, epsilon).of(bits)

    def _loss(self, metric: str, position: int) -> Loss:
        sums = self._sums(metric, position)
        value = float(sums.sum() / self.bench.reference.tokens.sum())
        return Loss(value, upper_limit(self.loss(metric, position)))

    def _sums(self, metric: str, position: int) -> Float64[np.ndarray, " document"]:
        return self.bench.per_document(self.sweep.distortion(position), metric)
