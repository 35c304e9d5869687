"""Everything that was measured, and what of it each claim asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mdlbench.papers.bilinear.intervals import SeedMean
from mdlbench.papers.mechanism.latents import METRIC
from mdlbench.papers.mechanism.measure import Point
from mdlbench.papers.mechanism.plan import Plan
from mdlbench.records.record import EvalRecord


@dataclass(frozen=True)
class Latents:
    """The SAE whose latents are shortest at an ε, of those that meet it.

    Attributes:
        name: the SAE.
        bits: per token.
        model: its decoder and its codebook, in bits, as its record has them.
    """

    name: str
    bits: float
    model: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements.

    Attributes:
        plan: what was measured.
        points: of each network, by key.
        records: of the SAEs, for each network.
        accuracy: of each network.
        n_test: images on which losses are measured.
    """

    plan: Plan
    points: dict[str, list[Point]]
    records: dict[str, list[EvalRecord]]
    accuracy: dict[str, float]
    n_test: int

    @property
    def keys(self) -> list[str]:
        return list(self.points)

    @property
    def kinds(self) -> list[str]:
        return list(self.plan.sizes)

    @property
    def epsilons(self) -> list[float]:
        """The tolerances on ΔCE, increasing."""
        record = next(iter(self.records.values()))[0]
        return sorted(one.epsilon for one in record.tolerances if one.metric == METRIC)

    def shortest(self, key: str, kind: str, epsilon: float) -> Point | None:
        """The shortest message of a kind that loses at most ε; None where none does."""
        within = [p for p in self.points[key] if p.kind == kind and p.delta_ce <= epsilon]
        return min(within, key=lambda point: point.bits, default=None)

    def bits(self, kind: str, epsilon: float) -> dict[str, float]:
        """Bits of the shortest message, of the networks that have one within ε."""
        found = {key: self.shortest(key, kind, epsilon) for key in self.keys}
        return {key: point.bits for key, point in found.items() if point is not None}

    def latents(self, key: str, epsilon: float) -> Latents | None:
        """The SAE whose latents are shortest within ε; None where none meets it."""
        met = []
        for record in self.records[key]:
            result = record.result(METRIC, epsilon)
            if result.feasible and result.bits is not None:
                model = (record.coder.decoder_bits or 0.0) + (record.coder.codebook_bits or 0.0)
                met.append(Latents(record.name, result.bits, model))
        return min(met, key=lambda one: one.bits, default=None)

    def log_ratio(self, kind: str, other: str, epsilon: float) -> SeedMean | None:
        """log₂ of one kind's bits over another's, paired by network; None where one is missing."""
        one, two = self.bits(kind, epsilon), self.bits(other, epsilon)
        return self._over_all([float(np.log2(one[k] / two[k])) for k in one if k in two])

    @property
    def shortest_kinds(self) -> dict[float, str]:
        """At each ε the kind with the fewest bits on average, of those that all networks have."""
        found = {}
        for epsilon in self.epsilons:
            means = {kind: self.mean_bits(kind, epsilon) for kind in self.kinds}
            known = {kind: mean.value for kind, mean in means.items() if mean is not None}
            if known:
                found[epsilon] = min(known, key=lambda kind: known[kind])
        return found

    def mean_bits(self, kind: str, epsilon: float) -> SeedMean | None:
        return self._over_all(list(self.bits(kind, epsilon).values()))

    def paid_back(self, kind: str, epsilon: float) -> SeedMean | None:
        """Tokens after which an SAE's latents alone cost as much as the message."""
        return self._against(kind, epsilon, lambda bits, latents: bits / latents.bits)

    def log_beyond_decoder(self, kind: str, epsilon: float) -> SeedMean | None:
        """log₂ of the message's bits over those of that SAE's decoder and codebook."""
        return self._against(
            kind, epsilon, lambda bits, latents: float(np.log2(bits / latents.model))
        )

    def mean_latents(self, epsilon: float) -> SeedMean | None:
        """Bits per token of the shortest SAE within ε."""
        found = [self.latents(key, epsilon) for key in self.keys]
        return self._over_all([one.bits for one in found if one is not None])

    def mean_model(self, epsilon: float) -> SeedMean | None:
        """Bits of that SAE's decoder and codebook."""
        found = [self.latents(key, epsilon) for key in self.keys]
        return self._over_all([one.model for one in found if one is not None])

    def _against(
        self, kind: str, epsilon: float, number: Callable[[float, Latents], float]
    ) -> SeedMean | None:
        message = self.bits(kind, epsilon)
        found = {key: self.latents(key, epsilon) for key in message}
        return self._over_all(
            [number(message[key], one) for key, one in found.items() if one is not None]
        )

    def _over_all(self, values: Sequence[float]) -> SeedMean | None:
        return SeedMean.of(values) if len(values) == len(self.keys) else None
