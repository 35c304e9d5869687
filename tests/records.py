"""Synthetic records for the tests of everything that reads records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.records.record import (
    PROTOCOL,
    Bits,
    CoderFacts,
    Distortion,
    Environment,
    EvalRecord,
    Identity,
    OperatingPoint,
    Provenance,
    References,
    Resamples,
    SiteReferences,
    TokenCounts,
    ToleranceResult,
)
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Headline

HEADLINE = Headline(metric="mse", epsilon=0.015)
SUITE_DIGEST = "d1" * 32
DATA_SHA256 = "da" * 32
IMAGES = Site(hook=PIXELS)
Limit = tuple[str, float]
MNIST_LIMITS: tuple[Limit, ...] = (
    *(("mse", epsilon) for epsilon in (0.010, 0.015, 0.020, 0.030)),
    *(("delta_ce", epsilon) for epsilon in (0.01, 0.02, 0.05, 0.1)),
)


def make_identity(name: str, **changes: Any) -> Identity:
    """`changes` are fields of the identity or of its coder."""
    coder = {
        "name": name,
        "adapter": "saelens",
        "version": "6.54.0",
        "arguments": {"path": f"saes/{name}"},
        "weights_sha256": "ab" * 32,
    }
    identity = {
        "suite": "mnist",
        "suite_digest": SUITE_DIGEST,
        "protocol": PROTOCOL,
        "data_sha256": DATA_SHA256,
        "seed": 0,
        "limit": None,
    }
    for key, value in changes.items():
        (coder if key in coder else identity)[key] = value
    return Identity(coder=CoderIdentity(**coder), **identity)


def make_distortion(mse: float, delta_ce: float = 0.02) -> Distortion:
    return Distortion(
        mse=mse, fvu=mse / 0.0672, cosine=0.95, ce=0.08 + delta_ce, delta_ce=delta_ce, kl=0.03
    )


def make_point(
    step: float, bits: float, mse: float, l0: float, delta_ce: float = 0.02
) -> OperatingPoint:
    return OperatingPoint(
        quantiser="normalised",
        step=step,
        l0=l0,
        bits=Bits(
            plugin=bits * 0.99,
            support=bits * 0.6,
            magnitude=bits * 0.39,
            heldout=bits,
            heldout_ci=(bits - 1, bits + 1),
            adaptive=bits * 1.01,
            enumerative=bits * 1.2,
            bound=bits * 1.5,
            side=0.0,
            total=bits,
            coded=bits * 1.003,
        ),
        mse_ci=(mse * 0.99, mse * 1.01),
        delta_ce_ci=(delta_ce - 0.001, delta_ce + 0.001),
        **make_distortion(mse, delta_ce).model_dump(),
    )


def with_resamples(
    point: OperatingPoint,
    bits: Sequence[float] | np.ndarray,
    mse: Sequence[float] | np.ndarray,
    delta_ce: Sequence[float] | np.ndarray,
) -> OperatingPoint:
    """The point with these deviations of every draw, as shares of its bits, MSE and CE."""
    at = point.losses | {"bits": point.bits.heldout}
    drawn = {
        "bits": at["bits"] * (1.0 + np.asarray(bits, dtype=np.float64)),
        "mse": at["mse"] * (1.0 + np.asarray(mse, dtype=np.float64)),
        "delta_ce": at["delta_ce"] + at["ce"] * np.asarray(delta_ce, dtype=np.float64),
    }
    resamples = Resamples.of(at, drawn)
    return point.model_copy(update={"resamples": resamples})


def make_result(
    limit: Limit, replicates: Sequence[float] | None, **changes: Any
) -> ToleranceResult:
    """Feasible with these replicates, their mean as bits; infeasible without."""
    metric, epsilon = limit
    if replicates is None:
        return ToleranceResult(metric=metric, epsilon=epsilon, feasible=False)
    low, high = np.quantile(replicates, [0.025, 0.975])
    content = {
        "feasible": True,
        "step": 0.5,
        "bits": float(np.mean(replicates)),
        "bits_ci": (float(low), float(high)),
        "l0": 16.0,
        "ranked": True,
        "replicates": [float(r) for r in replicates],
    }
    return ToleranceResult(metric=metric, epsilon=epsilon, **{**content, **changes})


def make_record(
    name: str,
    replicates: Sequence[float] | None = (100.0, 101.0),
    *,
    results: Sequence[ToleranceResult] | None = None,
    points: Sequence[OperatingPoint] | None = None,
    floor: Distortion | None = None,
    coder: Mapping[str, Any] = {},
    partial: bool = False,
    site: Site = IMAGES,
    **identity: Any,
) -> EvalRecord:
    """A record at the headline tolerance alone, unless `results` says otherwise."""
    who = make_identity(name, **identity)
    if results is None:
        results = [make_result((HEADLINE.metric, HEADLINE.epsilon), replicates)]
    if points is None:
        points = [make_point(r.step, r.bits, 0.0149, 16.0) for r in results if r.step and r.bits]
    facts = {
        "d_in": 784,
        "d_out": 784,
        "d_latents": 256,
        "architecture": "batchtopk",
        "hook": site.hook,
        "l0": 16.5,
        "dead_fraction": 0.0,
        "decoder_weight_bits": 6,
        "decoder_bits": 1.2e6,
        "codebook_bits": 9.0e3,
        "break_even_tokens": 12_000.0,
    }
    return EvalRecord(
        id=who.id,
        identity=who,
        site=site,
        n_tokens=TokenCounts(calibration=60_000, test=10_000),
        coder=CoderFacts(**{**facts, **coder}),
        floor=floor or make_distortion(0.012),
        points=list(points),
        tolerances=list(results),
        partial=partial,
        environment=Environment(
            device="cpu", dtype="float32", threads=1, seconds=1.5, versions={"numpy": "2.4"}
        ),
        provenance=Provenance(commit=None, dirty=None, date="2026-01-01T00:00:00Z"),
    )


def realistic_suite(
    widths: Sequence[int] = (32, 64, 128, 256, 512, 1024, 2048, 4096),
    sparsities: Sequence[int] = (8, 16, 24, 40),
    n_replicates: int = 500,
) -> list[EvalRecord]:
    """A zoo with the shape of real results: rates, losses, dead latents and infeasible SAEs.

    Points have paired resamples, as many as there are replicates.
    """
    generator = np.random.default_rng(0)
    shared = generator.normal(size=n_replicates)
    zoo = [
        _realistic(f"batchtopk-{width}-k{k}", width, float(k), shared, generator)
        for width in widths
        for k in sparsities
        if k <= width // 2
    ]
    pca = _realistic("pca", 784, 60.0, shared, generator, architecture="pca", adapter="baseline")
    kmeans = _realistic(
        "kmeans-1024", 1024, 1.0, shared, generator, architecture="kmeans", adapter="baseline"
    )
    return [*zoo, pca, kmeans]


def _realistic(
    name: str,
    width: int,
    k: float,
    shared: np.ndarray,
    generator: np.random.Generator,
    architecture: str = "jumprelu",
    adapter: str = "saelens",
) -> EvalRecord:
    floor = 0.052 / (1 + 0.1 * k**0.8 * (1 + 0.25 * np.log2(width / 32)))
    dead = max(0.0, 0.12 * np.log2(width / 512)) if architecture == "jumprelu" else 0.0
    alive = width * (1 - dead)

    def at(step: float) -> tuple[float, float, float]:
        l0 = k * float(np.exp(-0.10 * step))
        share = min(l0 / alive, 0.5)
        entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
        magnitude = max(0.3, 2.4 - np.log2(step))
        return alive * entropy + l0 * magnitude, floor + 0.0009 * step**2 * l0 / 20, l0

    def delta_ce(mse: float) -> float:
        return 9.0 * (mse - 0.008) ** 1.4 if mse > 0.008 else -0.002

    steps = [0.03125 * 2.0**j for j in range(8)]
    points = [make_point(s, *at(s)[:2], at(s)[2], delta_ce(at(s)[1])) for s in steps]
    results = []
    noise = 0.3 * shared + 0.08 * generator.normal(size=shared.size)
    for metric, epsilon in MNIST_LIMITS:
        fine = 0.03125 * 2.0 ** (np.arange(57) / 8)
        losses = [at(s)[1] if metric == "mse" else delta_ce(at(s)[1]) for s in fine]
        passing = [s for s, loss in zip(fine, losses, strict=True) if loss <= epsilon]
        if not passing:
            results.append(make_result((metric, epsilon), None))
            continue
        step = float(passing[-1])
        bits, mse, l0 = at(step)
        points.append(make_point(step, bits, mse, l0, delta_ce(mse)))
        replicates = np.float32(bits + bits / 100 * noise)
        results.append(make_result((metric, epsilon), replicates, step=step, bits=bits, l0=l0))
    points = [with_resamples(p, noise / 100, shared / 200, shared / 1000) for p in points]
    return make_record(
        name,
        results=results,
        points=points,
        floor=make_distortion(floor, delta_ce(floor)),
        coder={
            "d_latents": width,
            "architecture": architecture,
            "l0": k,
            "dead_fraction": dead,
            "decoder_bits": alive * 784 * 6.0,
        },
        adapter=adapter,
        weights_sha256=f"{width:032x}{int(k):032x}",
    )


def make_site_references(site: Site = IMAGES, data_sha256: str = DATA_SHA256) -> SiteReferences:
    """Eigenvalues that fall like MNIST's, total 52.7, and dense fixed-length pixels."""
    eigenvalues = 5.0 * np.exp(-np.arange(784) / 10.5)
    return SiteReferences(
        site=site,
        data_sha256=data_sha256,
        d=784,
        eigenvalues=[float(v) for v in eigenvalues],
        dense=[(n, 0.085 / 4.0**n) for n in range(1, 9)],
    )


def realistic_references() -> References:
    return References(
        suite="mnist",
        suite_digest=SUITE_DIGEST,
        protocol=PROTOCOL,
        headline=HEADLINE,
        sites=[make_site_references()],
    )
