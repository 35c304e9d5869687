"""One SAE's rate and distortion as the step varies, each measured at most once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes.rates import Code, Rates
from mdlbench.codes.symbols import FittedQuantiser, Symbols
from mdlbench.errors import CoderError
from mdlbench.quantisers.modes import Mode
from mdlbench.quantisers.protocol import Calibration
from mdlbench.scoring.passes import (
    dyadic_rates,
    quantised_distortion,
    quantised_errors,
    quantiser_scale,
    reciprocal,
)
from mdlbench.scoring.spool import LatentSpool
from mdlbench.sources.protocol import ActivationSource
from mdlbench.statistics.distortion import (
    DistortionSums,
    ErrorSums,
)
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, position_of, step_at
from mdlbench.suite.suite import Steps


class Sweep:
    """Rate and distortion of one SAE as the step varies, each measured at most once.

    A step is named by its position p on the refined grid: finest·2^(p/20), see `tolerance`.
    """

    def __init__(
        self,
        coder: SparseCoder,
        source: ActivationSource,
        mode: Mode,
        steps: Steps,
        calibration: LatentSpool,
        test: LatentSpool,
    ) -> None:
        self.coder, self.source, self.mode = coder, source, mode
        self.scale = quantiser_scale(coder, mode)
        self.calibration, self.test = calibration, test
        self.finest = steps.finest
        self.dyadic = [octave * STEPS_PER_OCTAVE for octave in range(steps.octaves)]
        self._distortions: dict[int, DistortionSums] = {}
        self._errors: dict[int, ErrorSums] = {}
        self._rates: dict[int, Rates] = {}
        self._quantisers: dict[int, FittedQuantiser] = {}

    def step(self, position: int) -> float:
        return step_at(self.finest, position)

    def quantiser(self, position: int) -> FittedQuantiser:
        if position not in self._quantisers:
            self._quantisers[position] = self.quantiser_at(self.step(position))
        return self._quantisers[position]

    def quantiser_at(self, step: float) -> FittedQuantiser:
        """The mode's quantiser at any step, fitted on the calibration split."""
        return self.mode.machinery.fit(self._fitted_on, step)

    @cached_property
    def _fitted_on(self) -> Calibration:
        spool = self.calibration
        return Calibration(
            runs=lambda: (run.latents for run in spool.runs()),
            directions=self._directions,
            n_latents=spool.n_latents,
            finest=self.finest,
            parents=self.coder.spec.parents,
        )

    def _directions(self) -> Float32[np.ndarray, "latent d_out"]:
        rows = checked.decoder_rows(self.coder) * reciprocal(self.scale)[:, None]
        return np.asarray(rows)

    def code(self, quantiser: FittedQuantiser) -> Code:
        """The mode's code of a quantiser's symbols, fitted on the calibration split."""

        def symbols() -> Iterator[Symbols]:
            return (quantiser.symbols(run.latents) for run in self.calibration.runs())

        spool = self.calibration
        return self.mode.machinery.code.fit(symbols, spool.n_latents, self.coder.spec.parents)

    def distortion(self, position: int) -> DistortionSums:
        if position not in self._distortions:
            wanted = self.dyadic if position in self.dyadic else [position]
            quantisers = [self.quantiser(p) for p in wanted]
            sums = quantised_distortion(self.coder, self.source, self.test, self.scale, quantisers)
            self._distortions.update(zip(wanted, sums, strict=True))
        return self._distortions[position]

    def errors(self, position: int) -> ErrorSums:
        """The part of `distortion` that costs no splice."""
        if position in self.dyadic or position in self._distortions:
            return self.distortion(position)
        if position not in self._errors:
            self._errors[position] = quantised_errors(
                self.coder, self.source, self.test, self.scale, self.quantiser(position)
            )
        return self._errors[position]

    def header_bits(self, position: int) -> float:
        """What a decoder must be told once beside step and codebook."""
        return self.quantiser(position).header_bits + self.rates(position).header_bits

    def rates(self, position: int) -> Rates:
        if position not in self._rates:
            if self.mode.one_count:
                self._price_at_once(self.dyadic if position in self.dyadic else [position])
            else:
                self._rates[position] = self._priced_alone(position)
        return self._rates[position]

    def _price_at_once(self, positions: list[int]) -> None:
        n_documents, finest = self.source.n_documents["test"], self.step(positions[0])
        measured = dyadic_rates(self.calibration, self.test, finest, len(positions), n_documents)
        self._rates.update(zip(positions, measured, strict=True))

    def _priced_alone(self, position: int) -> Rates:
        quantiser = self.quantiser(position)
        runs = ((quantiser.symbols(run.latents), run.document) for run in self.test.runs())
        return self.code(quantiser).rates(runs, self.source.n_documents["test"])

    def price_grid(self, also: Sequence[float] = ()) -> None:
        """Measure the rate of every dyadic step, and of other steps of the refined grid."""
        for position in [*self.dyadic, *(position_of(self.finest, step) for step in also)]:
            self.rates(position)

    def priced(self) -> list[int]:
        """Positions whose rate was measured, from the finest step to the coarsest."""
        return sorted(self._rates)

    @property
    def has_weights(self) -> bool:
        """Whether the decoder can be rounded."""
        return checked.with_decoder_precision(self.coder, 8) is not None

    def at_precision(self, position: int, weight_bits: int, spliced: bool) -> ErrorSums:
        """Losses with the decoder rounded to `weight_bits` a weight; only where it has weights.

        Without `spliced`, they are only `ErrorSums`.
        """
        rounded = checked.with_decoder_precision(self.coder, weight_bits)
        if rounded is None:
            raise CoderError(f"{self.coder.spec.name}: its decoder has no weights to round")
        quantiser = self.quantiser(position)
        if not spliced:
            return quantised_errors(rounded, self.source, self.test, self.scale, quantiser)
        return quantised_distortion(rounded, self.source, self.test, self.scale, [quantiser])[0]
