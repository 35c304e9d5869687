"""One SAE on one suite: the whole measurement, from its latents to its record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from pydantic import ValidationError

from mdlbench.codes.rates import Rates
from mdlbench.console.stages import OnStage, silent
from mdlbench.errors import CoderError, first_problem, heeding_shortage
from mdlbench.records.record import (
    Bits,
    Distortion,
    EvalRecord,
    Identity,
    OperatingPoint,
    Pictures,
    Resamples,
    TokenCounts,
    ToleranceResult,
    interval_key,
)
from mdlbench.scoring.audit import Audit, audit_bitstream
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.decoder import coder_facts
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.pictures import pictures_of
from mdlbench.scoring.profile import latent_profile
from mdlbench.scoring.provenance import environment, provenance
from mdlbench.scoring.resampled import Resampled
from mdlbench.scoring.search import Limit, search_limits
from mdlbench.scoring.sweep import Sweep
from mdlbench.scoring.truth import truth_facts
from mdlbench.scoring.worker import Sae
from mdlbench.statistics.bootstrap import percentile_interval
from mdlbench.statistics.metrics import drawn_metrics
from mdlbench.statistics.tolerance import position_of


class Evaluation(NamedTuple):
    """A record, and the bits per token of each latent at the audited step (for pictures)."""

    record: EvalRecord
    latent_bits: Float64[np.ndarray, " latent"]


def evaluate_coder(
    bench: Bench,
    sae: Sae,
    identity: Identity,
    on_stage: OnStage = silent,
    steps: Sequence[float] = (),
) -> Evaluation:
    """Run one SAE through the whole measurement.

    Args:
        bench: the suite, opened.
        sae: the SAE.
        identity: the record's identity.
        on_stage: called with the name of each stage.
        steps: further steps of the refined grid at which to have operating points.

    Raises:
        CheckpointError: the SAE cannot be loaded.
        CoderError: it misbehaves: wrong shapes, non-finite latents or reconstruction, facts
            that a record cannot hold.
        MemoryShortageError: it takes more memory than there is.
    """
    try:
        with heeding_shortage():
            return _evaluate(bench, sae, identity, on_stage, steps)
    except ValidationError as error:
        raise CoderError(f"{identity.coder.name}: {first_problem(error)}") from error


def _evaluate(
    bench: Bench,
    sae: Sae,
    identity: Identity,
    on_stage: OnStage,
    steps: Sequence[float],
) -> Evaluation:
    started = time.perf_counter()
    on_stage("encode")
    with encoded(bench, sae) as run:
        on_stage("distortion")
        resampled = Resampled(bench, run.sweep)
        limits = search_limits(resampled, list(bench.suite.limits()))
        on_stage("rate")
        run.sweep.price(run.sweep.measured())
        results = [tolerance_result(resampled, limit) for limit in limits]
        run.sweep.measure(position_of(run.sweep.finest, step) for step in steps)
        run.sweep.price(run.sweep.measured())
        on_stage("bitstream")
        audit = audit_bitstream(bench, run, limits)
        on_stage("decoder")
        facts = coder_facts(resampled, run, limits, audit)
        points = [point(resampled, position, audit) for position in run.sweep.measured()]
        rates = run.sweep.rates(audit.position)
        truth = truth_facts(bench, run)
        profile = latent_profile(run.sweep.step(audit.position), rates, pictures(run.sweep, rates))
    record = EvalRecord(
        id=identity.id,
        identity=identity,
        site=bench.source.site,
        n_tokens=TokenCounts(**bench.source.n_tokens),
        coder=facts,
        floor=Distortion.model_validate(bench.losses(run.test.floor)),
        points=points,
        tolerances=results,
        latents=profile,
        truth=truth,
        partial=bench.limit is not None,
        environment=environment(
            bench.source.device, bench.rounds.executor.threads, time.perf_counter() - started
        ),
        provenance=provenance(),
    )
    return Evaluation(record, rates.latent_bits)


def latent_bits(bench: Bench, sae: Sae, step: float) -> Float64[np.ndarray, " latent"]:
    """Bits per token of each latent at one step of the grid, as `evaluate_coder` finds them."""
    with encoded(bench, sae) as run:
        return run.sweep.rates(position_of(run.sweep.finest, step)).latent_bits


def pictures(sweep: Sweep, rates: Rates) -> Pictures | None:
    """Pictures of the decoder rows that cost most bits, where activations are images."""
    shape = sweep.source.image_shape
    if shape is None or not sweep.spec.d_latents:
        return None
    return pictures_of(sweep.latents.coder.decoder_rows(), shape, rates.latent_bits)


def tolerance_result(resampled: Resampled, limit: Limit) -> ToleranceResult:
    """What the SAE costs at one tolerance, or that it cannot meet it."""
    search, sweep = limit.search, resampled.sweep
    if search.position is None:
        return ToleranceResult(
            metric=limit.metric,
            epsilon=limit.epsilon,
            feasible=False,
            non_monotone=search.non_monotone,
        )
    l0 = np.array([sweep.rates(position).l0 for position in sweep.measured()])
    mixture = resampled.mixture(limit.metric, limit.epsilon)
    replicates = resampled.bits_at(limit.metric, limit.epsilon)
    return ToleranceResult(
        metric=limit.metric,
        epsilon=limit.epsilon,
        feasible=True,
        step=sweep.step(search.position),
        bits=float(mixture.of(resampled.bits)),
        bits_ci=percentile_interval(replicates),
        l0=float(mixture.of(l0)),
        ranked=resampled.bench.limit is None,
        non_monotone=search.non_monotone,
        at_coarsest=search.at_coarsest,
        replicates=[float(str(np.float32(value))) for value in replicates],
    )


def point(resampled: Resampled, position: int, audit: Audit) -> OperatingPoint:
    bench, sweep = resampled.bench, resampled.sweep
    rates = sweep.rates(position)
    losses = bench.losses(sweep.distortion(position))
    drawn = {
        metric.name: resampled.loss(metric.name, position)
        for metric in drawn_metrics(bench.suite.metrics)
    }
    intervals = {interval_key(name): percentile_interval(d) for name, d in drawn.items()}
    drawn["bits"] = resampled.heldout(position)
    content = {
        **losses,
        **intervals,
        "quantiser": bench.mode.name,
        "step": sweep.step(position),
        "l0": rates.l0,
        "header_bits": sweep.header_bits(position) or None,
        "bits": Bits(
            plugin=rates.plugin.total,
            support=rates.plugin.support,
            magnitude=rates.plugin.magnitude,
            heldout=rates.heldout,
            heldout_ci=percentile_interval(drawn["bits"]),
            adaptive=rates.adaptive,
            enumerative=rates.enumerative,
            bound=rates.bound,
            side=sweep.spec.side_bits,
            total=rates.heldout + sweep.spec.side_bits,
            coded=audit.coded if position == audit.position else None,
        ),
        "resamples": Resamples.of({**losses, "bits": rates.heldout}, drawn),
    }
    return OperatingPoint.model_validate(content)
