"""Score one SAE on one suite: the only module that composes source, coder, codes and record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import ValidationError

from mdlbench.adapters import checked
from mdlbench.adapters.protocol import SparseCoder
from mdlbench.codes import bitstream, codelength
from mdlbench.codes.symbols import FittedQuantiser, Symbols
from mdlbench.errors import CoderError, MdlbenchError, UsageError, first_problem
from mdlbench.quantisers.modes import Code, Mode, Rates, decoded_values, described, mode_of
from mdlbench.records.provenance import environment, provenance
from mdlbench.records.record import (
    PROTOCOL,
    Bits,
    CoderFacts,
    CoderIdentity,
    Distortion,
    EvalRecord,
    Identity,
    Measurement,
    OperatingPoint,
    Pictures,
    Resamples,
    SiteReferences,
    TokenCounts,
    ToleranceResult,
)
from mdlbench.scoring import passes
from mdlbench.scoring.passes import Sweep
from mdlbench.scoring.profile import latent_profile, pictures_of
from mdlbench.scoring.spool import LatentSpool
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import ActivationSource
from mdlbench.stages import OnStage, silent
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval, upper_limit
from mdlbench.statistics.distortion import DistortionSums, ErrorSums, Reference
from mdlbench.statistics.tolerance import ToleranceSearch, coarsest_within
from mdlbench.suite.base import Metric, ModeName
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Suite

USUAL_WEIGHT_BITS = 8
"""Where the search for a decoder's precision begins."""

LARGEST_WEIGHT_BITS = 17
"""Where it ends: a weight that needs more is sent as the float32 it is."""

AUDITED_TOKENS = 1 << 15
"""Longer test splits are coded for real in parts of so many tokens, so that memory suffices."""


def spliced(metric: Metric) -> bool:
    """Whether a metric is a loss of the model, which takes a splice to measure."""
    return metric == "delta_ce"


@dataclass(frozen=True)
class Limit:
    """One tolerance of a suite, and where the search for its step ended."""

    metric: Metric
    epsilon: float
    search: ToleranceSearch


@dataclass(frozen=True)
class Audit:
    """A real bitstream at one position, decoded and compared symbol by symbol.

    Attributes:
        position: where on the grid.
        coded: payload bits per token.
        codebook_bits: bits of the codebook in the header, and of what else the mode sends once.
    """

    position: int
    coded: float
    codebook_bits: float


@dataclass(frozen=True)
class Bench:
    """A suite opened for measuring at one site, in one mode."""

    suite: Suite
    source: ActivationSource
    limit: int | None
    mode: Mode

    @classmethod
    def open(cls, opener: Opener, site: Site, quantiser: ModeName | None = None) -> Bench:
        """Load the suite's data; what takes passes over them waits until it is asked for.

        Without a quantiser, the mode is the suite's own; raises `UsageError` for an unknown one.
        """
        mode = mode_of(quantiser or opener.suite.quantiser)
        return cls(opener.suite, opener.open(site), opener.setting.limit, mode)

    @cached_property
    def reference(self) -> Reference:
        """What every SAE is compared with; raises `UsageError` where the tokens do not vary."""
        reference = passes.reference(self.source)
        if not reference.variation > 0:
            raise UsageError(
                f"suite {self.suite.name!r}: the {self.source.n_tokens['test']} test tokens do "
                "not vary; take more with --limit"
            )
        return reference

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.reference.tokens, self.suite.replicates, self.suite.seed)

    def identity(self, coder: CoderIdentity) -> Identity:
        return Identity(
            suite=self.suite.name,
            suite_digest=self.suite.digest,
            protocol=PROTOCOL,
            coder=coder,
            data_sha256=self.source.data_sha256,
            seed=self.suite.seed,
            limit=self.limit,
            quantiser=None if self.mode.name == self.suite.quantiser else self.mode.name,
        )

    def measurement(self) -> Measurement:
        return Measurement(
            suite=self.suite.name,
            suite_digest=self.suite.digest,
            protocol=PROTOCOL,
            limit=self.limit,
        )

    def references(self) -> SiteReferences:
        return SiteReferences(
            site=self.source.site,
            data_sha256=self.source.data_sha256,
            d=self.source.d_out,
            eigenvalues=self.reference.eigenvalues.tolist(),
            dense=passes.fixed_length_mse(self.source),
        )

    def per_document(self, sums: ErrorSums, metric: Metric) -> Float64[np.ndarray, " document"]:
        """The metric as a sum per document whose mean over tokens is the metric."""
        if isinstance(sums, DistortionSums) and spliced(metric):
            return sums.added_ce(self.reference)
        if metric == "fvu":
            share = self.reference.tokens.sum() / self.reference.variation
            return np.asarray(sums.squared_error * share)
        return sums.squared_error_per_dimension(self.reference)


@dataclass(frozen=True)
class Encoded:
    """An SAE whose latents of both splits are spooled, ready to be quantised at any step."""

    sweep: Sweep
    calibration: passes.EncodedSplit
    test: passes.EncodedSplit


@contextmanager
def encoded(bench: Bench, coder: SparseCoder) -> Iterator[Encoded]:
    """Encode both splits once; the spooled latents live as long as the context."""
    n_latents = coder.spec.d_latents
    scale = passes.quantiser_scale(coder, bench.mode)
    steps = passes.absolute_steps(bench.suite.steps, coder, bench.source, scale)
    with LatentSpool(n_latents) as calibration, LatentSpool(n_latents) as test:
        splits = [
            passes.encode_split(coder, bench.source, "calibration", calibration, scale, steps),
            passes.encode_split(coder, bench.source, "test", test, scale, steps),
        ]
        yield Encoded(Sweep(coder, bench.source, bench.mode, steps, calibration, test), *splits)


class Evaluation(NamedTuple):
    """A record, and the bits per token of each latent at the audited step (for pictures)."""

    record: EvalRecord
    latent_bits: Float64[np.ndarray, " latent"]


def evaluate_coder(
    bench: Bench,
    coder: SparseCoder,
    identity: Identity,
    on_stage: OnStage = silent,
    steps: Sequence[float] = (),
) -> Evaluation:
    """Run one SAE through the whole measurement.

    Args:
        bench: the suite, opened.
        coder: the SAE.
        identity: of the record.
        on_stage: called with the name of each stage.
        steps: of the refined grid, to have operating points at, too.

    Raises:
        CoderError: the SAE misbehaves: wrong shapes, non-finite latents or reconstruction, facts
            that a record cannot hold.
    """
    try:
        return _evaluate(bench, coder, identity, on_stage, steps)
    except ValidationError as error:
        raise CoderError(f"{coder.spec.name}: {first_problem(error)}") from error


def _evaluate(
    bench: Bench,
    coder: SparseCoder,
    identity: Identity,
    on_stage: OnStage,
    steps: Sequence[float],
) -> Evaluation:
    started = time.perf_counter()
    on_stage("encode")
    with encoded(bench, coder) as run:
        on_stage("distortion")
        limits = [search_limit(bench, run.sweep, *limit) for limit in bench.suite.limits()]
        on_stage("rate")
        run.sweep.price_grid(steps)
        results = [tolerance_result(bench, run.sweep, limit) for limit in limits]
        on_stage("bitstream")
        audit = audit_bitstream(bench, run.sweep, limits)
        on_stage("decoder")
        facts = coder_facts(bench, run, limits, audit)
        points = [point(bench, run.sweep, position, audit) for position in run.sweep.priced()]
        rates = run.sweep.rates(audit.position)
        profile = latent_profile(
            run.sweep.step(audit.position), rates, pictures(bench, coder, rates)
        )
    record = EvalRecord(
        id=identity.id,
        identity=identity,
        site=bench.source.site,
        n_tokens=TokenCounts(**bench.source.n_tokens),
        coder=facts,
        floor=Distortion.model_validate(run.test.floor.metrics(bench.reference)),
        points=points,
        tolerances=results,
        latents=profile,
        partial=bench.limit is not None,
        environment=environment(str(bench.source.device), time.perf_counter() - started),
        provenance=provenance(),
    )
    return Evaluation(record, rates.latent_bits)


def pictures(bench: Bench, coder: SparseCoder, rates: Rates) -> Pictures | None:
    """Of the decoder rows that cost most bits, where activations are images."""
    if bench.source.image_shape is None or not coder.spec.d_latents:
        return None
    rows = checked.decoder_rows(coder)
    return pictures_of(rows, bench.source.image_shape, rates.latent_bits)


def search_limit(bench: Bench, sweep: Sweep, metric: Metric, epsilon: float) -> Limit:
    """The coarsest step within one tolerance.

    A step passes if the upper confidence limit of its distortion is within ε (maths §6).
    """

    def distortion_at(position: int) -> float:
        sums = sweep.distortion(position) if spliced(metric) else sweep.errors(position)
        return upper_limit(bench.bootstrap.means(bench.per_document(sums, metric)))

    dyadic = [distortion_at(position) for position in sweep.dyadic]
    return Limit(metric, epsilon, coarsest_within(dyadic, distortion_at, epsilon))


def tolerance_result(bench: Bench, sweep: Sweep, limit: Limit) -> ToleranceResult:
    """What the SAE costs at one tolerance, or that it cannot meet it."""
    search = limit.search
    if search.position is None:
        return ToleranceResult(
            metric=limit.metric,
            epsilon=limit.epsilon,
            feasible=False,
            non_monotone=search.non_monotone,
        )
    rates = sweep.rates(search.position)
    side = sweep.coder.spec.side_bits
    replicates = bench.bootstrap.means(rates.document_bits) + side
    return ToleranceResult(
        metric=limit.metric,
        epsilon=limit.epsilon,
        feasible=True,
        step=sweep.step(search.position),
        bits=rates.heldout + side,
        bits_ci=percentile_interval(replicates),
        l0=rates.l0,
        ranked=bench.limit is None,
        non_monotone=search.non_monotone,
        at_coarsest=search.at_coarsest,
        replicates=[float(str(np.float32(value))) for value in replicates],
    )


def point(bench: Bench, sweep: Sweep, position: int, audit: Audit) -> OperatingPoint:
    rates, sums = sweep.rates(position), sweep.distortion(position)
    losses = sums.metrics(bench.reference)
    drawn = {
        "bits": bench.bootstrap.means(rates.document_bits),
        "mse": bench.bootstrap.means(bench.per_document(sums, "mse")),
        "delta_ce": bench.bootstrap.means(bench.per_document(sums, "delta_ce")),
    }
    return OperatingPoint(
        **losses,
        quantiser=bench.mode.name,
        step=sweep.step(position),
        l0=rates.l0,
        header_bits=sweep.header_bits(position) or None,
        bits=Bits(
            plugin=rates.plugin.total,
            support=rates.plugin.support,
            magnitude=rates.plugin.magnitude,
            heldout=rates.heldout,
            heldout_ci=percentile_interval(drawn["bits"]),
            adaptive=rates.adaptive,
            enumerative=rates.enumerative,
            bound=rates.bound,
            side=sweep.coder.spec.side_bits,
            total=rates.heldout + sweep.coder.spec.side_bits,
            coded=audit.coded if position == audit.position else None,
        ),
        mse_ci=percentile_interval(drawn["mse"]),
        delta_ce_ci=percentile_interval(drawn["delta_ce"]),
        resamples=Resamples.of({**losses, "bits": rates.heldout}, **drawn),
    )


def headline_limit(bench: Bench, limits: list[Limit]) -> Limit | None:
    """The suite's headline tolerance if it is met, else the first one that is."""
    headline = bench.suite.headline
    met = [limit for limit in limits if limit.search.position is not None]
    for limit in met:
        if (limit.metric, limit.epsilon) == (headline.metric, headline.epsilon):
            return limit
    return met[0] if met else None


def audited_position(bench: Bench, limits: list[Limit]) -> int:
    """The headline step; the finest where no tolerance is met."""
    limit = headline_limit(bench, limits)
    return 0 if limit is None or limit.search.position is None else limit.search.position


def encode_test_split(bench: Bench, sweep: Sweep, step: float) -> bytes:
    """The symbols of the test split as a bitstream, its codebook fitted on the calibration split.

    Raises:
        MdlbenchError: the stream does not decode to the same symbols and values.
    """
    quantiser = sweep.quantiser_at(step)
    symbols = passes.all_symbols(sweep.test, quantiser)
    return _encode(bench, sweep, symbols, quantiser, sweep.code(quantiser), step)


def _encode(
    bench: Bench,
    sweep: Sweep,
    symbols: Symbols,
    quantiser: FittedQuantiser,
    code: Code,
    step: float,
) -> bytes:
    """Symbols as a bitstream that was decoded again and compared, and so were their values."""
    spec = sweep.coder.spec
    metadata = {
        "suite": bench.suite.name,
        "suite_digest": bench.suite.digest,
        "sae": spec.name,
        "weights_sha256": spec.weights_sha256,
        "quantiser": bench.mode.name,
    }
    told = described(bench.mode, quantiser)
    data = bitstream.encode(symbols, code.codebook, step=step, metadata=metadata, quantiser=told)
    decoded = bitstream.decode(data)
    if not _same(symbols, decoded.symbols):
        raise MdlbenchError("bitstream: the decoded symbols are not the encoded ones")
    if not np.array_equal(decoded_values(decoded).value, quantiser.values(symbols).value):
        raise MdlbenchError("bitstream: the decoded values are not those of the symbols")
    return data


def _same(one: Symbols, other: Symbols) -> bool:
    return (one.n_tokens, one.n_latents) == (other.n_tokens, other.n_latents) and all(
        np.array_equal(getattr(one, column), getattr(other, column))
        for column in ("token", "latent", "symbol")
    )


def audit_bitstream(bench: Bench, sweep: Sweep, limits: list[Limit]) -> Audit:
    """Code the test split for real at the headline step, decode it and compare."""
    position = audited_position(bench, limits)
    step, quantiser = sweep.step(position), sweep.quantiser(position)
    code = sweep.code(quantiser)
    sizes = [
        bitstream.sizes(_encode(bench, sweep, symbols, quantiser, code, step))
        for symbols in passes.symbols_in_parts(sweep.test, quantiser, AUDITED_TOKENS)
    ]
    return Audit(
        position=position,
        coded=8 * sum(part.payload_bytes for part in sizes) / bench.source.n_tokens["test"],
        codebook_bits=8.0 * sizes[0].codebook_bytes + sweep.header_bits(position),
    )


def coder_facts(bench: Bench, run: Encoded, limits: list[Limit], audit: Audit) -> CoderFacts:
    """What the SAE is, how it behaves before quantisation, and what its model part costs."""
    spec, n_test = run.sweep.coder.spec, bench.source.n_tokens["test"]
    alive: Bool[np.ndarray, " latent"] = run.calibration.fired | run.test.fired
    weight_bits = decoder_weight_bits(bench, run.sweep, headline_limit(bench, limits))
    model = None
    if weight_bits is not None:
        model = codelength.decoder_bits(int(alive.sum()), spec.d_out, weight_bits)
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
        codebook_bits=audit.codebook_bits,
        break_even_tokens=(
            codelength.break_even_tokens(model + audit.codebook_bits, bits_per_token)
            if model is not None and bits_per_token > 0
            else None
        ),
        details=spec.details,
    )


def decoder_weight_bits(bench: Bench, sweep: Sweep, limit: Limit | None) -> int | None:
    """The coarsest bits per decoder weight at which the SAE's step still meets the tolerance.

    Found bit by bit from the usual precision on. None where no tolerance is met or the decoder has
    no weights to round.
    """
    if limit is None or limit.search.position is None or not sweep.has_weights:
        return None
    position = limit.search.position

    def kept_with(bits: int) -> bool:
        sums = sweep.at_precision(position, bits, spliced(limit.metric))
        distortion = upper_limit(bench.bootstrap.means(bench.per_document(sums, limit.metric)))
        return distortion <= limit.epsilon

    if not kept_with(USUAL_WEIGHT_BITS):
        finer = range(USUAL_WEIGHT_BITS + 1, LARGEST_WEIGHT_BITS + 1)
        return next((bits for bits in finer if kept_with(bits)), 32)
    bits = USUAL_WEIGHT_BITS
    while bits > 2 and kept_with(bits - 1):
        bits -= 1
    return bits
