"""An SAE whose latents of both splits are kept, ready to be quantised at any step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mdlbench.scoring.bench import Bench
from mdlbench.scoring.rounds import CoderRounds, EncodedSplit, LatentRounds
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.worker import Sae


@dataclass(frozen=True)
class Encoded:
    """An SAE whose latents of both splits are kept, ready to be quantised at any step."""

    sweep: Sweep
    calibration: EncodedSplit
    test: EncodedSplit


@contextmanager
def encoded(bench: Bench, sae: Sae) -> Iterator[Encoded]:
    """Encode both splits once; the latents are kept as long as the context.

    Raises:
        CheckpointError: the SAE cannot be loaded.
        CoderError: it misbehaves; above all, a token's latents depend on other tokens.
    """
    coder = CoderRounds.of(bench.rounds, sae)
    coder.check()
    steps = coder.absolute_steps(bench.suite.steps, bench.mode.normalised)
    latents = LatentRounds(coder, bench.mode.normalised, steps.finest)
    try:
        splits = [latents.encode("calibration"), latents.encode("test")]
        coder.check_again()
        yield Encoded(Sweep(latents, bench.mode, steps), *splits)
    finally:
        bench.rounds.executor.forget_latents()
