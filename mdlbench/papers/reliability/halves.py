"""How a score moves where data are fixed: random halves of the test documents.

A half drawn without replacement varies about the whole as a test set of the full size does about
the truth: half the tokens double the variance, and drawing half of a finite set halves it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import Encoded, encoded
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limits
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.targets import Target
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.statistics.tolerance import cheapest_within
from mdlbench.suite.suite import Steps

HALVES = 400
SEEDS = 10

Limit = tuple[str, float]


@dataclass(frozen=True)
class Documents:
    """Sums per document of an SAE at its measured steps.

    Attributes:
        tokens: of each document.
        bits: by step.
        losses: by metric and step.
        side_bits: per token, beside those.
    """

    tokens: Float64[np.ndarray, " document"]
    bits: Float64[np.ndarray, "document step"]
    losses: dict[str, Float64[np.ndarray, "document step"]]
    side_bits: float

    @classmethod
    def of(cls, resampled: Resampled) -> Documents:
        bench, sweep = resampled.bench, resampled.sweep
        measured = sweep.measured()
        losses = {
            metric: np.stack(
                [bench.per_document(sweep.distortion(p), metric) for p in measured], axis=-1
            )
            for metric in bench.suite.metrics
        }
        bits = np.stack([sweep.rates(p).document_bits for p in measured], axis=-1)
        return cls(bench.reference.tokens, bits, losses, sweep.spec.side_bits)

    def scores(
        self, weights: Float64[np.ndarray, "draw document"], limit: Limit
    ) -> Float64[np.ndarray, " draw"]:
        """Bits at ε of every weighting of the documents."""
        metric, epsilon = limit
        tokens = (weights @ self.tokens)[:, None]
        bits = weights @ self.bits / tokens + self.side_bits
        return cheapest_within(bits, weights @ self.losses[metric] / tokens, epsilon).of(bits)


class Score(NamedTuple):
    """One SAE at one tolerance.

    Attributes:
        sae: its label.
        limit: the tolerance.
        bits: the score on all documents.
        low, high: its 95% interval.
        halves: the score on each half.
        reseeded: the largest change of the score under other seeds of the bootstrap, which decide
            which steps are measured, as a share of the width of the interval.
    """

    sae: str
    limit: Limit
    bits: float
    low: float
    high: float
    halves: Float64[np.ndarray, " draw"]
    reseeded: float

    @property
    def covered(self) -> float:
        """The share of the halves whose score lies within the whole's 95% interval."""
        return float(((self.halves >= self.low) & (self.halves <= self.high)).mean())


def halves(n_documents: int) -> Float64[np.ndarray, "draw document"]:
    """1 for the documents of each random half, else 0."""
    generator = np.random.default_rng(0)
    order = generator.permuted(np.tile(np.arange(n_documents), (HALVES, 1)), axis=1)
    return (order < n_documents // 2).astype(np.float64)


def measure(bench: Bench, target: Target, seeds: int = SEEDS) -> Iterator[Score]:
    """An SAE at every tolerance that it meets, searched anew under so many other seeds."""
    with encoded(bench, target.sae) as run:
        resampled = [fresh(bench, run, seed) for seed in range(seeds + 1)]
        documents = [Documents.of(one) for one in resampled]
    everything = np.ones((1, len(documents[0].tokens)))
    drawn = halves(everything.size)
    for limit in bench.suite.limits():
        if resampled[0].losses(limit[0])[0].upper > limit[1]:
            continue
        scores = [float(one.scores(everything, limit)[0]) for one in documents]
        low, high = percentile_interval(resampled[0].bits_at(*limit))
        moved = max((abs(score - scores[0]) for score in scores[1:]), default=0.0)
        yield Score(
            target.label,
            limit,
            scores[0],
            low,
            high,
            documents[0].scores(drawn, limit),
            moved / (high - low),
        )


def fresh(bench: Bench, run: Encoded, seed: int) -> Resampled:
    """The search of a suite of this seed, from its beginning."""
    steps = Steps(finest=run.sweep.finest, octaves=bench.suite.steps.octaves)
    other = replace(bench, suite=bench.suite.model_copy(update={"seed": seed}))
    resampled = Resampled(other, Sweep(run.sweep.latents, bench.mode, steps))
    search_limits(resampled, list(bench.suite.limits()))
    resampled.sweep.price(resampled.sweep.measured())
    return resampled
