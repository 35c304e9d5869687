"""Passes over a split: what each costs in splices, and that they agree."""

from __future__ import annotations

import numpy as np
import pytest

from mdlbench.adapters import checked
from mdlbench.adapters.load import NamedCoder
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.encoded import encoded
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.rounds import CoderRounds, Rounds
from mdlbench.scoring.sweep import Sweep
from mdlbench.sources.images import Images
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener
from mdlbench.statistics.distortion import DistortionSums, ErrorSums
from mdlbench.suite.site import Site
from mdlbench.suite.suite import Steps
from tests.tiny import tiny_suite, write_sae


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    opener = Opener(tiny_suite(tmp_path_factory.mktemp("suite")))
    return Bench.open(InProcess(opener), Site(hook=PIXELS))


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return NamedCoder(str(write_sae(tmp_path_factory.mktemp("sae"))))


@pytest.fixture
def sweep(bench, sae):
    with encoded(bench, sae) as run:
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


def test_what_is_known_is_not_measured_again(sweep, splices):
    whole = {position: sweep.distortion(position) for position in (20, 7)}
    splices.clear()
    sweep.measure([7, 20])
    assert all(sweep.distortion(position) is sums for position, sums in whole.items())
    assert splices == []


def test_the_dyadic_steps_take_one_pass(sweep, splices, monkeypatch):
    passes, original = [], Images.blocks
    monkeypatch.setattr(
        Images, "blocks", lambda self, *part: passes.append(part[0]) or original(self, *part)
    )
    sweep.measure(sweep.dyadic)
    assert passes == ["test"]
    assert len(splices) == len(sweep.dyadic)


def test_steps_priced_together_cost_what_each_costs_alone(sae, bench):
    """Rates of dyadic and other steps from one count of each split, bit for bit."""
    with encoded(bench, sae) as run:
        together = run.sweep
        together.price([3, 8, 16, 19, 24])
        alone = Sweep(together.latents, bench.mode, bench.suite.steps)
        for position in (3, 8, 16, 19, 24):
            one, other = together.rates(position), alone.rates(position)
            assert (one.heldout, one.adaptive, one.l0) == (other.heldout, other.adaptive, other.l0)
            assert np.array_equal(one.document_bits, other.document_bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_errors_at_a_decoder_precision_are_those_of_the_spliced_one(sweep, splices, bits):
    unrounded = sweep.distortion(20)
    splices.clear()
    errors = sweep.at_precision(20, bits, spliced=False)
    assert splices == []
    whole = sweep.at_precision(20, bits, spliced=True)
    assert isinstance(whole, DistortionSums)
    assert np.array_equal(errors.squared_error, whole.squared_error)
    assert type(errors) is ErrorSums
    assert not np.array_equal(errors.squared_error, unrounded.squared_error)


def test_a_metric_reads_the_same_from_errors_and_distortions(bench, sweep):
    whole = sweep.distortion(7)
    errors = ErrorSums(whole.squared_error, whole.cosine)
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


def test_relative_steps(bench, sae):
    steps = Steps(finest=0.25, octaves=3, unit="latent_rms")
    coder = sae.load()
    latents, _ = checked.encode(coder, next(Images(bench.suite).blocks("calibration")).activations)
    values = latents.scaled(coder.spec.decoder_norms).to_dense().astype(np.float64)
    rms = float(f"{np.sqrt((values[values != 0] ** 2).mean()):.3g}")
    rounds = CoderRounds.of(bench.rounds, sae)
    found = rounds.absolute_steps(steps, normalised=True)
    assert found == Steps(finest=0.25 * rms, octaves=3)
    assert found.grid == [0.25 * rms, 0.5 * rms, 1.0 * rms]
    absolute = Steps(finest=0.25, octaves=3)
    assert rounds.absolute_steps(absolute, normalised=True) is absolute


def test_the_reference_waits_until_it_is_asked_for(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(Rounds, "reference", lambda self: pytest.fail("two passes"))
    lazy = Bench.open(InProcess(Opener(tiny_suite(tmp_path))), Site(hook=PIXELS))
    assert lazy.measurement() == bench.measurement()
    assert lazy.source == bench.source
