"""The model part: how many bits a decoder needs, and what else an SAE is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool

from mdlbench.codes import codelength
from mdlbench.records.record import CoderFacts
from mdlbench.scoring.audit import Audit
from mdlbench.scoring.encoded import Encoded
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.rounds import CoderRounds
from mdlbench.scoring.search import Limit, headline_limit
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.distortion import ErrorSums
from mdlbench.statistics.metrics import metric_of

USUAL_WEIGHT_BITS = 8
"""Where the search for a decoder's precision begins, unless something tells more."""
FEWEST_WEIGHT_BITS, LARGEST_WEIGHT_BITS = 2, 17
"""Where it ends: a weight that needs more bits is sent as float32."""


def coder_facts(
    resampled: Resampled, run: Encoded, limits: list[Limit], audit: Audit
) -> CoderFacts:
    """What the SAE is, how it behaves before quantisation, and what its model part costs."""
    bench, spec = resampled.bench, run.sweep.spec
    n_test = bench.source.n_tokens["test"]
    alive: Bool[np.ndarray, " latent"] = run.calibration.fired | run.test.fired
    weight_bits = decoder_weight_bits(resampled, headline_limit(bench, limits))
    model = model_part(run.sweep.latents.coder, alive, weight_bits)
    bits_per_token = run.sweep.rates(audit.position).heldout + spec.side_bits
    return CoderFacts(
        d_in=spec.d_in,
        d_out=spec.d_out,
        d_latents=spec.d_latents,
        architecture=spec.architecture,
        hook=spec.hook,
        l0=run.test.n_active / n_test,
        dead_fraction=float(1 - alive.mean()) if len(alive) else 0.0,
        decoder_weight_bits=weight_bits,
        decoder_bits=model,
        model_bits=None if spec.model_bits is None and spec.row_widths is None else model,
        codebook_bits=audit.codebook_bits,
        break_even_tokens=(
            codelength.break_even_tokens(model + audit.codebook_bits, bits_per_token)
            if model is not None and bits_per_token > 0
            else None
        ),
        details=spec.details,
    )


def model_part(
    coder: CoderRounds, alive: Bool[np.ndarray, " latent"], weight_bits: int | None
) -> float | None:
    """Bits to send the decoder once, at a precision of its weights (maths §3).

    Those of the live latents' rows and the bias, unless the SAE's adapter says what its decoder
    takes. None where there is no such precision, and the adapter gives no number that does without.
    """
    spec = coder.spec
    if spec.model_bits is not None:
        return coder.model_bits(weight_bits)
    if weight_bits is None:
        return None
    if spec.row_widths is not None:
        return (int(spec.row_widths[alive].sum()) + spec.d_out) * weight_bits
    return codelength.decoder_bits(int(alive.sum()), spec.d_out, weight_bits)


def decoder_weight_bits(resampled: Resampled, limit: Limit | None) -> int | None:
    """The coarsest bits per decoder weight at which the SAE's step still meets the tolerance.

    The search goes bit by bit, from the usual precision or, where each step of it takes a splice,
    from the one that squared errors let expect. None where no tolerance is met, the decoder has no
    weights to round, or its price is one number whatever their precision.
    """
    bench, sweep = resampled.bench, resampled.sweep
    model_bits = sweep.spec.model_bits
    is_fixed = model_bits is not None and not callable(model_bits)
    if limit is None or limit.search.position is None or is_fixed or not sweep.has_weights:
        return None
    position, spliced = limit.search.position, metric_of(limit.metric).spliced
    start = likely_weight_bits(resampled, limit, position) if spliced else USUAL_WEIGHT_BITS

    def kept_with(bits: int) -> bool:
        sums = sweep.at_precision(position, bits, spliced)
        distortion = upper_limit(bench.bootstrap.means(bench.per_document(sums, limit.metric)))
        return distortion <= limit.epsilon

    return fewest_bits(kept_with, start) or 32


def likely_weight_bits(resampled: Resampled, limit: Limit, position: int) -> int:
    """Where the search for the coarsest bits per decoder weight begins, found without a splice.

    Were rounding the decoder as harmful as coarser latents of the same squared error, so many bits
    would be the coarsest. It was found half as harmful or less, so the search begins with one bit
    less: two splices show that this one or the next is the coarsest. The usual precision where
    nothing tells.
    """
    sweep = resampled.sweep
    here = squared_error(sweep.distortion(position))
    allowed = allowed_error(resampled, limit, position)
    if allowed <= here:
        return USUAL_WEIGHT_BITS

    def harmless_with(bits: int) -> bool:
        return squared_error(sweep.at_precision(position, bits, spliced=False)) <= allowed

    enough = fewest_bits(harmless_with, USUAL_WEIGHT_BITS)
    return LARGEST_WEIGHT_BITS if enough is None else max(enough - 1, FEWEST_WEIGHT_BITS)


def allowed_error(resampled: Resampled, limit: Limit, position: int) -> float:
    """The squared error at which the loss is expected to reach ε; 0 where no step exceeds it.

    It lies between those of the accepted step, which keeps the loss within ε, and the next one,
    which does not.
    """
    sweep, losses = resampled.sweep, resampled.losses(limit.metric)
    failing = [other for other in sweep.measured() if losses[other].upper > limit.epsilon]
    if not failing:
        return 0.0
    below, above = losses[position].upper, losses[failing[0]].upper
    here, there = (squared_error(sweep.distortion(at)) for at in (position, failing[0]))
    return here + (limit.epsilon - below) / (above - below) * (there - here)


def squared_error(sums: ErrorSums) -> float:
    """That of all documents."""
    return float(sums.squared_error.sum())


def fewest_bits(
    kept_with: Callable[[int], bool], start: int, most: int = LARGEST_WEIGHT_BITS
) -> int | None:
    """The fewest bits, 2 at least, with which something is kept; None where `most` do not suffice.

    Where more bits always keep it, that does not depend on `start`. Otherwise it is the end of the
    run of bits that keep it around `start`, or else of the first such run above.
    """
    if not kept_with(start):
        return next((bits for bits in range(start + 1, most + 1) if kept_with(bits)), None)
    bits = start
    while bits > FEWEST_WEIGHT_BITS and kept_with(bits - 1):
        bits -= 1
    return bits
