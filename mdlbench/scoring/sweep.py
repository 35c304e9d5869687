"""One SAE's rate and distortion as the step varies, each measured at most once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from mdlbench.codes.tally import Grid, Tally
from mdlbench.quantisers.modes import Mode
from mdlbench.quantisers.protocol import Calibration
from mdlbench.scoring.rounds import LatentRounds
from mdlbench.scoring.spool import SpooledRun
from mdlbench.scoring.tasks import reciprocal
from mdlbench.sources.protocol import SourceFacts, Split
from mdlbench.statistics.distortion import DistortionSums, ErrorSums
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, dyadic_positions, step_at
from mdlbench.suite.suite import Steps


class Sweep:
    """Rate and distortion of one SAE as the step varies, each measured at most once.

    A step is named by its position p on the refined grid: finest·2^(p/8), see `tolerance`.
    """

    def __init__(self, latents: LatentRounds, mode: Mode, steps: Steps) -> None:
        self.latents, self.mode = latents, mode
        self.finest = steps.finest
        self.dyadic = dyadic_positions(steps.octaves)
        self._distortions: dict[int, DistortionSums] = {}
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

    def measured(self) -> list[int]:
        """Positions whose distortion was measured, from the finest step to the coarsest."""
        return sorted(self._distortions)

    def measure(self, positions: Iterable[int]) -> None:
        """Measure the distortion of those positions that it is not known of, in one pass."""
        wanted = [position for position in positions if position not in self._distortions]
        if wanted:
            sums = self.latents.distortions([self.quantiser(p) for p in wanted])
            self._distortions.update(zip(wanted, sums, strict=True))

    def distortion(self, position: int) -> DistortionSums:
        self.measure([position])
        return self._distortions[position]

    def header_bits(self, position: int) -> float:
        """What a decoder must be told once beside step and codebook."""
        return self.quantiser(position).header_bits + self.rates(position).header_bits

    def rates(self, position: int) -> Rates:
        self.price([position])
        return self._rates[position]

    def price(self, positions: Iterable[int]) -> None:
        """Measure the rate of those positions that it is not known of."""
        wanted = [position for position in positions if position not in self._rates]
        if wanted and self.mode.one_count:
            self._rates.update(self._priced_together(wanted))
        for position in wanted:
            if position not in self._rates:
                self._rates[position] = self._priced_alone(position)

    def _priced_together(self, positions: list[int]) -> dict[int, Rates]:
        """Rates of several steps from one count of each split (maths §4)."""
        grids = [Grid(self.step(run[0]), len(run)) for run in _octaves_apart(positions)]
        n_latents, n_documents = self.spec.d_latents, self.source.n_documents["test"]
        calibration = Tally.of_grids(self.runs("calibration"), grids, n_latents)
        codebooks = [codelength.fit_codebooks(tally) for tally in calibration]
        tallies = Tally.of_grids(self.runs("test"), grids, n_latents)
        price = partial(_document_bits, grids, codebooks, n_documents)
        parts = self.latents.runs("test").map(price)
        bits = [np.sum(found, axis=0) for found in zip(*parts, strict=True)]
        return {
            position: flat_rates(
                codebooks[i][octave],
                tallies[i].at(octave),
                tallies[i].active_per_token(octave),
                bits[i][:, octave],
            )
            for i, run in enumerate(_octaves_apart(positions))
            for octave, position in enumerate(run)
        }

    def _priced_alone(self, position: int) -> Rates:
        quantiser = self.quantiser(position)
        runs = self.latents.runs("test").each(partial(_document_symbols, quantiser))
        return self.code(quantiser).rates(runs, self.source.n_documents["test"])

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


def _octaves_apart(positions: Iterable[int]) -> list[list[int]]:
    """The positions in runs of whole octaves, each of which one count serves."""
    runs: list[list[int]] = []
    for position in sorted(positions):
        run = next((run for run in runs if position == run[-1] + STEPS_PER_OCTAVE), None)
        if run is None:
            runs.append([position])
        else:
            run.append(position)
    return runs


def _document_bits(
    grids: Sequence[Grid],
    codebooks: Sequence[Sequence[Codebook]],
    n_documents: int,
    part: Part[SpooledRun],
) -> list[Float64[np.ndarray, "document octave"]]:
    bits = [np.zeros((n_documents, grid.octaves)) for grid in grids]
    for run in part:
        for total, grid, books in zip(bits, grids, codebooks, strict=True):
            total += codelength.document_bits(
                run.latents, grid.finest, books, run.document, n_documents
            )
    return bits
