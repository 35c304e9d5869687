"""The model part: how many bits a decoder needs, and what else an SAE is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from mdlbench.codes import codelength
from mdlbench.records.record import CoderFacts
from mdlbench.scoring.audit import Audit
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import Encoded
from mdlbench.scoring.rounds import CoderRounds
from mdlbench.scoring.search import Limit, headline_limit
from mdlbench.scoring.sweep import Sweep
from mdlbench.statistics.bootstrap import upper_limit
from mdlbench.statistics.metrics import metric_of

USUAL_WEIGHT_BITS = 8
"""Where the search for a decoder's precision begins."""


LARGEST_WEIGHT_BITS = 17
"""Where it ends: a weight that needs more bits is sent as float32."""


def coder_facts(bench: Bench, run: Encoded, limits: list[Limit], audit: Audit) -> CoderFacts:
    """What the SAE is, how it behaves before quantisation, and what its model part costs."""
    spec, n_test = run.sweep.spec, bench.source.n_tokens["test"]
    alive: Bool[np.ndarray, " latent"] = run.calibration.fired | run.test.fired
    weight_bits = decoder_weight_bits(bench, run.sweep, headline_limit(bench, limits))
    model = model_part(run.sweep.latents.coder, int(alive.sum()), weight_bits)
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
        model_bits=None if spec.model_bits is None else model,
        codebook_bits=audit.codebook_bits,
        break_even_tokens=(
            codelength.break_even_tokens(model + audit.codebook_bits, bits_per_token)
            if model is not None and bits_per_token > 0
            else None
        ),
        details=spec.details,
    )


def model_part(coder: CoderRounds, live_rows: int, weight_bits: int | None) -> float | None:
    """Bits to send the decoder once, at a precision of its weights (maths §3).

    Those of rows and bias, unless the SAE's adapter says what its decoder takes. None where there
    is no such precision, and the adapter gives no number that does without.
    """
    if coder.spec.model_bits is not None:
        return coder.model_bits(weight_bits)
    if weight_bits is None:
        return None
    return codelength.decoder_bits(live_rows, coder.spec.d_out, weight_bits)


def decoder_weight_bits(bench: Bench, sweep: Sweep, limit: Limit | None) -> int | None:
    """The coarsest bits per decoder weight at which the SAE's step still meets the tolerance.

    The search goes bit by bit from the usual precision. None where no tolerance is met, the
    decoder has no weights to round, or its price is one number whatever their precision.
    """
    model_bits = sweep.spec.model_bits
    is_fixed = model_bits is not None and not callable(model_bits)
    if limit is None or limit.search.position is None or is_fixed or not sweep.has_weights:
        return None
    position = limit.search.position

    def kept_with(bits: int) -> bool:
        sums = sweep.at_precision(position, bits, metric_of(limit.metric).spliced)
        distortion = upper_limit(bench.bootstrap.means(bench.per_document(sums, limit.metric)))
        return distortion <= limit.epsilon

    if not kept_with(USUAL_WEIGHT_BITS):
        finer = range(USUAL_WEIGHT_BITS + 1, LARGEST_WEIGHT_BITS + 1)
        return next((bits for bits in finer if kept_with(bits)), 32)
    bits = USUAL_WEIGHT_BITS
    while bits > 2 and kept_with(bits - 1):
        bits -= 1
    return bits
