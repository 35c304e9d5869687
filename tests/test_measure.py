"""Passes over a split: what each costs in splices, and that they agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mdlbench.adapters import checked
from mdlbench.adapters.load import load_coder
from mdlbench.quantisers.modes import MODES
from mdlbench.scoring import passes
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.search import search_limit
from mdlbench.sources.images import Images
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener
from mdlbench.statistics.distortion import DistortionSums, ErrorSums
from mdlbench.statistics.metrics import METRICS
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Steps
from tests.tiny import tiny_suite, write_sae


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench.open(Opener(tiny_suite(tmp_path_factory.mktemp("suite"))), Site(hook=PIXELS))


@pytest.fixture(scope="module")
def coder(bench, tmp_path_factory):
    return load_coder(str(write_sae(tmp_path_factory.mktemp("sae"))), source=bench.source)


@pytest.fixture
def sweep(bench, coder):
    with encoded(bench, coder) as run:
        yield run.sweep


@pytest.fixture
def splices(monkeypatch):
    """The blocks that were spliced, as they are."""
    calls, original = [], Images.splice

    def counted(self, block, reconstruction):
        calls.append(block.index)
        return original(self, block, reconstruction)

    monkeypatch.setattr(Images, "splice", counted)
    return calls


@pytest.mark.parametrize("position", [7, 13, 33])
def test_errors_are_those_of_the_spliced_distortion_and_cost_no_splice(sweep, splices, position):
    errors = sweep.errors(position)
    assert splices == []
    whole = sweep.distortion(position)
    assert splices == [0]
    assert type(errors) is ErrorSums
    assert np.array_equal(errors.squared_error, whole.squared_error)
    assert np.array_equal(errors.cosine, whole.cosine)


def test_errors_of_a_step_that_was_spliced_are_not_measured_again(sweep, splices):
    for position in (20, 7):
        whole = sweep.distortion(position)
        splices.clear()
        assert sweep.errors(position) is whole
        assert sweep.distortion(position) is whole
        assert splices == []


def test_the_dyadic_steps_take_one_pass(sweep, splices, monkeypatch):
    passes, original = [], Images.blocks
    monkeypatch.setattr(
        Images, "blocks", lambda self, split: passes.append(split) or original(self, split)
    )
    for position in sweep.dyadic:
        sweep.errors(position)
    assert passes == ["test"]
    assert len(splices) == len(sweep.dyadic)


def test_a_search_on_mse_splices_the_dyadic_steps_alone(bench, sweep, splices):
    search_limit(bench, sweep, "mse", 0.004)
    assert len(splices) == len(sweep.dyadic)
    splices.clear()
    search_limit(bench, sweep, "fvu", 0.05)
    assert splices == []
    assert [name for name, metric in METRICS.items() if metric.spliced] == ["delta_ce", "kl"]


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_at_a_decoder_precision_are_those_of_the_spliced_one(sweep, splices, bits):
    errors = sweep.at_precision(20, bits, spliced=False)
    assert splices == []
    whole = sweep.at_precision(20, bits, spliced=True)
    assert isinstance(whole, DistortionSums)
    assert np.array_equal(errors.squared_error, whole.squared_error)
    assert not np.array_equal(errors.squared_error, sweep.errors(20).squared_error)


def test_a_metric_reads_the_same_from_errors_and_distortions(bench, sweep):
    errors, whole = sweep.errors(7), sweep.distortion(7)
    metrics = whole.metrics(bench.reference)
    n_tokens = bench.reference.tokens.sum()
    for metric in ("mse", "fvu"):
        per_document = bench.per_document(errors, metric)
        assert np.array_equal(per_document, bench.per_document(whole, metric))
        assert per_document.sum() / n_tokens == pytest.approx(metrics[metric], rel=1e-12)
    for metric in ("delta_ce", "kl"):
        mean = bench.per_document(whole, metric).sum() / n_tokens
        assert mean == pytest.approx(metrics[metric], rel=1e-12)
        with pytest.raises(AttributeError):
            bench.per_document(errors, metric)


def test_relative_steps(bench, coder):
    steps = Steps(finest=0.25, octaves=3, unit="latent_rms")
    scale = passes.quantiser_scale(coder, MODES["normalised"])
    x = next(bench.source.blocks("calibration")).activations
    latents, _ = checked.encode(coder, x)
    values = latents.scaled(scale).to_dense().astype(np.float64)
    rms = float(f"{np.sqrt((values[values != 0] ** 2).mean()):.3g}")
    found = passes.absolute_steps(steps, coder, bench.source, scale)
    assert found == Steps(finest=0.25 * rms, octaves=3)
    assert found.grid == [0.25 * rms, 0.5 * rms, 1.0 * rms]
    absolute = Steps(finest=0.25, octaves=3)
    assert passes.absolute_steps(absolute, coder, bench.source, scale) is absolute


def test_the_reference_waits_until_it_is_asked_for(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(passes, "reference", lambda source: pytest.fail("two passes"))
    lazy = Bench.open(Opener(tiny_suite(tmp_path)), Site(hook=PIXELS))
    assert lazy.measurement() == bench.measurement()
    assert torch.equal(
        next(lazy.source.blocks("test")).activations, next(bench.source.blocks("test")).activations
    )
