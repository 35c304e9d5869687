"""Whether what a record says of the SAE follows from its points."""

from __future__ import annotations

import base64
import binascii
import io
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from mdlbench.codes import codelength
from mdlbench.records.checks.approx import same
from mdlbench.records.record import (
    CoderFacts,
    EvalRecord,
    LatentProfile,
    OperatingPoint,
    Pictures,
    TruthFacts,
    TruthScores,
    operating_point,
    profile_ranks,
)
from mdlbench.suite.suite import Suite

LARGEST_PICTURES = 1 << 18
"""The most bytes of a PNG."""


def problems(record: EvalRecord, suite: Suite) -> Iterator[str]:
    audited = _audited(record, suite)
    coded = [point for point in record.points if point.bits.coded is not None]
    if coded != [audited]:
        yield "the audited point is not the headline's"
    yield from _of_coder(record, audited)
    if (record.latents is None) != (record.coder.d_latents == 0):
        yield "latents: an SAE with latents has a profile, and one without has none"
    elif record.latents is not None:
        yield from _of_profile(record, record.latents, audited)
    knows = suite.source.knows_features and record.coder.d_latents > 0
    if (record.truth is not None) != knows:
        yield "truth: is there where the suite knows its features and the SAE has latents, only"
    elif record.truth is not None:
        yield from _of_truth(record.truth, record.coder.d_latents)


def _of_truth(truth: TruthFacts, n_latents: int) -> Iterator[str]:
    for name, scores in (("truth", truth), ("truth.null", truth.null)):
        values = [getattr(scores, key) for key in TruthScores.model_fields]
        if not all(0 <= value <= 1 + 1e-9 for value in values):
            yield f"{name}: a score is not between 0 and 1"
        if scores.f1 > (scores.precision + scores.recall) / 2 + 1e-9:
            yield f"{name}.f1 is above the mean of precision and recall"
        unique = scores.uniqueness * n_latents
        if abs(unique - round(unique)) > 1e-6 or unique > truth.features:
            yield f"{name}.uniqueness is not a share of the latents, or there are fewer features"


def _audited(record: EvalRecord, suite: Suite) -> OperatingPoint:
    """The point at the headline's step, else at the first tolerance met, else the finest."""
    headline = (suite.headline.metric, suite.headline.epsilon)
    met = [result for result in record.tolerances if result.feasible]
    met.sort(key=lambda result: (result.metric, result.epsilon) != headline)
    point = operating_point(record, met[0]) if met else None
    return point or record.points[0]


def _of_coder(record: EvalRecord, audited: OperatingPoint) -> Iterator[str]:
    coder = record.coder
    live = coder.d_latents * (1 - coder.dead_fraction)
    if abs(live - round(live)) > 1e-6:
        yield "coder.dead_fraction is not a share of its latents"
    if coder.d_in != coder.d_out and record.site.hook_out is None:
        yield "coder: d_in and d_out differ, but it is no transcoder"
    if not record.points[0].l0 * (1 - 1e-9) <= coder.l0 <= coder.d_latents:
        yield "coder.l0 is below the points', or above the number of latents"
    if not _is_decoder(coder, round(live)):
        yield "coder.decoder_bits is not (live rows · d + d) · decoder_weight_bits, or model_bits"
    if coder.codebook_bits is not None and coder.codebook_bits < (audited.header_bits or 0):
        yield "coder.codebook_bits is less than the audited point's header_bits"
    if not _breaks_even(record, audited):
        yield "coder.break_even_tokens is not (decoder + codebook) / bits per token"


def _is_decoder(coder: CoderFacts, live_rows: int) -> bool:
    if coder.model_bits is not None:
        return coder.decoder_bits == coder.model_bits >= 0
    if coder.decoder_bits is None or coder.decoder_weight_bits is None:
        return coder.decoder_bits is coder.decoder_weight_bits
    bits = codelength.decoder_bits(live_rows, coder.d_out, coder.decoder_weight_bits)
    return same(bits, coder.decoder_bits)


def _breaks_even(record: EvalRecord, audited: OperatingPoint) -> bool:
    coder, rate = record.coder, audited.bits.total
    if coder.decoder_bits is None or coder.codebook_bits is None or not rate > 0:
        return coder.break_even_tokens is None
    expected = codelength.break_even_tokens(coder.decoder_bits + coder.codebook_bits, rate)
    return coder.break_even_tokens is not None and same(coder.break_even_tokens, expected)


def _of_profile(
    record: EvalRecord, profile: LatentProfile, audited: OperatingPoint
) -> Iterator[str]:
    columns = (profile.firing_rates, profile.bits, profile.cumulative_bits)
    ranks = profile_ranks(record.coder.d_latents).tolist()
    if profile.ranks != ranks or any(len(column) != len(ranks) for column in columns):
        yield "latents.ranks do not fit the number of latents"
        return
    if profile.step != audited.step:
        yield "latents.step is not the audited step"
    if not same(profile.cumulative_bits[-1], audited.bits.heldout):
        yield "latents.cumulative_bits do not end at heldout"
    if not _adds_up(ranks, profile.bits, np.diff(profile.cumulative_bits, prepend=0.0)):
        yield "latents.bits do not fall from rank to rank, or do not add up"
    if not 0 <= profile.firing_rates[0] <= 1 or not _may_sum_to(
        ranks, profile.firing_rates, audited.l0
    ):
        yield "latents.firing_rates do not fall from rank to rank, or do not add up to L0"
    if profile.pictures is not None:
        yield from _of_pictures(profile.pictures, record.coder.d_latents)


def _adds_up(ranks: Sequence[int], values: Sequence[float], sums: np.ndarray) -> bool:
    """Whether falling values at some ranks can have these sums from one rank to the next."""
    gaps, column = np.diff(ranks, prepend=0), np.array(values)
    before = np.concatenate([column[:1], column[:-1]])
    slack = 1e-9 * (1 + np.abs(sums).max())
    falls = (column >= -1e-12).all() and (before >= column).all()
    return bool(
        falls and (sums >= gaps * column - slack).all() and (sums <= gaps * before + slack).all()
    )


def _may_sum_to(ranks: Sequence[int], values: Sequence[float], total: float) -> bool:
    """Whether falling values, known at some ranks, can sum to this."""
    if any(b > a for a, b in itertools.pairwise(values)) or values[-1] < 0:
        return False
    gaps, column = np.diff(ranks, prepend=0), np.array(values)
    before = np.concatenate([column[:1], column[:-1]])
    least, most = float(gaps @ column), float(gaps @ before)
    return least * (1 - 1e-9) <= total <= most * (1 + 1e-9)


def _of_pictures(pictures: Pictures, n_latents: int) -> Iterator[str]:
    from PIL.Image import DecompressionBombError

    shown = pictures.latents
    if len(set(shown)) != len(shown) or not all(0 <= latent < n_latents for latent in shown):
        yield "latents.pictures: not distinct latents"
    try:
        data = base64.b64decode(pictures.png, validate=True)
        readable = len(data) <= LARGEST_PICTURES and _is_small_png(data)
    except (binascii.Error, ValueError, OSError, SyntaxError, DecompressionBombError):
        readable = False
    if not readable:
        yield "latents.pictures: not a small PNG"


def _is_small_png(data: bytes) -> bool:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        small = image.width * image.height <= 1 << 20
        if small:
            image.verify()
        return small
