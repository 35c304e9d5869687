"""A whole record against an obvious float64 computation of the same numbers."""

import base64
import dataclasses
import io
import json
import math
import shutil
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.codes import bitstream
from mdlbench.records.checks import problems_of
from mdlbench.records.record import operating_point, profile_ranks
from mdlbench.scoring import audit
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.pictures import pictures_of
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.worker import HeldSae
from mdlbench.sources import images
from mdlbench.sources.images import Images
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.open import Opener
from mdlbench.statistics.bootstrap import Bootstrap, percentile_interval
from mdlbench.statistics.tolerance import STEPS_PER_OCTAVE, step_at
from mdlbench.suite.site import Site
from tests.tiny import N_TEST, N_TRAIN, tiny_suite, write_sae


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return tiny_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    return write_sae(tmp_path_factory.mktemp("sae"))


@pytest.fixture(scope="module")
def record(suite, sae):
    return evaluate(str(sae), suite)


def open_bench(suite):
    return Bench.open(InProcess(Opener(suite)), Site(hook=PIXELS))


class Oracle:
    """The measurement written out densely: float64 latents, one token at a time where it helps."""

    def __init__(self, suite, sae):
        source = Images(suite)
        self.x, self.labels, self.source = {}, source._labels["test"], source
        for split in ("calibration", "test"):
            blocks = [block.activations.numpy() for block in source.blocks(split)]
            self.x[split] = np.concatenate(blocks).astype(np.float64)
        self.w = {
            k: v.astype(np.float64) for k, v in load_file(sae / "sae_weights.safetensors").items()
        }
        self.norms = np.linalg.norm(self.w["W_dec"], axis=1)

    def latents(self, split):
        pre = (self.x[split] - self.w["b_dec"]) @ self.w["W_enc"] + self.w["b_enc"]
        return np.where(pre > self.w["threshold"], pre, 0.0)

    def symbols(self, split, step):
        scaled = self.latents(split) * self.norms
        return (np.sign(scaled) * np.floor(np.abs(scaled) / step + 0.5)).astype(int)

    def decode(self, z):
        return z @ self.w["W_dec"] + self.w["b_dec"]

    def quantised(self, step):
        return self.decode(self.symbols("test", step) * step / self.norms)

    def log_probabilities(self, x):
        logits = self.source._classifier(torch.from_numpy(x).float()).detach().double()
        return torch.log_softmax(logits, dim=1).numpy()

    def losses(self, reconstruction):
        x, n = self.x["test"], len(self.x["test"])
        clean, spliced = self.log_probabilities(x), self.log_probabilities(reconstruction)
        rows = np.arange(n), self.labels.astype(int)
        error = ((x - reconstruction) ** 2).sum()
        return {
            "mse": error / x.size,
            "fvu": error / ((x - x.mean(0)) ** 2).sum(),
            "ce": -spliced[rows].mean(),
            "delta_ce": (clean[rows] - spliced[rows]).mean(),
            "kl": (np.exp(clean) * (clean - spliced)).sum(1).mean(),
        }

    def plugin(self, step):
        bits = 0.0
        for column in self.symbols("test", step).T:
            for n in Counter(column.tolist()).values():
                bits -= n / N_TEST * math.log2(n / N_TEST)
        return bits

    def upper_mse(self, suite, step):
        errors = ((self.x["test"] - self.quantised(step)) ** 2).mean(1)
        means = Bootstrap(np.ones(N_TEST), suite.replicates, suite.seed).means(errors)
        return np.quantile(means, 0.95)


@pytest.fixture(scope="module")
def oracle(suite, sae):
    return Oracle(suite, sae)


def test_sizes_and_floor(record, oracle):
    assert (record.n_tokens.calibration, record.n_tokens.test) == (N_TRAIN, N_TEST)
    z = oracle.latents("test")
    assert record.coder.l0 == pytest.approx((z != 0).sum(1).mean(), abs=0.02)
    alive = (z != 0).any(0) | (oracle.latents("calibration") != 0).any(0)
    assert record.coder.dead_fraction == pytest.approx(1 - alive.mean())
    floor = oracle.losses(oracle.decode(z))
    for name, value in floor.items():
        assert getattr(record.floor, name) == pytest.approx(value, rel=1e-4, abs=1e-7), name


def test_every_dyadic_step_is_a_point_and_every_point_agrees(record, oracle, suite):
    steps = [point.step for point in record.points]
    assert steps == sorted(steps)
    assert set(suite.steps.grid) <= set(steps)
    for point in record.points:
        symbols = oracle.symbols("test", point.step)
        assert point.l0 == pytest.approx((symbols != 0).sum(1).mean(), abs=0.02)
        for name, value in oracle.losses(oracle.quantised(point.step)).items():
            assert getattr(point, name) == pytest.approx(value, rel=2e-3, abs=1e-5), name
        assert point.bits.plugin == pytest.approx(oracle.plugin(point.step), rel=2e-3)


def test_identities_between_the_rates(record):
    for point in record.points:
        bits = point.bits
        assert bits.plugin == pytest.approx(bits.support + bits.magnitude, rel=1e-12)
        assert bits.heldout >= bits.plugin
        assert bits.total == bits.heldout + bits.side
        assert bits.heldout_ci[0] <= bits.heldout <= bits.heldout_ci[1]
        assert point.interval("mse")[0] <= point.mse <= point.interval("mse")[1]


def test_exactly_the_headline_point_is_audited_with_real_bytes(record):
    audited = [point for point in record.points if point.bits.coded is not None]
    assert [point.step for point in audited] == [record.at("mse", 0.004).step]
    flush = 64 / N_TEST
    assert 0 <= audited[0].bits.coded - audited[0].bits.heldout <= flush
    assert record.coder.codebook_bits > 0


def test_a_long_split_is_audited_in_parts(record, suite, sae, monkeypatch):
    sizes = []
    encode = bitstream.encode
    monkeypatch.setattr(audit, "AUDITED_TOKENS", 100)
    monkeypatch.setattr(images, "BLOCK_IMAGES", 60)
    monkeypatch.setattr(
        bitstream,
        "encode",
        lambda symbols, *a, **k: sizes.append(symbols.n_tokens) or encode(symbols, *a, **k),
    )
    coded = [point.bits.coded for point in evaluate(str(sae), suite).points]
    (in_parts,) = [bits for bits in coded if bits is not None]
    (whole,) = [p.bits.coded for p in record.points if p.bits.coded is not None]
    assert sum(sizes) == N_TEST
    assert all(size >= 100 for size in sizes[:-1])
    assert len(sizes) > 1
    assert 0 <= in_parts - whole <= 64 * len(sizes) / N_TEST


def test_the_accepted_step_is_the_last_that_passes(record, oracle, suite):
    result = record.at("mse", 0.004)
    positions = range((suite.steps.octaves - 1) * STEPS_PER_OCTAVE + 1)
    passing = [
        p for p in positions if oracle.upper_mse(suite, step_at(suite.steps.finest, p)) <= 0.004
    ]
    assert result.feasible
    assert result.step == step_at(suite.steps.finest, passing[-1])
    assert operating_point(record, result).bits.total > result.bits
    assert len(result.replicates) == suite.replicates
    assert result.bits_ci[0] <= result.bits <= result.bits_ci[1]
    assert np.mean(result.replicates) == pytest.approx(result.bits, rel=0.01)


def test_an_unreachable_tolerance_is_infeasible_with_nothing_invented(record):
    result = record.at("mse", 0.001)
    assert record.floor.mse > 0.001
    assert not result.feasible
    assert (result.step, result.bits, result.bits_ci, result.l0) == (None, None, None, None)
    assert not result.ranked
    assert result.replicates == []


def test_decoder_precision_is_the_coarsest_that_keeps_the_headline(record, oracle, suite):
    step, limit = record.at("mse", 0.004).step, 0.004
    symbols = oracle.symbols("test", step) * step / oracle.norms

    def upper(bits):
        largest = max(np.abs(oracle.w["W_dec"]).max(), np.abs(oracle.w["b_dec"]).max())
        unit = largest / (2 ** (bits - 1) - 1)
        rows, bias = (np.round(oracle.w[name] / unit) * unit for name in ("W_dec", "b_dec"))
        errors = ((oracle.x["test"] - symbols @ rows - bias) ** 2).mean(1)
        means = Bootstrap(np.ones(N_TEST), suite.replicates, suite.seed).means(errors)
        return np.quantile(means, 0.95)

    bits = record.coder.decoder_weight_bits
    assert upper(bits) <= limit < upper(bits - 1)
    live = round(24 * (1 - record.coder.dead_fraction))
    assert record.coder.decoder_bits == (live * 64 + 64) * bits
    model_bits = record.coder.decoder_bits + record.coder.codebook_bits
    shipped = operating_point(record, record.at("mse", 0.004)).bits.total
    assert record.coder.break_even_tokens == pytest.approx(model_bits / shipped)


@pytest.mark.parametrize("model_bits", [lambda bits: 700 * bits + 32, 12_345.0])
def test_a_factored_decoder_is_priced_by_its_adapter(suite, sae, record, model_bits):
    """Its rows come from fewer numbers than they have, or cost the same at any precision."""
    bench = open_bench(suite)
    coder = load_coder(str(sae))
    factored = dataclasses.replace(
        coder, spec=dataclasses.replace(coder.spec, model_bits=model_bits)
    )
    held = HeldSae(lambda source: factored)
    found = evaluate_coder(bench, held, bench.identity(coder.spec.identity)).record
    facts, plain = found.coder, record.coder
    bits = plain.decoder_weight_bits if callable(model_bits) else None
    expected = 700 * bits + 32 if bits else 12_345
    assert (facts.decoder_weight_bits, facts.decoder_bits) == (bits, expected)
    assert facts.model_bits == expected
    assert facts.break_even_tokens == pytest.approx(
        (expected + facts.codebook_bits) / operating_point(found, found.at("mse", 0.004)).bits.total
    )
    assert found.points == record.points
    assert list(problems_of(found, suite)) == []
    assert json.loads(found.to_json())["coder"]["model_bits"] == expected
    assert "model_bits" not in json.loads(record.to_json())["coder"]


def test_rescaling_encoder_against_decoder_changes_nothing(suite, sae, tmp_path, record):
    from safetensors.numpy import save_file

    weights = load_file(sae / "sae_weights.safetensors")
    scale = np.float32(2.0) ** np.random.default_rng(0).integers(-3, 4, size=24).astype(np.float32)
    for name in ("W_enc", "b_enc", "threshold"):
        weights[name] = weights[name] * scale
    weights["W_dec"] = weights["W_dec"] / scale[:, None]
    other = tmp_path / "rescaled"
    other.mkdir()
    (other / "cfg.json").write_text((sae / "cfg.json").read_text())
    save_file(weights, other / "sae_weights.safetensors")
    rescaled = evaluate(str(other), suite)
    for mine, theirs in zip(record.points, rescaled.points, strict=True):
        assert mine.bits == theirs.bits
        assert mine.mse == pytest.approx(theirs.mse, rel=1e-6)


def test_a_python_object_scores_like_its_folder(suite, sae, record):
    weights = {
        k: torch.from_numpy(v) for k, v in load_file(sae / "sae_weights.safetensors").items()
    }

    @dataclasses.dataclass
    class Mine:
        W_dec: torch.Tensor

        def encode(self, x):
            pre = (x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
            return pre * (pre > weights["threshold"])

        def decode(self, z):
            return z @ self.W_dec + weights["b_dec"]

    mine = evaluate(Mine(weights["W_dec"]), suite, name="mine")
    assert mine.name == "mine"
    assert mine.at("mse", 0.004).bits == pytest.approx(record.at("mse", 0.004).bits, rel=1e-3)


def test_side_information_is_charged_everywhere(suite, sae, tmp_path, record):
    normalised = tmp_path / "layer-norm"
    shutil.copytree(sae, normalised)
    config = json.loads((sae / "cfg.json").read_text())
    (normalised / "cfg.json").write_text(
        json.dumps(config | {"normalize_activations": "layer_norm"})
    )
    charged = evaluate(str(normalised), suite)
    assert {point.bits.side for point in record.points} == {0.0}
    for point in charged.points:
        assert point.bits.side == 64.0  # mean and standard deviation as float32
        assert point.bits.total == point.bits.heldout + 64.0
    met = [result for result in charged.tolerances if result.feasible]
    assert met
    for result in met:
        point = next(point for point in charged.points if point.step == result.step)
        assert result.bits == point.bits.total
        assert np.mean(result.replicates) == pytest.approx(result.bits, rel=0.01)
        assert result.bits_ci[0] > 64.0


def test_references_against_numpy(suite, oracle):
    references = open_bench(suite).references()
    train, test = oracle.x["calibration"], oracle.x["test"]
    eigenvalues = np.linalg.eigvalsh(np.cov(test.T, bias=True))[::-1]
    assert np.allclose(references.eigenvalues, eigenvalues, atol=1e-6)
    low, span = train.min(0), np.ptp(train, axis=0)
    assert [n for n, _ in references.dense] == list(range(1, 9))
    for n, mse in references.dense:
        unit = span / (2**n - 1)
        levels = np.clip(np.round((test - low) / unit), 0, 2**n - 1)
        assert mse == pytest.approx(((test - low - levels * unit) ** 2).mean(), rel=1e-3)


def test_bits_of_latents_add_up_to_the_rate(suite, sae):
    bench = open_bench(suite)
    named = NamedCoder(str(sae))
    record, latent_bits = evaluate_coder(bench, named, bench.identity(bench.identify(named)))
    shipped = operating_point(record, record.at("mse", 0.004))
    assert latent_bits.sum() == pytest.approx(shipped.bits.total, rel=1e-12)
    assert latent_bits[-8:].max() < 0.01 < latent_bits[:16].min()
    profile = record.latents
    assert profile.bits == pytest.approx(-np.sort(-latent_bits)[np.array(profile.ranks) - 1])
    assert profile.cumulative_bits[-1] == pytest.approx(latent_bits.sum(), rel=1e-12)


def test_the_profile_has_the_firing_rates_of_quantised_latents(suite, sae):
    record = evaluate(str(sae), suite)
    profile = record.latents
    point = next(point for point in record.points if point.bits.coded is not None)
    assert profile.step == point.step
    assert profile.ranks == list(range(1, record.coder.d_latents + 1))
    assert sum(profile.firing_rates) == pytest.approx(point.l0, rel=1e-12)
    assert profile.firing_rates == sorted(profile.firing_rates, reverse=True)


def test_resamples_of_a_point_are_the_bootstrap_of_its_intervals(record):
    for point in record.points:
        for drawn, interval in (
            (point.resampled_bits() - point.bits.side, point.bits.heldout_ci),
            (point.resampled("mse"), point.interval("mse")),
            (point.resampled("delta_ce"), point.interval("delta_ce")),
        ):
            width = interval[1] - interval[0]
            assert percentile_interval(drawn) == pytest.approx(interval, rel=0, abs=1e-3 * width)
        assert point.resampled("fvu") / point.fvu == pytest.approx(
            point.resampled("mse") / point.mse
        )


def test_bits_at_a_tolerance_are_the_hull_of_the_points_in_the_record_and_in_every_draw(record):
    """Recomputed from the record alone, with all pairs of points written out."""
    feasible = [result for result in record.tolerances if result.feasible]
    assert feasible
    for result in feasible:
        metric, epsilon = result.metric, result.epsilon
        curve = [(p.bits.total, p.loss(metric)) for p in record.points]
        assert result.bits == pytest.approx(hull_at(curve, epsilon), rel=1e-12)
        drawn = np.stack([(p.resampled_bits(), p.resampled(metric)) for p in record.points], axis=1)
        expected = [hull_at(drawn[:, :, i].T.tolist(), epsilon) for i in range(drawn.shape[2])]
        spread = max(expected) - min(expected)
        assert result.replicates == pytest.approx(expected, rel=0, abs=2e-3 * spread)
        assert result.bits_ci == pytest.approx(percentile_interval(np.array(result.replicates)))


def hull_at(curve, epsilon):
    within = [point for point in curve if point[1] <= epsilon]
    beyond = [point for point in curve if point[1] > epsilon]
    if not within:
        return min(curve, key=lambda point: point[1])[0]
    chords = [r + (epsilon - d) / (e - d) * (s - r) for (r, d), (s, e) in product(within, beyond)]
    return min([*chords, *(rate for rate, _ in within)])


def test_pictures_are_decoder_rows_in_red_and_blue():
    rows = np.array([[0, 1, -1, 0.5], [2, 0, 0, 0]], dtype=np.float32)
    pictures = pictures_of(rows, (2, 2), np.array([1.0, 2.0]))
    assert pictures.latents == [1, 0]
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures.png))).convert("RGB"))
    assert image.shape == (2, 8 * 3 - 1, 3)
    red, blue, white = image[0, 0], image[1, 3], image[1, 0]
    assert red[0] > 2 * red[2]
    assert blue[2] > 2 * blue[0]
    assert white.min() > 240
    assert (image[0, 3] == white).all()
    assert (image[0, 4] == red).all()


@pytest.mark.parametrize("n_latents", [1, 2, 63, 64, 65, 4096, 98_304])
def test_ranks_of_a_profile_reach_from_first_to_last(n_latents):
    ranks = profile_ranks(n_latents)
    assert (ranks[0], ranks[-1]) == (1, n_latents)
    assert (np.diff(ranks) > 0).all()
    assert len(ranks) <= 64


def test_baselines_bound_the_curve(suite):
    mean = evaluate("baseline:mean", suite)
    assert mean.floor.fvu == pytest.approx(1.0, abs=0.02)
    assert {point.bits.total for point in mean.points} == {0.0}
    pca = evaluate("pca", suite)
    assert pca.name == "pca"
    assert pca.floor.mse < 1e-6
    assert pca.at("mse", 0.001).feasible


def test_a_limited_run_is_partial_and_not_ranked(suite):
    partial = evaluate("pca", suite, limit=50)
    assert partial.partial
    assert partial.n_tokens.test == 50
    assert not any(result.ranked for result in partial.tolerances)
    assert partial.id != evaluate("pca", suite, limit=60).id
