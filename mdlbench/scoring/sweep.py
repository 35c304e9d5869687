"""One SAE's rate and distortion as the step varies, each measured at most once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from operator import attrgetter

import numpy as np
from jaxtyping import Float32, Float64

from mdlbench.adapters.protocol import CoderSpec
from mdlbench.codes import codelength
from mdlbench.codes.codelength import Codebook
from mdlbench.codes.latents import SparseLatents
from mdlbench.codes.rates import Code, DocumentSymbols, Rates, flat_rates
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import FittedQuantiser
from mdlbench.codes.tally import Tally
from mdlbench.quantisers.modes import Mode
from mdlbench.quantisers.protocol import Calibration
from mdlbench.scoring.rounds import LatentRounds
from mdlbench.scoring.spool import SpooledRun
from mdlbench.scoring.tasks import reciprocal
from mdlbench.sources.protocol import SourceFacts, Split
from mdlbench.statistics.distortion import DistortionSums, ErrorSums
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, position_of, step_at
from mdlbench.suite.suite import Steps


class Sweep:
    """Rate and distortion of one SAE as the step varies, each measured at most once.

    A step is named by its position p on the refined grid: finest·2^(p/20), see `tolerance`.
    """

    def __init__(self, latents: LatentRounds, mode: Mode, steps: Steps) -> None:
        self.latents, self.mode = latents, mode
        self.finest = steps.finest
        self.dyadic = [octave * STEPS_PER_OCTAVE for octave in range(steps.octaves)]
        self._distortions: dict[int, DistortionSums] = {}
        self._errors: dict[int, ErrorSums] = {}
        self._rates: dict[int, Rates] = {}
        self._quantisers: dict[int, FittedQuantiser] = {}

    @property
    def spec(self) -> CoderSpec:
        """What the SAE is."""
        return self.latents.coder.spec

    @property
    def source(self) -> SourceFacts:
        return self.latents.coder.rounds.source

    def runs(self, split: Split) -> Runs[SparseLatents]:
        """The scaled latents of a split."""
        return self.latents.runs(split).each(attrgetter("latents"))

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
        return Calibration(
            runs=self.runs("calibration"),
            directions=self._directions,
            n_latents=self.spec.d_latents,
            finest=self.finest,
            parents=self.spec.parents,
            missing=self.latents.coder.missing,
        )

    def _directions(self) -> Float32[np.ndarray, "latent d_out"]:
        rows = self.latents.coder.decoder_rows() * reciprocal(self.latents.scale)[:, None]
        return np.asarray(rows)

    def code(self, quantiser: FittedQuantiser) -> Code:
        """The mode's code of a quantiser's symbols, fitted on the calibration split."""
        symbols = self.runs("calibration").each(quantiser.symbols)
        return self.mode.machinery.code.fit(symbols, self.spec.d_latents, self.spec.parents)

    def distortion(self, position: int) -> DistortionSums:
        if position not in self._distortions:
            wanted = self.dyadic if position in self.dyadic else [position]
            sums = self.latents.distortions([self.quantiser(p) for p in wanted])
            self._distortions.update(zip(wanted, sums, strict=True))
        return self._distortions[position]

    def errors(self, position: int) -> ErrorSums:
        """The part of `distortion` that costs no splice."""
        if position in self.dyadic or position in self._distortions:
            return self.distortion(position)
        if position not in self._errors:
            (sums,) = self.latents.distortions([self.quantiser(position)], spliced=False)
            self._errors[position] = sums
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
        """Price dyadic steps from the first on, from one count of each split (maths §4)."""
        finest, octaves = self.step(positions[0]), len(positions)
        n_latents, n_documents = self.spec.d_latents, self.source.n_documents["test"]
        calibration = Tally.of_runs(self.runs("calibration"), finest, octaves, n_latents)
        codebooks = codelength.fit_codebooks(calibration)
        tally = Tally.of_runs(self.runs("test"), finest, octaves, n_latents)
        price = partial(_document_bits, finest, codebooks, n_documents)
        bits = np.sum(self.latents.runs("test").map(price), axis=0)
        for octave, position in enumerate(positions):
            self._rates[position] = flat_rates(
                codebooks[octave],
                tally.at(octave),
                tally.active_per_token(octave),
                bits[:, octave],
            )

    def _priced_alone(self, position: int) -> Rates:
        quantiser = self.quantiser(position)
        runs = self.latents.runs("test").each(partial(_document_symbols, quantiser))
        return self.code(quantiser).rates(runs, self.source.n_documents["test"])

    def price_grid(self, also: Sequence[float] = ()) -> None:
        """Measure the rate of every dyadic step, and of other steps of the refined grid."""
        for position in [*self.dyadic, *(position_of(self.finest, step) for step in also)]:
            self.rates(position)

    def priced(self) -> list[int]:
        """Positions whose rate was measured, from the finest step to the coarsest."""
        return sorted(self._rates)

    @cached_property
    def has_weights(self) -> bool:
        """Whether the decoder can be rounded."""
        return self.latents.coder.has_weights()

    def at_precision(self, position: int, weight_bits: int, spliced: bool) -> ErrorSums:
        """Losses with the decoder rounded to `weight_bits` a weight; only where it has weights.

        Without `spliced`, they are only `ErrorSums`.
        """
        sums: ErrorSums
        (sums,) = self.latents.distortions([self.quantiser(position)], spliced, weight_bits)
        return sums


def _document_symbols(quantiser: FittedQuantiser, run: SpooledRun) -> DocumentSymbols:
    return quantiser.symbols(run.latents), run.document


def _document_bits(
    finest: float, codebooks: Sequence[Codebook], n_documents: int, part: Part[SpooledRun]
) -> Float64[np.ndarray, "document octave"]:
    bits = np.zeros((n_documents, len(codebooks)))
    for run in part:
        bits += codelength.document_bits(run.latents, finest, codebooks, run.document, n_documents)
    return bits
