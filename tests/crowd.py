"""Records for the tests of the web page: many, with all that a page shows, and hostile ones."""

import base64

import numpy as np

from mdlbench.records.record import EvalRecord, LatentProfile, Pictures, References, profile_ranks
from tests.records import (
    make_record,
    make_result,
    make_site_references,
    realistic_references,
    realistic_suite,
)

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\u2028&\u202e"
PICTURE_BYTES = 8_000


def make_profile(rates, bits=None, pictures=None):
    ranks = profile_ranks(len(rates))
    bits = np.sort(rates if bits is None else bits)[::-1]
    return LatentProfile(
        step=0.5,
        ranks=ranks.tolist(),
        firing_rates=np.sort(rates)[::-1][ranks - 1].tolist(),
        bits=bits[ranks - 1].tolist(),
        cumulative_bits=np.cumsum(bits)[ranks - 1].tolist(),
        pictures=pictures,
    )


def crowd(n: int, n_points: int = 100, picture_bytes: int = PICTURE_BYTES) -> list[EvalRecord]:
    """Records of so many points, of 64 ranks, and with pictures as large as real ones."""
    first = realistic_suite(widths=(128,), sparsities=(8,), n_replicates=100)[0]
    return [_member(i, n_points, picture_bytes, first) for i in range(n)]


def evil_record() -> EvalRecord:
    """Markup in every place where a record has a text of its own."""
    record = make_record(
        EVIL,
        coder={"architecture": EVIL, "details": {EVIL: EVIL, "nested": {"a": [EVIL]}}},
        arguments={"path": EVIL},
        suite=EVIL,
    )
    environment = record.environment.model_copy(update={"device": EVIL, "versions": {EVIL: EVIL}})
    provenance = record.provenance.model_copy(update={"commit": EVIL, "date": EVIL})
    site = record.site.model_copy(update={"text": EVIL, "model": EVIL})
    return record.model_copy(
        update={"environment": environment, "provenance": provenance, "site": site}
    )


def references_of_evil() -> References:
    references = realistic_references()
    sites = [make_site_references(evil_record().site)]
    return references.model_copy(update={"suite": EVIL, "sites": sites})


def _member(i: int, n_points: int, picture_bytes: int, first: EvalRecord) -> EvalRecord:
    generator = np.random.default_rng(i)
    steps = np.geomspace(0.03, 4.0, n_points)
    limits = [(result.metric, result.epsilon) for result in first.tolerances]
    results = [
        make_result(limit, [60.0 + i, 61.0 + i], step=float(generator.choice(steps)))
        for limit in limits
    ]
    return make_record(
        f"sae-{i}",
        results=results,
        points=[_point(first, float(step), generator) for step in steps],
        coder={"d_latents": 2 ** (5 + i % 8), "architecture": f"kind-{i % 12}"},
    ).model_copy(update={"latents": _latents(generator, picture_bytes)})


def _point(first, step, generator):
    factor = float(generator.uniform(0.97, 1.03) / step**0.3)
    point = first.points[0]
    names = ("total", "support", "magnitude")
    bits = point.bits.model_copy(
        update={name: getattr(point.bits, name) * factor for name in names}
    )
    losses = {name: getattr(point, name) / factor for name in ("mse", "fvu", "delta_ce", "l0")}
    return point.model_copy(update={"step": step, "bits": bits, **losses})


def _latents(generator, picture_bytes):
    """Pictures are not compressible, as real ones nearly are, and of the size of MNIST's."""
    png = base64.b64encode(generator.bytes(picture_bytes)).decode()
    return make_profile(
        generator.uniform(size=4096), pictures=Pictures(latents=list(range(32)), png=png)
    )
