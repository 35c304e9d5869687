"""What a mode's file holds, and what it is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int32

from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import Code
from mdlbench.codes.runs import Runs
from mdlbench.codes.symbols import FittedQuantiser, Reconstruction
from mdlbench.quantisers.trial import SAMPLE_TOKENS, Trial


@dataclass(frozen=True)
class Calibration:
    """What a mode is fitted on.

    Attributes:
        runs: the calibration tokens' latents, scaled.
        directions: what one unit of each scaled latent adds to the reconstruction, when asked for.
        n_latents: dictionary size D.
        finest: the suite's finest step.
        parents: the SAE's own forest, if it has one.
        missing: what the unquantised latents of the first so many tokens, or of all if there are
            fewer, leave of the activations, when asked for; None where latents are not in the
            activations' own scale.
    """

    runs: Runs[SparseLatents]
    directions: Callable[[], Float32[np.ndarray, "latent d_out"]]
    n_latents: int
    finest: float
    parents: Int32[np.ndarray, " latent"] | None
    missing: Callable[[int], Float32[np.ndarray, "token d_out"] | None] = lambda n_tokens: None

    @cached_property
    def trial(self) -> Trial:
        """On which quantisers are compared by their whole error, that of the SAE included."""
        missing = self.missing(SAMPLE_TOKENS)
        return Trial(self.runs, self.directions(), self.finest, missing=missing)


@dataclass(frozen=True)
class Machinery:
    """How latents become symbols and symbols bits, at any step: `MACHINERY` of a mode's file.

    Attributes:
        fit: the quantiser at a step, fitted on calibration tokens.
        reconstruction: what a file's step and integers say, for so many latents; raises
            `UsageError` where they say nothing.
        code: fitted on the symbols of calibration tokens.
    """

    fit: Callable[[Calibration, float], FittedQuantiser]
    reconstruction: Callable[[float, Mapping[str, list[int]], int], Reconstruction]
    code: type[Code]
