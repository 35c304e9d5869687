"""Everything that was measured, and what of it each claim asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from mdlbench.papers.bilinear_language.board import SAE, explaining
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT
from mdlbench.papers.bilinear_language.estimate import Estimate
from mdlbench.papers.bilinear_language.explained import Feature
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.scores import CLEAN
from mdlbench.records.record import EvalRecord
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval
from mdlbench.suite.base import MetricName

ZERO, MEAN = "zero", "mean"
"""Baselines: an MLP that puts out nothing, or always its mean output."""
ALONE = (BILINEAR, GATE_KEPT, MEAN, ZERO)
"""What replaces the MLP of one layer."""
TUNED = "together-tuned"
EXPLAINED = 0.75
"""A feature counts as explained from this correlation on."""


def alone(kind: str, layer: int) -> str:
    """The name of a replacement of one layer."""
    return f"{kind}-{layer}"


def together(n: int) -> str:
    """The name of the first n layers turned bilinear at once."""
    return f"together-{n}"


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements.

    Attributes:
        plan: what was measured.
        model, text: names.
        tokens: scored ones of each document.
        sums: cross-entropy of each document, by what is replaced.
        fvu: share of the outputs' variance that a trained layer loses on held-out tokens, by name.
        features: of each output SAE, by the length of its training.
        sae_fvu: share of the variance that each loses on held-out tokens.
        shares: of interactions, for some features of the one trained for longest.
        board: the record of each explanation of the studied layer's output, by its key.
    """

    plan: Plan
    model: str
    text: str
    tokens: Float64[np.ndarray, " document"]
    sums: Mapping[str, Float64[np.ndarray, " document"]]
    fvu: Mapping[str, float]
    features: Mapping[int, list[Feature]]
    sae_fvu: Mapping[int, float]
    shares: list[list[float]]
    board: Mapping[str, EvalRecord]

    @cached_property
    def _resampled(self) -> Bootstrap:
        return Bootstrap(self.tokens, self.plan.replicates, self.plan.seed)

    def clean(self) -> Estimate:
        """Cross-entropy of the untouched model, in nats per token."""
        return Estimate.of_means(self.sums[CLEAN], self.tokens, self._resampled)

    def combined(self, weights: Mapping[str, float]) -> Estimate:
        """Σ weight · ΔCE, in nats per token, every part on the same resampled documents."""
        sums = sum(
            (weight * (self.sums[name] - self.sums[CLEAN]) for name, weight in weights.items()),
            np.zeros(len(self.tokens)),
        )
        return Estimate.of_means(sums, self.tokens, self._resampled)

    def delta(self, name: str) -> Estimate:
        """ΔCE: what a replacement costs."""
        return self.combined({name: 1.0})

    def beyond_half(self, layer: int) -> Estimate:
        """ΔCE of a bilinear layer less half of what leaving it out costs."""
        return self.combined({alone(BILINEAR, layer): 1.0, alone(ZERO, layer): -0.5})

    def gate(self, layer: int) -> Estimate:
        """ΔCE of a bilinear layer less that of the same training with the gate kept."""
        return self.combined({alone(BILINEAR, layer): 1.0, alone(GATE_KEPT, layer): -1.0})

    def beyond_sum(self) -> Estimate:
        """ΔCE of all layers at once less the sum of what each costs alone."""
        singles = {alone(BILINEAR, layer): -1.0 for layer in self.plan.layers}
        return self.combined({together(len(self.plan.layers)): 1.0, **singles})

    def gained(self) -> Estimate:
        """ΔCE of all layers trained together less that before."""
        return self.combined({TUNED: 1.0, together(len(self.plan.layers)): -1.0})

    @property
    def longest(self) -> int:
        """The longest training of an output SAE."""
        return max(self.features)

    def values(self, budget: int, number: str) -> Float64[np.ndarray, " feature"]:
        """A number of each drawn feature of an SAE."""
        found = [getattr(one, number) for one in self.features[budget]]
        return np.array(found, dtype=np.float64)

    def explained(self, budget: int, number: str = "two") -> Estimate:
        """The share of features whose correlation is at least `EXPLAINED`."""
        return self._over_features((self.values(budget, number) >= EXPLAINED).astype(np.float64))

    def mean(self, budget: int, number: str) -> Estimate:
        """The mean of a number over features."""
        return self._over_features(self.values(budget, number))

    def rise(self, budget: int, longer: int) -> Estimate:
        """What a longer training adds to the share explained."""
        more, less = (
            (self.values(each, "two") >= EXPLAINED).astype(np.float64) for each in (longer, budget)
        )
        return Estimate.of_difference(more, less, self.plan.replicates, self.plan.seed)

    def bits(self, key: str, metric: MetricName, epsilon: float) -> Estimate | None:
        """Bits per token of an explanation at a tolerance; None where it does not meet it."""
        result = self.board[key].result(metric, epsilon)
        if result.bits is None or result.bits_ci is None:
            return None
        return Estimate(result.bits, *result.bits_ci)

    def beyond_sae(self, key: str, metric: MetricName, epsilon: float) -> Estimate | None:
        """Its bits less those of the SAE, paired over documents; None where one fails.

        Both sites have the same documents, and so the same resamples of them.
        """
        sae, other = (self.board[one].result(metric, epsilon) for one in (SAE, key))
        if sae.bits is None or other.bits is None:
            return None
        drawn = np.array(other.replicates) - np.array(sae.replicates)
        return Estimate(other.bits - sae.bits, *percentile_interval(drawn))

    def shortest(self, metric: MetricName, epsilon: float) -> tuple[str, Estimate] | None:
        """The shortest explanation by eigenvectors at a tolerance; None where all fail."""
        found = [(key, self.bits(key, metric, epsilon)) for key in explaining(self.plan)]
        met = [(key, bits) for key, bits in found if bits is not None]
        return min(met, key=lambda one: one[1].value, default=None)

    def _over_features(self, values: Float64[np.ndarray, " feature"]) -> Estimate:
        ones = np.ones(len(values))
        resampled = Bootstrap(ones, self.plan.replicates, self.plan.seed)
        return Estimate.of_means(values, ones, resampled)
