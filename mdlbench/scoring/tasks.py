"""What workers are asked: each task names all that it needs, so that any worker can do it.

What a task finds over some blocks merges exactly with what others find over the rest of the split
(`mdlbench.scoring.rounds`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.protocol import CoderSpec, SparseCoder
from mdlbench.codes.runs import Part
from mdlbench.codes.symbols import FittedQuantiser
from mdlbench.errors import CoderError
from mdlbench.scoring.spool import SpooledRun
from mdlbench.scoring.token_errors import errors_and_cosines, squared_errors
from mdlbench.scoring.worker import Encoding, Subject, Worker, quantiser_scale
from mdlbench.sources.protocol import ActivationSource, Block, SourceFacts, Split
from mdlbench.statistics.distortion import DistortionSums, ErrorSums, document_sums
from mdlbench.statistics.pairwise import Node, partial_sums
from mdlbench.suite.site import Site

ROUNDED_TOKENS = 256
"""So many tokens are rounded at a time that they stay in a CPU's cache."""

SCALE_BLOCKS = 4
"""So many blocks decide the unit of a relative grid."""

Found = TypeVar("Found")
Dimensions = Float64[np.ndarray, " d_out"]


@dataclass(frozen=True)
class Range:
    """Consecutive blocks of a split."""

    split: Split
    start: int
    stop: int

    def within(self, other: Range) -> Range:
        """The blocks that are in both; an empty range where none is."""
        start = min(max(self.start, other.start), self.stop)
        return Range(self.split, start, max(start, min(self.stop, other.stop)))

    def blocks(self, source: ActivationSource) -> Iterator[Block]:
        return source.blocks(self.split, self.start, self.stop)


@dataclass(frozen=True)
class DescribeSource:
    """What the activations at a site are."""

    site: Site

    def __call__(self, worker: Worker) -> SourceFacts:
        return SourceFacts.of(worker.source(self.site))


class Untouched(NamedTuple):
    """What a range of the test split is without any SAE.

    Attributes:
        tokens, clean, ablated: of each document, zero for documents outside the range.
        total: the activations' sum per dimension, pairwise over blocks.
    """

    tokens: Float64[np.ndarray, " document"]
    clean: Float64[np.ndarray, " document"]
    ablated: Float64[np.ndarray, " document"]
    total: list[Node[Dimensions]]


@dataclass(frozen=True)
class MeasureUntouched:
    """Clean and ablated losses, and the activations' sum."""

    site: Site
    range: Range

    def __call__(self, worker: Worker) -> Untouched:
        source = worker.source(self.site)
        n_documents = source.n_documents["test"]
        tokens, clean, ablated = (np.zeros(n_documents) for _ in range(3))

        def totals() -> Iterator[Dimensions]:
            for block in self.range.blocks(source):
                for sums, per_token in (
                    (tokens, np.ones(len(block.document))),
                    (clean, source.clean_ce(block)),
                    (ablated, source.ablated_ce(block)),
                ):
                    sums += document_sums(per_token, block.document, n_documents)
                yield _numpy(block.activations.sum(dim=0, dtype=torch.float64))

        total = partial_sums(self.range.start, totals())
        return Untouched(tokens, clean, ablated, total)


@dataclass(frozen=True, eq=False)
class MeasureScatter:
    """Σ(x − x̄)(x − x̄)ᵀ, pairwise over blocks."""

    site: Site
    range: Range
    mean: Dimensions

    def __call__(self, worker: Worker) -> list[Node[Float64[np.ndarray, "d_out d_out"]]]:
        source = worker.source(self.site)
        mean = torch.from_numpy(self.mean).to(source.device)

        def scatter(block: Block) -> Float64[np.ndarray, "d_out d_out"]:
            centred = block.activations.double() - mean
            return _numpy(centred.T @ centred)

        return partial_sums(self.range.start, map(scatter, self.range.blocks(source)))


@dataclass(frozen=True, eq=False)
class FindEigenvalues:
    """Eigenvalues of a symmetric matrix, descending, as a worker's threads compute them."""

    matrix: Float64[np.ndarray, "d_out d_out"]

    def __call__(self, worker: Worker) -> Dimensions:
        return _numpy(torch.linalg.eigvalsh(torch.from_numpy(self.matrix)).flip(0))


class Extent(NamedTuple):
    """The smallest and the largest value of each dimension."""

    low: Float32[np.ndarray, " d_out"]
    high: Float32[np.ndarray, " d_out"]


@dataclass(frozen=True)
class MeasureExtent:
    """The range of values of each dimension."""

    site: Site
    range: Range

    def __call__(self, worker: Worker) -> Extent:
        low, high = [], []
        for block in self.range.blocks(worker.source(self.site)):
            low.append(_numpy(block.activations.amin(dim=0)))
            high.append(_numpy(block.activations.amax(dim=0)))
        return Extent(np.min(low, axis=0), np.max(high, axis=0))


@dataclass(frozen=True, eq=False)
class MeasureFixedLength:
    """Squared errors where each dimension is sent as n bits over an extent, block by block."""

    site: Site
    range: Range
    extent: Extent
    precisions: Sequence[int]

    def __call__(self, worker: Worker) -> Float64[np.ndarray, "block precision"]:
        source = worker.source(self.site)
        low, high = (torch.from_numpy(end).to(source.device) for end in self.extent)
        errors = [
            [_fixed_length_error(block.activations, low, high, bits) for bits in self.precisions]
            for block in self.range.blocks(source)
        ]
        return np.array(errors)


def _fixed_length_error(
    x: Float[torch.Tensor, "token d_out"],
    low: Float[torch.Tensor, " d_out"],
    high: Float[torch.Tensor, " d_out"],
    bits: int,
) -> float:
    parts = [
        squared_errors(part, _rounded(part, low, high, 2**bits - 1))
        for part in torch.split(x, ROUNDED_TOKENS)
    ]
    return float(np.concatenate(parts).sum())


def _rounded(
    x: Float[torch.Tensor, "token d_out"],
    low: Float[torch.Tensor, " d_out"],
    high: Float[torch.Tensor, " d_out"],
    largest: int,
) -> Float[torch.Tensor, "token d_out"]:
    """Every value at the nearest of `largest` + 1 levels from `low` to `high`."""
    spacing = ((high - low) / largest).clamp_min(torch.finfo(torch.float32).tiny)
    levels = (x - low).div_(spacing).round_().clamp_(0, largest)
    return levels.mul_(spacing).add_(low)


@dataclass(frozen=True)
class Identify:
    """Which SAE it is, found without loading it where its adapter can tell."""

    subject: Subject

    def __call__(self, worker: Worker) -> CoderIdentity:
        return worker.found(self.subject).identity


@dataclass(frozen=True)
class DescribeCoder:
    """What the SAE is."""

    subject: Subject

    def __call__(self, worker: Worker) -> CoderSpec:
        return worker.coder(self.subject).spec


@dataclass(frozen=True)
class ReadDecoder:
    """The SAE's decoder rows."""

    subject: Subject

    def __call__(self, worker: Worker) -> Float32[np.ndarray, "latent d_out"]:
        return np.asarray(checked.decoder_rows(worker.coder(self.subject)))


@dataclass(frozen=True)
class ReadMissing:
    """What the SAE leaves of the activations of the first calibration tokens.

    None where tokens have side information: their latents are in a scale of each token's own.
    """

    subject: Subject
    n_tokens: int

    def __call__(self, worker: Worker) -> Float32[np.ndarray, "token d_out"] | None:
        source, coder = worker.source(self.subject.site), worker.coder(self.subject)
        missing = [np.zeros((0, source.d_out), dtype=np.float32)]
        seen = 0
        for index in range(source.n_blocks("calibration")):
            if seen >= self.n_tokens:
                break
            for block in source.blocks("calibration", index, index + 1):
                latents, side = checked.encode(coder, block.given)
                if side.shape[1]:
                    return None
                reconstruction = checked.decode(coder, latents, side, source.device)
                missing.append((block.activations - reconstruction).float().cpu().numpy())
                seen += len(missing[-1])
        return np.concatenate(missing)[: self.n_tokens]


@dataclass(frozen=True)
class HasWeights:
    """Whether the SAE's decoder can be rounded."""

    subject: Subject

    def __call__(self, worker: Worker) -> bool:
        return checked.with_decoder_precision(worker.coder(self.subject), 8) is not None


@dataclass(frozen=True)
class ReadModelBits:
    """Bits that the SAE's adapter says its decoder takes, at a precision of its weights."""

    subject: Subject
    weight_bits: int | None

    def __call__(self, worker: Worker) -> float | None:
        return checked.model_bits(worker.coder(self.subject), self.weight_bits)


@dataclass(frozen=True)
class CheckIndependence:
    """A trial that a token's latents depend on it alone; raises `CoderError` otherwise."""

    subject: Subject

    def __call__(self, worker: Worker) -> None:
        worker.trial(self.subject).check()


@dataclass(frozen=True)
class CheckAgain:
    """The same tokens have the same latents after others; raises `CoderError` otherwise."""

    subject: Subject

    def __call__(self, worker: Worker) -> None:
        worker.trial(self.subject).check_again()


@dataclass(frozen=True)
class MeasureScale:
    """The root mean square of the active scaled latents of the first calibration blocks.

    It has three digits, so that rounding elsewhere does not move what is derived from it.
    """

    subject: Subject
    normalised: bool

    def __call__(self, worker: Worker) -> float:
        coder = worker.coder(self.subject)
        scale = quantiser_scale(coder.spec.decoder_norms, self.normalised)
        blocks = worker.source(self.subject.site).blocks("calibration", 0, SCALE_BLOCKS)
        latents = [checked.encode(coder, block.given)[0].scaled(scale) for block in blocks]
        values = np.concatenate([block.value for block in latents]).astype(np.float64)
        return float(f"{np.sqrt(np.mean(values**2)):.3g}") if len(values) else 0.0


class EncodedRange(NamedTuple):
    """Facts from encoding a range, beside the latents that are kept.

    Attributes:
        block_tokens: tokens of each block.
        n_active: nonzero latents over all tokens, before quantisation.
        fired: which latents were active at least once.
        floor: losses of the unquantised reconstruction; zero for the calibration split.
    """

    block_tokens: list[int]
    n_active: int
    fired: Bool[np.ndarray, " latent"]
    floor: DistortionSums


@dataclass(frozen=True)
class Encode:
    """Encode a range, keep its latents, and decode those of the test split once."""

    encoding: Encoding
    range: Range

    def __call__(self, worker: Worker) -> EncodedRange:
        subject, split = self.encoding.subject, self.range.split
        source, coder = worker.source(subject.site), worker.coder(subject)
        block_tokens: list[int] = []
        n_active, fired = 0, np.zeros(coder.spec.d_latents, dtype=bool)
        floor = DistortionSums.zeros(source.n_documents["test"])
        for block in self.range.blocks(source):
            latents, side = worker.encode(self.encoding, block, split)
            block_tokens.append(latents.n_tokens)
            n_active += latents.nnz
            fired[latents.latent] = True
            if split == "test":
                reconstruction = checked.decode(coder, latents, side, source.device)
                floor = floor + block_distortion(source, block, reconstruction)
        return EncodedRange(block_tokens, n_active, fired, floor)


@dataclass(frozen=True, eq=False)
class MeasureLatents(Generic[Found]):
    """Whatever a measurement finds in the kept latents of a range."""

    encoding: Encoding
    range: Range
    measure: Callable[[Part[SpooledRun]], Found]

    def __call__(self, worker: Worker) -> Found:
        split, start, stop = self.range.split, self.range.start, self.range.stop
        return self.measure(Part(start, worker.latents(self.encoding, split, start, stop)))


@dataclass(frozen=True, eq=False)
class Distort:
    """Losses of the test split by each quantiser, from one pass over its activations.

    A worker remembers those of quantisers that their step alone determines, as several modes may
    round so.

    Attributes:
        spliced: whether the losses are those of a splice; without, they are `ErrorSums`.
        weight_bits: bits a weight to which the decoder is rounded; None leaves it as it is.
    """

    encoding: Encoding
    range: Range
    quantisers: Sequence[FittedQuantiser]
    spliced: bool = True
    weight_bits: int | None = None

    def __call__(self, worker: Worker) -> list[Any]:
        encoding = self.encoding
        known = worker.remembered(encoding.subject)
        of = (encoding.normalised, encoding.finest, self.range, self.spliced, self.weight_bits)
        wanted = [one for one in dict.fromkeys(self.quantisers) if (*of, one) not in known]
        measured = self._measured(worker, wanted) if wanted else []
        found = dict(zip(wanted, measured, strict=True))
        known |= {(*of, one): sums for one, sums in found.items() if not one.columns}
        return [found[one] if one in found else known[*of, one] for one in self.quantisers]

    def _measured(self, worker: Worker, quantisers: Sequence[FittedQuantiser]) -> list[Any]:
        source = worker.source(self.encoding.subject.site)
        coder = self._coder(worker)
        norms = coder.spec.decoder_norms
        inverse = reciprocal(quantiser_scale(norms, self.encoding.normalised))
        measure = block_distortion if self.spliced else block_errors
        zero = (DistortionSums if self.spliced else ErrorSums).zeros(source.n_documents["test"])
        sums = [zero for _ in quantisers]
        kept = worker.latents(self.encoding, "test", self.range.start, self.range.stop)
        for block, run in zip(self.range.blocks(source), kept, strict=True):
            for i, quantiser in enumerate(quantisers):
                quantised = quantiser.values(quantiser.symbols(run.latents)).scaled(inverse)
                reconstruction = checked.decode(coder, quantised, run.side, source.device)
                sums[i] = sums[i] + measure(source, block, reconstruction)
        return sums

    def _coder(self, worker: Worker) -> SparseCoder:
        coder = worker.coder(self.encoding.subject)
        if self.weight_bits is None:
            return coder
        rounded = checked.with_decoder_precision(coder, self.weight_bits)
        if rounded is None:
            raise CoderError(f"{coder.spec.name}: its decoder has no weights to round")
        return rounded


def block_distortion(
    source: ActivationSource, block: Block, reconstruction: Float[torch.Tensor, "token d"]
) -> DistortionSums:
    """Per-document losses of one block, zero for documents outside it."""
    loss = source.splice(block, reconstruction)
    per_token = _finite(*_errors(block, reconstruction), loss.ce, loss.kl)
    n_documents = source.n_documents["test"]
    return DistortionSums(*(document_sums(v, block.document, n_documents) for v in per_token))


def block_errors(
    source: ActivationSource, block: Block, reconstruction: Float[torch.Tensor, "token d"]
) -> ErrorSums:
    """Per-document errors of one block, which cost no splice."""
    per_token = _finite(*_errors(block, reconstruction))
    n_documents = source.n_documents["test"]
    return ErrorSums(*(document_sums(v, block.document, n_documents) for v in per_token))


def _errors(
    block: Block, reconstruction: Float[torch.Tensor, "token d"]
) -> tuple[Float64[np.ndarray, " token"], Float64[np.ndarray, " token"]]:
    return errors_and_cosines(block.activations, block.norms, reconstruction)


def _finite(*per_token: Float64[np.ndarray, " token"]) -> tuple[np.ndarray, ...]:
    if not all(np.isfinite(values).all() for values in per_token):
        raise CoderError("decode returned NaN, infinite or too large values")
    return per_token


def reciprocal(scale: Float32[np.ndarray, " latent"]) -> Float32[np.ndarray, " latent"]:
    """1 / scale, and 0 where that is 0."""
    inverse = np.zeros_like(scale)
    np.divide(1.0, scale, out=inverse, where=scale > 0)
    return inverse


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu())
