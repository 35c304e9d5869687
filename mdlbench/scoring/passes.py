"""Passes over a split: losses, symbol counts and samples from its activations and latents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes import codelength
from mdlbench.codes.latents import SparseLatents, concatenate
from mdlbench.codes.rates import Rates, flat_rates
from mdlbench.codes.symbols import FittedQuantiser, Symbols
from mdlbench.codes.tally import Tally
from mdlbench.errors import CoderError
from mdlbench.quantisers.modes import Mode
from mdlbench.scoring.spool import LatentSpool
from mdlbench.scoring.token_errors import errors_and_cosines, squared_errors
from mdlbench.sources.protocol import ActivationSource, Block, Split
from mdlbench.statistics.distortion import DistortionSums, ErrorSums, Reference, document_sums
from mdlbench.suite.suite import Steps

ROUNDED_TOKENS = 256
"""So many tokens are rounded at a time that they stay in a CPU's cache."""


class EncodedSplit(NamedTuple):
    """Facts from encoding a split, beside the spooled latents.

    Attributes:
        n_active: nonzero latents over all tokens, before quantisation.
        fired: which latents were active at least once.
        floor: losses of the unquantised reconstruction; zero for the calibration split.
    """

    n_active: int
    fired: Bool[np.ndarray, " latent"]
    floor: DistortionSums


def quantiser_scale(coder: SparseCoder, mode: Mode) -> Float32[np.ndarray, " latent"]:
    """Factor on each latent before rounding: 1 for `uniform`, otherwise ‖w_i‖ (maths §2)."""
    norms = coder.spec.decoder_norms
    return norms if mode.normalised else np.ones_like(norms)


def absolute_steps(
    steps: Steps,
    coder: SparseCoder,
    source: ActivationSource,
    scale: Float32[np.ndarray, " latent"],
) -> Steps:
    """The grid in the latents' own unit; a relative grid is scaled by their root mean square.

    The mean runs over active latents of the first calibration block and is rounded to three
    digits, so that rounding elsewhere does not move the grid.
    """
    if steps.unit == "absolute":
        return steps
    latents, _ = checked.encode(coder, next(iter(source.blocks("calibration"))).given)
    values = latents.scaled(scale).value.astype(np.float64)
    rms = float(f"{np.sqrt(np.mean(values**2)):.3g}") if len(values) else 0.0
    return Steps(finest=steps.finest * (rms or 1.0), octaves=steps.octaves)


def reference(source: ActivationSource) -> Reference:
    """Clean and ablated losses, variation and covariance of the test split; two passes."""
    n_documents = source.n_documents["test"]
    tokens, clean, ablated = (np.zeros(n_documents) for _ in range(3))
    total = torch.zeros(source.d_out, dtype=torch.float64, device=source.device)
    for block in source.blocks("test"):
        tokens += document_sums(np.ones(len(block.document)), block.document, n_documents)
        clean += document_sums(source.clean_ce(block), block.document, n_documents)
        ablated += document_sums(source.ablated_ce(block), block.document, n_documents)
        total += block.activations.sum(dim=0, dtype=torch.float64)
    mean = total / tokens.sum()
    scatter = torch.zeros(source.d_out, source.d_out, dtype=torch.float64, device=source.device)
    for block in source.blocks("test"):
        centred = block.activations.double() - mean
        scatter += centred.T @ centred
    eigenvalues = np.asarray(torch.linalg.eigvalsh(scatter / tokens.sum()).flip(0).cpu())
    return Reference(
        tokens=tokens,
        d=source.d_out,
        variation=float(scatter.trace()),
        clean_ce=clean,
        ablated_ce=ablated,
        eigenvalues=np.maximum(eigenvalues, 0.0),
    )


def encode_split(
    coder: SparseCoder,
    source: ActivationSource,
    split: Split,
    spool: LatentSpool,
    scale: Float32[np.ndarray, " latent"],
    steps: Steps,
) -> EncodedSplit:
    """Encode a split into the spool, scaled for the quantiser; decode the test split once.

    Values that round to zero at the finest step, and so at every step, are not kept.
    """
    n_active, fired = 0, np.zeros(coder.spec.d_latents, dtype=bool)
    floor = DistortionSums.zeros(source.n_documents["test"])
    for block in source.blocks(split):
        latents, side = checked.encode(coder, block.given)
        n_active += latents.nnz
        fired[latents.latent] = True
        spool.append(_audible(latents.scaled(scale), steps.finest), side, block.document)
        if split == "test":
            reconstruction = checked.decode(coder, latents, side, source.device)
            floor = floor + block_distortion(source, block, reconstruction)
    return EncodedSplit(n_active, fired, floor)


def quantised_distortion(
    coder: SparseCoder,
    source: ActivationSource,
    test: LatentSpool,
    scale: Float32[np.ndarray, " latent"],
    quantisers: Sequence[FittedQuantiser],
) -> list[DistortionSums]:
    """Losses of the test split by each quantiser, from one pass over its activations."""
    sums = [DistortionSums.zeros(source.n_documents["test"]) for _ in quantisers]
    for i, block, reconstruction in _reconstructions(coder, source, test, scale, quantisers):
        sums[i] = sums[i] + block_distortion(source, block, reconstruction)
    return sums


def quantised_errors(
    coder: SparseCoder,
    source: ActivationSource,
    test: LatentSpool,
    scale: Float32[np.ndarray, " latent"],
    quantiser: FittedQuantiser,
) -> ErrorSums:
    """Errors of the test split's reconstruction by a quantiser, which cost no splice."""
    n_documents = source.n_documents["test"]
    sums = ErrorSums.zeros(n_documents)
    for _, block, reconstruction in _reconstructions(coder, source, test, scale, [quantiser]):
        errors = _finite(*_errors(block, reconstruction))
        sums = sums + ErrorSums(*(document_sums(v, block.document, n_documents) for v in errors))
    return sums


def _reconstructions(
    coder: SparseCoder,
    source: ActivationSource,
    test: LatentSpool,
    scale: Float32[np.ndarray, " latent"],
    quantisers: Sequence[FittedQuantiser],
) -> Iterator[tuple[int, Block, Float[torch.Tensor, "token d_out"]]]:
    """Reconstructions of each block by each quantiser, with the quantiser's index."""
    inverse = reciprocal(scale)
    for block, run in zip(source.blocks("test"), test.runs(), strict=True):
        for i, quantiser in enumerate(quantisers):
            quantised = quantiser.values(quantiser.symbols(run.latents)).scaled(inverse)
            yield i, block, checked.decode(coder, quantised, run.side, source.device)


def block_distortion(
    source: ActivationSource, block: Block, reconstruction: Float[torch.Tensor, "token d"]
) -> DistortionSums:
    """Per-document losses of one block, zero for documents outside it."""
    loss = source.splice(block, reconstruction)
    per_token = _finite(*_errors(block, reconstruction), loss.ce, loss.kl)
    n_documents = source.n_documents["test"]
    return DistortionSums(*(document_sums(v, block.document, n_documents) for v in per_token))


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


def dyadic_rates(
    calibration: LatentSpool, test: LatentSpool, finest: float, octaves: int, n_documents: int
) -> list[Rates]:
    """Bits per token at every dyadic step from `finest` on, from one count of each split."""
    codebooks = codelength.fit_codebooks(count(calibration, finest, octaves))
    tally = count(test, finest, octaves)
    document_bits = np.zeros((n_documents, octaves))
    for run in test.runs():
        document_bits += codelength.document_bits(
            run.latents, finest, codebooks, run.document, n_documents
        )
    return [
        flat_rates(codebook, tally.at(j), tally.active_per_token(j), document_bits[:, j])
        for j, codebook in enumerate(codebooks)
    ]


def count(spool: LatentSpool, finest: float, octaves: int) -> Tally:
    """Symbol counts of a whole split at every dyadic step from `finest` on."""
    runs = (run.latents for run in spool.runs())
    return Tally.count_blocks(runs, finest, octaves, spool.n_latents)


def all_symbols(spool: LatentSpool, quantiser: FittedQuantiser) -> Symbols:
    """The symbols of a whole split as one run."""
    (symbols,) = symbols_in_parts(spool, quantiser)
    return symbols


def symbols_in_parts(
    spool: LatentSpool, quantiser: FittedQuantiser, at_least: float = math.inf
) -> Iterator[Symbols]:
    """The symbols of a split in parts of at least so many tokens; the last may be smaller."""
    part: list[SparseLatents] = []
    for run in spool.runs():
        part.append(run.latents)
        if sum(latents.n_tokens for latents in part) >= at_least:
            yield quantiser.symbols(concatenate(part))
            part = []
    if part:
        yield quantiser.symbols(concatenate(part))


def fixed_length_mse(
    source: ActivationSource, precisions: Sequence[int] = range(1, 9)
) -> list[tuple[int, float]]:
    """(n, MSE) when each dimension of the test split is sent as n bits over its calibration range.

    Levels are spaced evenly from the smallest to the largest calibration value of the dimension.
    """
    low = torch.full((source.d_out,), torch.inf, device=source.device)
    high = -low
    for block in source.blocks("calibration"):
        low = torch.minimum(low, block.activations.amin(dim=0))
        high = torch.maximum(high, block.activations.amax(dim=0))
    errors = np.zeros(len(precisions))
    for block in source.blocks("test"):
        parts = torch.split(block.activations, ROUNDED_TOKENS)
        for i, bits in enumerate(precisions):
            per_part = [squared_errors(x, _rounded(x, low, high, 2**bits - 1)) for x in parts]
            errors[i] += np.concatenate(per_part).sum()
    n_values = source.n_tokens["test"] * source.d_out
    return [(n, float(e / n_values)) for n, e in zip(precisions, errors, strict=True)]


def _rounded(
    x: Float[torch.Tensor, "token d"],
    low: Float[torch.Tensor, " d"],
    high: Float[torch.Tensor, " d"],
    largest: int,
) -> Float[torch.Tensor, "token d"]:
    """Every value at the nearest of `largest` + 1 levels from `low` to `high`."""
    spacing = ((high - low) / largest).clamp_min(torch.finfo(torch.float32).tiny)
    levels = (x - low).div_(spacing).round_().clamp_(0, largest)
    return levels.mul_(spacing).add_(low)


def _audible(latents: SparseLatents, finest: float) -> SparseLatents:
    keep = np.abs(latents.value) >= finest / 2
    return SparseLatents(
        latents.token[keep],
        latents.latent[keep],
        latents.value[keep],
        latents.n_tokens,
        latents.n_latents,
    )
