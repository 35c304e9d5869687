"""Rounds of a measurement: tasks over the ranges of a split, merged in the order of its blocks.

What comes out is the same, bit for bit, for any number of workers: counts are integers, losses are
sums per document, of which each lies in one block, and other sums are made pairwise over blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import chain, pairwise
from operator import add
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float32

from mdlbench.adapters.protocol import CoderSpec
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.codes.runs import Part, Runs
from mdlbench.codes.symbols import FittedQuantiser
from mdlbench.errors import WorkerError
from mdlbench.scoring.executor import Executor, Task
from mdlbench.scoring.spool import SpooledRun
from mdlbench.scoring.tasks import (
    CheckAgain,
    CheckIndependence,
    DescribeCoder,
    DescribeSource,
    Distort,
    Encode,
    EncodedRange,
    Extent,
    FindEigenvalues,
    HasWeights,
    MeasureExtent,
    MeasureFixedLength,
    MeasureLatents,
    MeasureScale,
    MeasureScatter,
    MeasureUntouched,
    Range,
    ReadDecoder,
    ReadMissing,
    ReadModelBits,
)
from mdlbench.scoring.worker import Encoding, Sae, Subject, quantiser_scale
from mdlbench.sources.protocol import SourceFacts, Split
from mdlbench.statistics.distortion import DistortionSums, Reference
from mdlbench.statistics.pairwise import pairwise_sum
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Steps

Found = TypeVar("Found")
PRECISIONS = tuple(range(1, 9))
"""Bits a value at which sending activations themselves is shown."""


@dataclass(frozen=True)
class Rounds:
    """Rounds over the activations at one site.

    Attributes:
        executor: who does them.
        source: what the activations are.
    """

    executor: Executor
    source: SourceFacts

    @classmethod
    def at(cls, executor: Executor, site: Site) -> Rounds:
        """Raises as opening the site's activations does, or where workers read other data."""
        first, *others = executor.run([DescribeSource(site) for _ in range(executor.n_workers)])
        for place, facts in enumerate(others, 2):
            if (difference := first.difference(facts)) is not None:
                raise WorkerError(
                    f"worker {place} of {executor.n_workers} reads other data than worker 1: "
                    f"{difference}; give all of them the same files"
                )
        return cls(executor, first)

    def one(self, task: Task[Found]) -> Found:
        """What one task finds."""
        return self.executor.run([task])[0]

    def over(self, split: Split, task: Callable[[Range], Task[Found]]) -> list[Found]:
        """What a task finds in each range of a split, in order."""
        return self.executor.run([task(range_) for range_ in self.ranges(split)])

    def ranges(self, split: Split) -> list[Range]:
        """A split in as many ranges as there are workers; the last block may be a short one."""
        n_blocks = self.source.n_blocks[split]
        ends = [n_blocks * i // self.executor.n_workers for i in range(self.executor.n_workers + 1)]
        return [Range(split, start, stop) for start, stop in pairwise(ends) if start < stop]

    @cached_property
    def reference(self) -> Reference:
        """Clean and ablated losses, variation and covariance of the test split; two passes."""
        site, d_out = self.source.site, self.source.d_out
        parts = self.over("test", lambda range_: MeasureUntouched(site, range_))
        tokens, clean, ablated, totals = zip(*parts, strict=True)
        n_tokens = np.sum(tokens, axis=0)
        mean = pairwise_sum(totals, np.zeros(d_out)) / n_tokens.sum()
        scatters = self.over("test", lambda range_: MeasureScatter(site, range_, mean))
        scatter = pairwise_sum(scatters, np.zeros((d_out, d_out)))
        eigenvalues = self.one(FindEigenvalues(scatter / n_tokens.sum()))
        return Reference(
            tokens=n_tokens,
            d=d_out,
            variation=float(np.trace(scatter)),
            clean_ce=np.sum(clean, axis=0),
            ablated_ce=np.sum(ablated, axis=0),
            eigenvalues=np.maximum(eigenvalues, 0.0),
        )

    def fixed_length_mse(self) -> list[tuple[int, float]]:
        """(n, MSE) when each dimension of the test split is sent as n bits over its range.

        Levels are spaced evenly from the smallest to the largest calibration value of the
        dimension.
        """
        site = self.source.site
        extents = self.over("calibration", lambda range_: MeasureExtent(site, range_))
        extent = Extent(
            np.min([part.low for part in extents], axis=0),
            np.max([part.high for part in extents], axis=0),
        )
        parts = self.over(
            "test", lambda range_: MeasureFixedLength(site, range_, extent, PRECISIONS)
        )
        n_values = self.source.n_tokens["test"] * self.source.d_out
        errors = sum(np.concatenate(parts), np.zeros(len(PRECISIONS)))
        return [(n, float(e / n_values)) for n, e in zip(PRECISIONS, errors, strict=True)]


@dataclass(frozen=True)
class CoderRounds:
    """Rounds over one SAE at a site.

    Attributes:
        rounds: over the site.
        subject: the SAE there.
        spec: what it is.
    """

    rounds: Rounds
    subject: Subject
    spec: CoderSpec

    @classmethod
    def of(cls, rounds: Rounds, sae: Sae) -> CoderRounds:
        """Raises as loading the SAE does."""
        subject = Subject(rounds.source.site, sae)
        return cls(rounds, subject, rounds.one(DescribeCoder(subject)))

    def check(self) -> None:
        """Raise `CoderError`, which says what to do, where latents depend on other tokens."""
        self.rounds.one(CheckIndependence(self.subject))

    def check_again(self) -> None:
        """Raise `CoderError` if the same tokens now have other latents."""
        self.rounds.one(CheckAgain(self.subject))

    def decoder_rows(self) -> Float32[np.ndarray, "latent d_out"]:
        return self.rounds.one(ReadDecoder(self.subject))

    def missing(self, n_tokens: int) -> Float32[np.ndarray, "token d_out"] | None:
        """What the SAE leaves of the first calibration tokens' activations (`ReadMissing`)."""
        return self.rounds.one(ReadMissing(self.subject, n_tokens))

    def has_weights(self) -> bool:
        """Whether the decoder can be rounded."""
        return self.rounds.one(HasWeights(self.subject))

    def model_bits(self, weight_bits: int | None) -> float | None:
        """Bits that the SAE's adapter says its decoder takes."""
        return self.rounds.one(ReadModelBits(self.subject, weight_bits))

    def absolute_steps(self, steps: Steps, normalised: bool) -> Steps:
        """The grid in the latents' own unit; a relative grid is scaled by `MeasureScale`."""
        if steps.unit == "absolute":
            return steps
        scale = self.rounds.one(MeasureScale(self.subject, normalised))
        return Steps(finest=steps.finest * (scale or 1.0), octaves=steps.octaves)


@dataclass(frozen=True)
class EncodedSplit:
    """Facts from encoding a split, beside the kept latents; see `EncodedRange`."""

    block_tokens: list[int]
    n_active: int
    fired: Bool[np.ndarray, " latent"]
    floor: DistortionSums

    @classmethod
    def merged(cls, parts: Sequence[EncodedRange]) -> EncodedSplit:
        block_tokens, n_active, fired, floor = zip(*parts, strict=True)
        return cls(
            list(chain.from_iterable(block_tokens)),
            sum(n_active),
            np.any(fired, axis=0),
            reduce(add, floor),
        )


@dataclass(frozen=True)
class LatentRounds:
    """Rounds over one SAE's kept latents.

    Attributes:
        coder: the SAE's own rounds.
        normalised: whether decoder norms are folded into the latents.
        finest: the finest step.
    """

    coder: CoderRounds
    normalised: bool
    finest: float

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.coder.subject, self.normalised, self.finest)

    @property
    def scale(self) -> Float32[np.ndarray, " latent"]:
        """The factor on each latent."""
        return quantiser_scale(self.coder.spec.decoder_norms, self.normalised)

    def encode(self, split: Split) -> EncodedSplit:
        """Encode a split; its latents are kept where they are made."""
        rounds = self.coder.rounds
        return EncodedSplit.merged(rounds.over(split, lambda range_: Encode(self.encoding, range_)))

    def runs(self, split: Split) -> Runs[SpooledRun]:
        """The kept latents of a split, wherever they lie."""

        def measured(measure: Callable[[Part[SpooledRun]], Found]) -> list[Found]:
            return self.coder.rounds.over(
                split, lambda range_: MeasureLatents(self.encoding, range_, measure)
            )

        return Runs(measured)

    def gathered(self, within: Range) -> SparseLatents:
        """The kept latents of some blocks, from wherever they lie, as one run."""
        rounds = self.coder.rounds
        tasks = [
            MeasureLatents(self.encoding, held.within(within), _together)
            for held in rounds.ranges(within.split)
        ]
        return concatenate([run for run in rounds.executor.run(tasks) if run is not None])

    def distortions(
        self,
        quantisers: Sequence[FittedQuantiser],
        spliced: bool = True,
        weight_bits: int | None = None,
    ) -> list[Any]:
        """Losses of the test split by each quantiser, from one pass over its activations.

        They are `DistortionSums`; without `spliced`, only `ErrorSums`. With `weight_bits`, the
        decoder is rounded to so many a weight.
        """
        parts = self.coder.rounds.over(
            "test",
            lambda range_: Distort(self.encoding, range_, quantisers, spliced, weight_bits),
        )
        return [reduce(add, sums) for sums in zip(*parts, strict=True)]


def _together(part: Part[SpooledRun]) -> SparseLatents | None:
    runs = [run.latents for run in part]
    return concatenate(runs) if runs else None
