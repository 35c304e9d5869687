"""No honest record is rejected, however large or small its numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlbench.records.checks import points, problems_of, ranges, tolerances
from mdlbench.records.record import OperatingPoint, Resamples, ToleranceResult
from mdlbench.scoring.single import evaluate
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval, upper_limit
from mdlbench.suite.suite import Suite
from tests.records import make_point
from tests.tiny import D_IN, tiny_suite

N_DOCUMENTS = 400


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return tiny_suite(tmp_path_factory.mktemp("suite"))


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(np.log10(low), np.log10(high)).map(lambda power: 10.0**power)


def documents(mean: float, spread: float, seed: int) -> np.ndarray:
    """A value for each document: alike up to a share, or most of it on a few of them."""
    generator = np.random.default_rng(seed)
    if spread > 1:
        return mean * generator.pareto(1.05, size=N_DOCUMENTS)
    return mean * (1 + spread * generator.uniform(-1, 1, size=N_DOCUMENTS))


@settings(max_examples=300, deadline=None)
@given(
    mse=powers(1e-12, 1e6),
    bits=powers(1e-9, 1e5),
    ce=powers(1e-12, 1e6) | st.just(0.0),
    clean=powers(1e-6, 1e1),
    spread=powers(1e-9, 1e1),
    seed=st.integers(0, 1000),
)
def test_resamples_of_any_scale_are_what_their_intervals_say(
    suite: Suite, mse: float, bits: float, ce: float, clean: float, spread: float, seed: int
) -> None:
    bootstrap = Bootstrap(np.ones(N_DOCUMENTS), suite.replicates, seed)
    values = {"bits": documents(bits, spread, seed), "mse": documents(mse, spread, seed + 1)}
    spliced = documents(ce, spread, seed + 2)
    values["delta_ce"] = spliced - documents(clean, 0.5, seed + 3)
    at = {name: float(column.mean()) for name, column in values.items()}
    at["ce"] = float(spliced.mean())
    drawn = {name: bootstrap.means(column) for name, column in values.items()}
    point = make_point(1.0, at["bits"], at["mse"], 3.0).model_copy(
        update={
            "ce": at["ce"],
            "delta_ce": at["delta_ce"],
            "resamples": Resamples.of(at, drawn),
            "bits": make_point(1.0, at["bits"], 1.0, 3.0).bits.model_copy(
                update={"heldout_ci": percentile_interval(drawn["bits"])}
            ),
        }
    )
    for name in ("mse", "delta_ce"):
        point.__pydantic_extra__[f"{name}_ci"] = percentile_interval(drawn[name])
    assert list(points._of_resamples(suite, point)) == []
    for name in ("mse", "delta_ce"):
        accept(point, name, upper_limit(drawn[name]))
    result = ToleranceResult(
        metric="mse",
        epsilon=1.0,
        feasible=True,
        bits=at["bits"],
        bits_ci=percentile_interval(drawn["bits"]),
        replicates=[float(str(np.float32(value))) for value in drawn["bits"]],
    )
    assert list(tolerances._of_replicates(result, point.resampled_bits())) == []


def accept(point: OperatingPoint, metric: str, limit: float) -> None:
    """At its own upper limit a point may pass; a little beyond it, it may fail."""
    result = ToleranceResult(metric=metric, epsilon=limit, feasible=True)
    assert tolerances._may_pass(point, result)
    assert tolerances._may_fail(point, result)


class Scaled:
    """A rotation of the pixels, of which the latents above a threshold are sent."""

    def __init__(self, scale: float, threshold: float, offset: float) -> None:
        generator = torch.Generator().manual_seed(1)
        rows, _ = torch.linalg.qr(torch.randn(D_IN, D_IN, generator=generator))
        self.rows, self.scale = rows, scale
        self.threshold, self.offset = threshold, offset

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        latents = x @ self.rows.T
        return torch.where(latents > self.threshold, latents, torch.zeros_like(latents))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.scale * latents @ self.rows + self.offset


@pytest.mark.parametrize(
    ("scale", "threshold", "offset", "mse"),
    [
        (1.0, -9.0, 0.0, 1e-13),
        (1.0, 0.0, 0.0, 0.063),
        (1.0, 3.0, 0.0, 0.108),
        (1.0, 0.0, 130.0, 1.7e4),
        (1.0, 0.0, -1000.0, 1e6),
        (1e4, 1.0, 0.0, 1.4e5),
    ],
)
def test_honest_records_are_valid(
    tmp_path: Path, scale: float, threshold: float, offset: float, mse: float
) -> None:
    steps = {"finest": 1e-4, "octaves": 12}
    limits = [{"metric": "mse", "epsilons": [1e-6, 0.004, 1e7]}]
    suite = tiny_suite(tmp_path, steps=steps, tolerances=limits)
    record = evaluate(Scaled(scale, threshold, offset), suite, name="scaled")
    assert record.floor.mse == pytest.approx(mse, rel=0.1, abs=1e-12)
    assert list(problems_of(record, suite)) == []
    again = record.model_copy(update={"coder": record.coder.model_copy(update={"l0": 1e9})})
    assert list(problems_of(again, suite)) != []


def test_tokens_to_break_even_may_be_very_many() -> None:
    bits, decoder = 1e-9, 1e12
    assert list(ranges._too_large({"break_even_tokens": decoder / bits}, "record")) == []
    assert list(ranges._too_large({"break_even_tokens": 1e31}, "record")) != []
