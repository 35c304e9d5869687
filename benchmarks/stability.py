"""How much a score moves when the ruler is made anew: other test tokens, another bootstrap seed.

    python benchmarks/stability.py --suite mnist --sae batchtopk-128-k11 --sae relu-128-c0.4

- *CV*: the standard deviation of the score over random halves of the test documents, as a share of
  it. A half drawn without replacement varies about the whole as a test set of the full size does
  about the truth: half the tokens double the variance, and drawing half of a finite set halves it.
- *Covered*: the share of halves whose score lies within the whole's 95% interval.
- *Reseeded*: the largest change of the score under ten other seeds of the bootstrap, which decide
  which steps are measured, as a share of the width of its interval.
- *Least difference*: 1.96·√2 standard deviations, unpaired; and 1.96 standard deviations of the
  difference to the first SAE over the same halves, paired.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import Encoded, encoded
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import search_limits
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.statistics.tolerance import cheapest_within
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Steps

HALVES = 400
SEEDS = 10

Limit = tuple[str, float]


@dataclass(frozen=True)
class Documents:
    """Sums per document of an SAE at its measured steps: arrays of documents by steps."""

    tokens: np.ndarray
    bits: np.ndarray
    losses: dict[str, np.ndarray]
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

    def scores(self, weights: np.ndarray, limit: Limit) -> np.ndarray:
        """Bits at ε of every weighting of the documents, a row each."""
        metric, epsilon = limit
        tokens = (weights @ self.tokens)[:, None]
        bits = weights @ self.bits / tokens + self.side_bits
        return cheapest_within(bits, weights @ self.losses[metric] / tokens, epsilon).of(bits)


class Score(NamedTuple):
    """One SAE at one tolerance."""

    sae: str
    limit: Limit
    bits: float
    width: float
    halves: np.ndarray
    covered: float
    reseeded: float


def halves(n_documents: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    order = generator.permuted(np.tile(np.arange(n_documents), (HALVES, 1)), axis=1)
    return (order < n_documents // 2).astype(np.float64)


def fresh(bench: Bench, run: Encoded, seed: int) -> Resampled:
    """The search of a suite of this seed, from its beginning."""
    steps = Steps(finest=run.sweep.finest, octaves=bench.suite.steps.octaves)
    other = replace(bench, suite=bench.suite.model_copy(update={"seed": seed}))
    resampled = Resampled(other, Sweep(run.sweep.latents, bench.mode, steps))
    search_limits(resampled, list(bench.suite.limits()))
    resampled.sweep.price(resampled.sweep.measured())
    return resampled


def measure(bench: Bench, target: Target) -> Iterator[Score]:
    with encoded(bench, target.sae) as run:
        resampled = [fresh(bench, run, seed) for seed in range(SEEDS + 1)]
        documents = [Documents.of(one) for one in resampled]
    everything = np.ones((1, len(documents[0].tokens)))
    for limit in bench.suite.limits():
        if resampled[0].losses(limit[0])[0].upper > limit[1]:
            continue
        scores = [float(one.scores(everything, limit)[0]) for one in documents]
        low, high = percentile_interval(resampled[0].bits_at(*limit))
        drawn = documents[0].scores(halves(everything.size), limit)
        yield Score(
            target.label,
            limit,
            scores[0],
            high - low,
            drawn,
            float(((drawn >= low) & (drawn <= high)).mean()),
            max(abs(score - scores[0]) for score in scores[1:]) / (high - low),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="mnist")
    parser.add_argument("--sae", action="append", default=[])
    parser.add_argument("--quantiser")
    asked = parser.parse_args()
    suite = load_suite(asked.suite)
    opener = Opener(suite, Setting("cpu", None, None, "float32", cache=False))
    executor = InProcess(opener)
    first: dict[Limit, np.ndarray] = {}
    found: list[Score] = []
    print(f"{'SAE':24}{'tolerance':>18}{'bits':>9}{'CV':>8}{'covered':>9}{'reseeded':>10}", end="")
    print(f"{'least difference, unpaired':>28}{'paired':>9}")
    for target in targets(suite, asked.sae or suite.keys, adapter=None):
        bench = Bench.open(executor, target_site(opener, target), asked.quantiser)
        for score in measure(bench, target):
            found.append(score)
            anchor = first.setdefault(score.limit, score.halves)
            deviation = float(score.halves.std(ddof=1))
            paired = 1.96 * float((score.halves - anchor).std(ddof=1))
            print(
                f"{score.sae:24}{f'{score.limit[0]} {score.limit[1]:g}':>18}{score.bits:9.2f}"
                f"{deviation / score.bits:8.2%}{score.covered:9.1%}{score.reseeded:10.3f}"
                f"{1.96 * 2**0.5 * deviation:28.2f}"
                f"{'–' if anchor is score.halves else format(paired, '.2f'):>9}",
                flush=True,
            )
    for metric in suite.metrics:
        of_metric = [score for score in found if score.limit[0] == metric]
        if of_metric:
            cvs = [score.halves.std(ddof=1) / score.bits for score in of_metric]
            covered = np.mean([score.covered for score in of_metric])
            reseeded = max(score.reseeded for score in of_metric)
            print(
                f"{metric}: CV median {np.median(cvs):.2%}, largest {max(cvs):.2%}; covered "
                f"{covered:.1%}; reseeding the bootstrap moves no score by more than "
                f"{reseeded:.3f} of its interval ({len(of_metric)} scores)"
            )


if __name__ == "__main__":
    main()
