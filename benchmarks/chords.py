"""How far apart measured steps may lie, so that a chord between them is as good as the curve.

    python benchmarks/chords.py --suite mnist --sae batchtopk-128-k11 --sae pca

Every SAE is measured every 24th of an octave. At each tolerance its score (maths §6) is read off
all of these steps, and off the dyadic ones with those that a refined grid of some width would have
beside them: from the last that passes up to the first whose loss exceeds ε. The difference is given
as a share of the width of the score's 95% interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.targets import Target, target_site, targets
from mdlbench.sources.open import Opener, Setting
from mdlbench.statistics.bootstrap import percentile_interval, upper_limit
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, cheapest_within
from mdlbench.suite.load import load_suite
from mdlbench.suite.suite import Steps

FINE = 24
"""Steps to the octave of the curves that chords are compared with."""
WIDTHS = (2, 3, 4, 6, 12)
"""Spacings of refined grids, in steps of a curve: a twelfth to half an octave."""


@dataclass(frozen=True)
class Curve:
    """A curve at one loss: arrays over steps, from the finest to the coarsest."""

    bits: np.ndarray
    loss: np.ndarray
    drawn_bits: np.ndarray
    drawn_loss: np.ndarray

    def score(self, epsilon: float, kept: np.ndarray) -> tuple[float, tuple[float, float]]:
        """Bits at ε and their interval, from some of the steps."""
        bits = cheapest_within(self.bits[kept], self.loss[kept], epsilon).of(self.bits[kept])
        drawn = self.drawn_bits[:, kept]
        replicates = cheapest_within(drawn, self.drawn_loss[:, kept], epsilon).of(drawn)
        return float(bits), percentile_interval(replicates)

    def kept(self, epsilon: float, width: int) -> np.ndarray:
        """Dyadic steps, and those of a refined grid about ε."""
        grid = np.arange(0, len(self.bits), width)
        upper = np.array([upper_limit(self.drawn_loss[:, p]) for p in grid])
        passes = int(np.argmax(upper > epsilon)) - 1 if (upper > epsilon).any() else len(grid) - 1
        leaves = int(np.argmax(self.loss[grid] > epsilon))
        about = grid[max(passes, 0) : max(leaves, passes + 1) + 1]
        return np.union1d(np.arange(0, len(self.bits), FINE), about)


def curves(bench: Bench, target: Target) -> Iterator[tuple[str, Curve]]:
    """Every loss of the suite, from one measurement of the SAE."""
    with encoded(bench, target.sae) as run:
        octaves = bench.suite.steps.octaves
        shifts = FINE // STEPS_PER_OCTAVE
        parts = []
        for shift in range(shifts):
            steps = Steps(finest=run.sweep.finest * 2.0 ** (shift / FINE), octaves=octaves)
            sweep = Sweep(run.sweep.latents, bench.mode, steps)
            sweep.measure(range(STEPS_PER_OCTAVE * (octaves - 1) + (shift == 0)))
            sweep.price(sweep.measured())
            parts.append(Resampled(bench, sweep))
        order = [
            (part, position)
            for position in range(STEPS_PER_OCTAVE * (octaves - 1) + 1)
            for part in parts
            if position in part.sweep.measured()
        ]
        side = run.sweep.spec.side_bits
        bits = np.array([part.sweep.rates(p).heldout for part, p in order]) + side
        drawn_bits = np.stack([part.heldout(p) for part, p in order], axis=-1) + side
        for metric in bench.suite.metrics:
            loss = np.array([part.losses(metric)[p].value for part, p in order])
            drawn = np.stack([part.loss(metric, p) for part, p in order], axis=-1)
            yield metric, Curve(bits, loss, drawn_bits, drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="mnist")
    parser.add_argument("--sae", action="append", default=[])
    asked = parser.parse_args()
    suite = load_suite(asked.suite)
    opener = Opener(suite, Setting("cpu", None, None, "float32", cache=False))
    executor = InProcess(opener)
    found: dict[int, list[tuple[float, float]]] = {width: [] for width in WIDTHS}
    columns = "".join(f"{width / FINE:>9.3g}" for width in WIDTHS)
    print(f"{'SAE':24}{'loss':>9}{'ε':>8}{'bits':>9}{'95%':>7}   error/interval by octaves")
    print(f"{'':60}{columns}")
    for target in targets(suite, asked.sae or suite.keys, adapter=None):
        bench = Bench.open(executor, target_site(opener, target))
        for metric, curve in curves(bench, target):
            everything = np.arange(len(curve.bits))
            for epsilon in [e for m, e in suite.limits() if m == metric]:
                if upper_limit(curve.drawn_loss[:, 0]) > epsilon:
                    continue
                bits, (low, high) = curve.score(epsilon, everything)
                errors = []
                for width in WIDTHS:
                    chord, interval = curve.score(epsilon, curve.kept(epsilon, width))
                    errors.append((chord - bits) / (high - low))
                    found[width].append((errors[-1], (interval[1] - interval[0]) / (high - low)))
                row = "".join(f"{error:9.3f}" for error in errors)
                print(
                    f"{target.label:24}{metric:>9}{epsilon:8g}{bits:9.2f}{high - low:7.2f}   {row}"
                )
    for width, pairs in found.items():
        errors, widths = np.array(pairs).T
        print(
            f"{width / FINE:.3g} octave: error/interval median {np.median(errors):.3f}, "
            f"95th percentile {np.quantile(errors, 0.95):.3f}, largest {errors.max():.3f}; "
            f"interval over that of the curve {widths.min():.2f} to {widths.max():.2f} "
            f"({len(pairs)} scores)"
        )


if __name__ == "__main__":
    main()
