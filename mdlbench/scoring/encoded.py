"""An SAE whose latents of both splits are on disk, ready to be quantised at any step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mdlbench.adapters.independence import Trial
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.scoring import passes
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.spool import LatentSpool
from mdlbench.scoring.sweep import Sweep


@dataclass(frozen=True)
class Encoded:
    """An SAE whose latents of both splits are spooled, ready to be quantised at any step."""

    sweep: Sweep
    calibration: passes.EncodedSplit
    test: passes.EncodedSplit


@contextmanager
def encoded(bench: Bench, coder: SparseCoder) -> Iterator[Encoded]:
    """Encode both splits once; the spooled latents live as long as the context.

    Raises:
        CoderError: it misbehaves; above all, a token's latents depend on other tokens.
    """
    trial = Trial.of(coder, next(iter(bench.source.blocks("calibration"))).given)
    trial.check()
    n_latents = coder.spec.d_latents
    scale = passes.quantiser_scale(coder, bench.mode)
    steps = passes.absolute_steps(bench.suite.steps, coder, bench.source, scale)
    with LatentSpool(n_latents) as calibration, LatentSpool(n_latents) as test:
        splits = [
            passes.encode_split(coder, bench.source, "calibration", calibration, scale, steps),
            passes.encode_split(coder, bench.source, "test", test, scale, steps),
        ]
        trial.check_again()
        yield Encoded(Sweep(coder, bench.source, bench.mode, steps, calibration, test), *splits)
