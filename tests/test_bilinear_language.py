"""MLPs of a tiny language model turned bilinear: training, losses, eigenvectors, verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from mdlbench.adapters.identity import CoderIdentity
from mdlbench.adapters.parts import Decoder, Encoder, TopK, assemble
from mdlbench.bilinear.interaction import interaction_matrix
from mdlbench.bilinear.layer import BilinearLayer
from mdlbench.bilinear.spectrum import output_spectrum
from mdlbench.cli.app import app
from mdlbench.errors import CheckpointError, UsageError
from mdlbench.papers import bilinear_language as experiment
from mdlbench.papers.bilinear_language import claims, explained, inputs, outputs, report, scores
from mdlbench.papers.bilinear_language.convert import BILINEAR, GATE_KEPT, Match, convert
from mdlbench.papers.bilinear_language.converted import Converted
from mdlbench.papers.bilinear_language.dictionaries import Dictionary
from mdlbench.papers.bilinear_language.eigencoders import Explainer
from mdlbench.papers.bilinear_language.estimate import Estimate
from mdlbench.papers.bilinear_language.evidence import MEAN, TUNED, ZERO, alone, together
from mdlbench.papers.bilinear_language.explained import Feature
from mdlbench.papers.bilinear_language.fit import Schedule
from mdlbench.papers.bilinear_language.gated import GATED_FILE, Gated, load_gated, save_gated
from mdlbench.papers.bilinear_language.host import Host
from mdlbench.papers.bilinear_language.inputs import Harvest
from mdlbench.papers.bilinear_language.plan import Plan
from mdlbench.papers.bilinear_language.tuning import Together
from mdlbench.records.record import ToleranceResult
from mdlbench.sources.language import opener as opening
from mdlbench.sources.language.source import Language
from mdlbench.suite.site import Site
from tests.tiny_language import causal_lm, contexts, decoder, language_suite, naive

FIRST = 3
"""The first position that is measured."""
PLAN = Plan(
    layers=(0, 2),
    tokens=1500,
    held_out=400,
    epochs=2,
    batch_size=128,
    lr=3e-3,
    warm_up=3,
    tuning_contexts=32,
    tuning_epochs=2,
    tuning_batch=4,
    tuning_lr=1e-3,
    tuning_warm_up=2,
    studied=2,
    width=24,
    k=4,
    budgets=(1, 2, 4),
    parts=2,
    features=6,
    least_active=20,
    interacting=2,
    epsilons=(0.02, 0.3),
    fvus=(0.3, 0.9),
    test_contexts=9,
    code_contexts=40,
    eigenvectors=(1, 16),
    squares=30,
    directions=8,
    fitted=700,
    replicates=200,
    scored_text="own",
)


@pytest.fixture(scope="module")
def llama():
    return causal_lm("llama")


@pytest.fixture(scope="module")
def host(llama):
    return Host(decoder(llama), contexts(5, seed=3), FIRST)


@pytest.fixture(scope="module")
def teacher(host):
    return Gated.of(host.mlp(1))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def half(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).half()


# the layer


def test_a_gated_layer_is_the_models_mlp_at_one_and_bilinear_at_zero(host, teacher):
    x = half(50).float()
    assert torch.allclose(teacher(x), host.mlp(1)(x), atol=1e-6)
    teacher = Gated(teacher.w, teacher.v, teacher.p, scale=1.7, beta=0.0)
    w, v, p = (one.detach().double().numpy() for one in (teacher.w, teacher.v, teacher.p))
    expected = ((1.7 * x.double().numpy() @ w.T / 2) * (x.double().numpy() @ v.T)) @ p.T
    np.testing.assert_allclose(teacher(x).detach().numpy(), expected, atol=1e-4)
    found = teacher.bilinear().output(x.double().numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_beta_in_between(teacher):
    layer = Gated(teacher.w, teacher.v, teacher.p, scale=0.5, beta=0.3)
    x = half(20).float()
    z = x @ layer.w.T
    expected = (0.5 * z / (1 + torch.exp(-0.3 * z)) * (x @ layer.v.T)) @ layer.p.T
    assert torch.allclose(layer(x), expected, atol=1e-5)
    with pytest.raises(UsageError, match=r"β = 0\.3 is not linear"):
        layer.bilinear()


def test_what_is_no_swiglu_is_refused():
    with pytest.raises(UsageError, match="no gate_proj, up_proj, down_proj without biases"):
        Gated.of(causal_lm("gpt2").transformer.h[0].mlp)
    with pytest.raises(UsageError, match="is not Swish"):
        Gated.of(causal_lm("llama", hidden_act="gelu").model.layers[0].mlp)


def test_a_layers_file(teacher, tmp_path):
    layer = Gated(teacher.w, teacher.v, teacher.p, scale=1.25, beta=0.0)
    save_gated(layer, tmp_path / GATED_FILE)
    again = load_gated(tmp_path / GATED_FILE)
    assert again.sha256 == layer.sha256 != teacher.sha256
    assert (float(again.scale), again.beta) == (1.25, 0.0)
    with torch.no_grad():
        layer.w[0, 0] = torch.nan
    save_gated(layer, tmp_path / GATED_FILE)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_gated(tmp_path / GATED_FILE)
    (tmp_path / GATED_FILE).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="not a gated layer that can be read"):
        load_gated(tmp_path / GATED_FILE)


# the host


def test_losses_with_other_mlps_against_a_model_run_whole(llama, host):
    text = contexts(5, seed=3)
    mask = ~np.isin(text.tokens, (0, 7)) & (np.arange(text.tokens.shape[1]) >= FIRST)
    run = naive(llama, "llama")

    def sums(log_probabilities):
        losses = -np.take_along_axis(log_probabilities, text.labels[..., None], axis=2)[..., 0]
        return np.where(mask, losses, 0).sum(axis=1)

    np.testing.assert_allclose(host.loss_sums({}), sums(run.clean(text.tokens)), rtol=1e-4)
    np.testing.assert_array_equal(host.n_tokens, mask.sum(axis=1))
    read = run.activations(text.tokens, "mlp_in", 1)
    found = host.inputs(slice(0, 5), [1])[1]
    np.testing.assert_allclose(found, read[torch.from_numpy(mask)], atol=1e-4)
    weights = half(16, 16, seed=5).double()
    new = read[torch.from_numpy(mask)].double() @ weights
    expected = sums(run.log_probabilities(text.tokens, "mlp_out", 1, new, mask))
    changed = host.loss_sums({1: lambda x: x @ weights.float()})
    np.testing.assert_allclose(changed, expected, rtol=1e-4)
    assert not np.allclose(changed, host.loss_sums({}), rtol=1e-3)


def test_a_layer_that_is_not_there(host):
    with pytest.raises(UsageError, match="no layer 3: its layers are 0 to 2"):
        host.mlp(3)


def test_inputs_are_computed_once(host, own_cache, monkeypatch):
    found = inputs.harvest(host, [0, 2], 20, 8, lambda stage: None)
    text = torch.cat([host.inputs(host.block(i), [2])[2] for i in range(host.n_blocks)])
    assert torch.equal(found.trained_on(2), text[:20].half())
    assert torch.equal(found.held_out(2), text[20:28].half())
    monkeypatch.setattr(Host, "inputs", None)
    again = inputs.harvest(host, [0, 2], 20, 8, lambda stage: None)
    assert torch.equal(again.trained_on(0), found.trained_on(0))
    with pytest.raises(UsageError, match=r"of 1,000 tokens are missing"):
        inputs.harvest(host, [0, 2], 900, 100, lambda stage: None)


def test_outputs_are_computed_once(teacher, own_cache, monkeypatch):
    x = half(30)
    monkeypatch.setattr(outputs, "CHUNK", 8)
    found = outputs.outputs_of(teacher, x)
    assert torch.equal(found, teacher(x.float()).detach().half())
    monkeypatch.setattr(Gated, "forward", None)
    assert torch.equal(outputs.outputs_of(teacher, x), found)
    y = found.double()
    expected = float((y - y.mean(dim=0)).square().sum(dim=1).mean())
    assert outputs.variance(found) == pytest.approx(expected, rel=1e-5)


# training


def test_the_schedule():
    schedule = Schedule(0.1, 4, 1)
    assert schedule.rate(0, 100) == pytest.approx(0.1 / 4)
    assert schedule.rate(3, 100) == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 0.03)))
    assert schedule.rate(50, 100) == pytest.approx(0.05)
    assert schedule.rate(99, 100) < 1e-4


def test_beta_falls_to_zero_or_stays(teacher, own_cache):
    plan = replace(PLAN, epochs=2, batch_size=10, annealed=0.5)
    job = Match(teacher, half(100), half(20, seed=1), plan, anneals=True)
    betas = [job.beta(step) for step in range(20)]
    np.testing.assert_allclose(betas[:11], [*np.linspace(0.9, 0, 10), 0.0], atol=1e-9)
    assert set(betas[10:]) == {0.0}
    kept = Match(teacher, half(100), half(20, seed=1), plan, anneals=False)
    assert {kept.beta(step) for step in range(20)} == {1.0}
    assert kept.held_out_loss() == pytest.approx(0.0, abs=1e-6)


def test_training_lowers_what_a_linear_gate_loses(teacher, own_cache, tmp_path):
    """On inputs with a mean: around zero, nothing even can match what is odd."""
    found = Harvest({1: [half(3000) + 1, half(500, seed=1) + 1]}, 3000)
    plan = replace(PLAN, epochs=6)
    job = Match(teacher, found.trained_on(1), found.held_out(1), plan, anneals=True)
    job.student.beta = 0.0
    x, y = found.held_out(1).float(), teacher(found.held_out(1).float()).detach()
    spread = (y - y.mean(dim=0)).square().sum(dim=1).mean()
    before = float((job.student(x).detach() - y).square().sum(dim=1).mean() / spread)
    assert job.held_out_loss() == pytest.approx(before, rel=1e-2)
    file = convert(teacher, found, 1, {}, plan, True, tmp_path / "run", lambda stage: None)
    layer = load_gated(file)
    after = float((layer(x) - y).square().sum(dim=1).mean() / spread)
    assert layer.beta == 0.0
    assert float(layer.scale) != 1.0
    assert after < 0.8 * before
    rows = experiment.read_rows(file.parent)
    assert rows[-1].held_out_loss == pytest.approx(after, rel=1e-2)
    with pytest.raises(UsageError, match="holds a run with lr"):
        convert(teacher, found, 1, {}, replace(plan, lr=1.0), True, file.parent, lambda _: None)


def test_an_interrupted_training_goes_on_to_the_same_weights(teacher, own_cache, tmp_path):
    found = Harvest({1: [half(600), half(100, seed=1)]}, 600)

    def run(folder, on_stage=lambda stage: None):
        return load_gated(
            convert(teacher, found, 1, {}, replace(PLAN, epochs=3), True, folder, on_stage)
        )

    def killed(stage):
        if "epoch 3" in stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", killed)
    stages = []
    again = run(tmp_path / "killed", stages.append)
    assert stages == ["killed: epoch 3 of 3"]
    assert again.sha256 == run(tmp_path / "whole").sha256
    assert not list((tmp_path / "killed").glob("checkpoint*"))


def test_together_the_untouched_predictions_are_matched(llama, host):
    plan = replace(PLAN, tuning_contexts=4, tuning_epochs=1, tuning_batch=2)
    layers = {n: Gated.of(host.mlp(n)) for n in (0, 2)}
    for layer in layers.values():
        layer.beta = 0.0
    job = Together(layers, host, host, plan)
    run, text = naive(llama, "llama"), contexts(5, seed=3)
    mask = ~np.isin(text.tokens, (0, 7)) & (np.arange(text.tokens.shape[1]) >= FIRST)
    clean = torch.from_numpy(run.clean(text.tokens)[:2][mask[:2]])
    with torch.no_grad():
        changed = torch.log_softmax(host.logits(slice(0, 2), layers).double(), 1)
    expected = float((clean.exp() * (clean - changed)).sum(dim=1).mean())
    loss = next(job.losses(0))
    assert loss.item() == pytest.approx(expected, rel=0.05)
    assert loss.item() > 0.001
    loss.backward()
    assert all(weights.grad.abs().sum() > 0 for weights in job.weights.values())
    kept = Together({n: Gated.of(host.mlp(n)) for n in (0, 2)}, host, host, plan)
    assert next(kept.losses(0)).item() < 0.01 * expected
    with pytest.raises(UsageError, match="40 contexts are too few"):
        Together(layers, host, host, replace(plan, tuning_contexts=40))


# eigenvectors


class Made:
    """An SAE whose latents are what is above a threshold along given directions."""

    def __init__(self, directions, threshold):
        self.directions, self.threshold = torch.from_numpy(directions).float(), threshold

    def encode(self, x):
        z = x @ self.directions.T
        return torch.where(z > self.threshold, z, 0.0)


def made(draw, d=6, hidden=9, features=5):
    layer = BilinearLayer(draw((hidden, d)), draw((hidden, d)), draw((d, hidden)))
    directions = draw((features, d))
    decoder = draw((features, d))
    return layer, Dictionary(Made(directions, 0.5), directions, decoder, draw(d))


def test_correlations_are_over_active_tokens():
    draw = np.random.default_rng(0).standard_normal
    layer, dictionary = made(draw)
    x = torch.from_numpy(draw((300, 6))).half()
    plan = replace(PLAN, features=3, least_active=30)
    found = list(explained.explain(layer, dictionary, x, plan))
    assert len(found) == 3
    inputs = x.double().numpy()
    for one in found:
        u = dictionary.encoder[one.feature]
        truth = layer.output(inputs) @ u
        active = truth > 0.5
        assert one.n_active == active.sum() >= 30
        values, vectors = np.linalg.eigh(interaction_matrix(layer, u))
        order = np.argsort(-np.abs(values))
        parts = np.square(inputs[active] @ vectors[:, order]) * values[order]
        assert np.corrcoef(parts.sum(axis=1), truth[active])[0, 1] == pytest.approx(1)
        for n, number in ((1, one.one), (2, one.two)):
            expected = np.corrcoef(parts[:, :n].sum(axis=1), truth[active])[0, 1]
            assert number == pytest.approx(expected, abs=1e-5)
        assert one.effective_rank == pytest.approx(output_spectrum(layer, u).effective_rank)
    with pytest.raises(UsageError, match="no feature is active on 301"):
        list(explained.explain(layer, dictionary, x, replace(plan, least_active=301)))


def test_shares_of_interactions_against_all_pairs_written_out():
    draw = np.random.default_rng(1).standard_normal
    layer, dictionary = made(draw)
    _, reads = made(draw, features=4)
    x = torch.from_numpy(draw((300, 6))).half()
    plan = replace(PLAN, features=3, least_active=30, interacting=1)
    (found,) = explained.interaction_shares(layer, dictionary, reads, x, plan)
    z = reads.sae.encode(x.float()).double().numpy()
    features = np.vstack([np.sqrt((z**2).mean(axis=0))[:, None] * reads.decoder, reads.bias])
    feature = next(explained.explain(layer, dictionary, x, plan)).feature
    q = features @ interaction_matrix(layer, dictionary.encoder[feature]) @ features.T
    written = [q[i, j] * (1 + (i != j)) for i in range(5) for j in range(i, 5)]
    pairs = np.square(written[:-1])  # the last one is the constant
    held = np.cumsum(-np.sort(-pairs)) / pairs.sum()
    assert found == pytest.approx([held[0], held[1], held[4], held[9]])
    assert found[-1] > found[0]


# eigenvectors as coders


def bilinear_mlp(seed=0, hidden=9, d=6):
    draw = np.random.default_rng(seed).standard_normal
    w, v, p = (torch.from_numpy(draw(shape)).float() for shape in [(hidden, d)] * 2 + [(d, hidden)])
    return Gated(w, v, p, scale=1.4, beta=0.0).requires_grad_(False)


def output_sae(d=6, features=11, k=3, seed=2):
    draw = np.random.default_rng(seed).standard_normal
    encoder, bias, centre, rows, b = (
        torch.from_numpy(draw(shape)).float()
        for shape in [(d, features), features, d, (features, d), d]
    )
    identity = CoderIdentity(name="own", adapter="a", version="1", arguments={}, weights_sha256="0")
    encode = Encoder(encoder, bias, centre, TopK(k))
    return assemble(identity, encode, Decoder(rows, b), architecture="topk", promised_l0=k)


def test_all_eigenvectors_predict_the_latents_of_the_sae():
    layer, sae = bilinear_mlp(), output_sae()
    x = half(400, 6) + 0.5
    coder = Explainer(layer, x, most=6).predicted(sae, 6)
    found, _ = coder.encode(x.float())
    truth, side = sae.encode(layer(x.float()))
    np.testing.assert_allclose(found.to_dense(), truth.to_dense(), atol=1e-3)
    reconstruction = coder.decode(found, side)
    np.testing.assert_allclose(reconstruction, sae.decode(truth, side), atol=1e-3)
    assert (coder.spec.promised_l0, coder.spec.d_latents) == (3, 11)


def test_few_eigenvectors_are_scaled_and_shifted_to_fit():
    layer, sae = bilinear_mlp(), output_sae()
    x = half(400, 6) + 0.5
    coder = Explainer(layer, x, most=2).predicted(sae, 1)
    inputs, encoder = x.double().numpy(), sae.encoder
    weights, bias, centre = (
        one.double().numpy() for one in (encoder.W_enc, encoder.b_enc, encoder.centre)
    )
    before = (layer.bilinear().output(inputs) - centre) @ weights + bias
    expected = np.empty_like(before)
    for f, u in enumerate(weights.T):
        values, vectors = np.linalg.eigh(interaction_matrix(layer.bilinear(), u))
        strongest = vectors[:, np.argmax(np.abs(values))]
        p = np.square(inputs @ strongest)
        expected[:, f] = np.polyval(np.polyfit(p, before[:, f], 1), p)
    least = np.sort(expected, axis=1)[:, -3][:, None]
    expected = np.where((expected >= least) & (expected > 0), expected, 0)
    found, _ = coder.encode(x.float())
    np.testing.assert_allclose(found.to_dense(), expected, atol=2e-3)
    with pytest.raises(UsageError, match="eigenvectors-1: its latents are no activation of a lin"):
        Explainer(layer, x, most=2).predicted(coder, 1)


def test_squares_as_latents():
    layer = bilinear_mlp()
    x = half(500, 6) * torch.linspace(0.2, 2, 6).half()
    whole = Explainer(layer, x, most=1).squares(100, scaled=False)
    latents, side = whole.encode(x.float())
    vectors = whole.encoder.W_enc.double().numpy()
    expected = np.square(x.double().numpy() @ vectors)
    expected -= expected.mean(axis=0)
    np.testing.assert_allclose(latents.to_dense(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-6)
    y = layer(x.float())
    np.testing.assert_allclose(whole.decode(latents, side), y, atol=1e-3)
    errors = {}
    for scaled in (False, True):
        few = Explainer(layer, x, most=1).squares(8, scaled)
        latents, side = few.encode(x.float())
        found = few.decode(latents, side)
        np.testing.assert_allclose(found.mean(dim=0), y.mean(dim=0), atol=1e-4)
        errors[scaled] = float((found - y).square().mean())
        if scaled:
            np.testing.assert_allclose(few.encoder.activation.mean, 1, atol=1e-3)
    assert errors[True] < errors[False]


def test_a_converted_model_is_a_source(host, teacher):
    change = Gated(teacher.w, teacher.v, teacher.p, beta=0.0).requires_grad_(False)
    splits = {"calibration": contexts(4, seed=1), "test": contexts(5, seed=3)}
    shared = {"context": 12, "prepend_bos": False, "first_position": FIRST}
    out = Site(hook="blocks.1.hook_mlp_out", **shared)
    source = Language(Converted(host, 1, change), splits, out)
    (block,) = source.blocks("test")
    inputs = host.inputs(slice(0, 5), [1])[1]
    np.testing.assert_allclose(block.activations, change(inputs), atol=1e-5)

    def sums(losses):
        return np.bincount(block.document, weights=losses)

    clean = host.loss_sums({1: change})
    np.testing.assert_allclose(sums(source.clean_ce(block)), clean, rtol=1e-5)
    assert not np.allclose(clean, host.loss_sums({}), rtol=1e-3)
    zeros = host.loss_sums({1: torch.zeros_like})
    np.testing.assert_allclose(sums(source.ablated_ce(block)), zeros, rtol=1e-5)
    halved = source.splice(block, block.activations / 2)
    expected = host.loss_sums({1: lambda x: change(x) / 2})
    np.testing.assert_allclose(sums(halved.ce), expected, rtol=1e-5)
    through = Site(hook="blocks.1.mlp.hook_in", hook_out=out.hook, **shared)
    (other,) = Language(Converted(host, 1, change), splits, through).blocks("test")
    np.testing.assert_allclose(other.given, inputs, atol=1e-5)
    assert torch.equal(other.activations, block.activations)
    before = Site(hook="blocks.1.hook_resid_mid", **shared)
    with pytest.raises(UsageError, match="is cut behind that MLP only, not in layer 1"):
        Language(Converted(host, 1, change), splits, before)


# the whole


def killed_before_pca(stage):
    if stage == "explanation: PCA":
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """What was gathered on a tiny model, and the folder that it lies in."""
    base = tmp_path_factory.mktemp("bilinear-language")
    source = {"place": {"hook": "blocks.1.hook_resid_pre", "context": 8, "prepend_bos": True}}
    language_suite(base / "suite", source=source)
    plan = replace(PLAN, suite=str(base / "suite"))
    folder, text = base / "results", str(base / "suite" / "own.txt")

    def load(config, options, device, dtype):
        return decoder(causal_lm("llama"), dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        patch.setattr(opening, "load_model", load)
        with pytest.raises(KeyboardInterrupt):
            experiment.gather(folder, plan, text, killed_before_pca)
        stages = []
        evidence = experiment.gather(folder, plan, text, stages.append)
        explained = [stage for stage in stages if stage.startswith("explanation")]
        assert explained == ["explanation: PCA", "explanation: 8 random directions"]
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
        for module, name in ((Host, "inputs"), (Host, "loss_sums"), (Gated, "forward")):
            patch.setattr(module, name, None)
        stages = []
        again = experiment.gather(folder, plan, text, stages.append)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == before
        assert again.features == evidence.features
        assert again.board == evidence.board
        assert not any(
            word in stage for stage in stages for word in ("epoch", "loss", "explanation")
        )
    return folder, evidence


def test_everything_is_measured_once(world):
    folder, evidence = world
    names = [alone(kind, n) for n in (0, 2) for kind in (BILINEAR, GATE_KEPT, MEAN, ZERO)]
    expected = {scores.CLEAN, *names, together(1), together(2), TUNED}
    assert set(evidence.sums) == expected
    assert len(evidence.tokens) == 10
    assert evidence.delta(together(1)) == evidence.delta(alone(BILINEAR, 0))
    assert set(evidence.fvu) == {alone(k, n) for k in (BILINEAR, GATE_KEPT) for n in (0, 2)}
    for n in (0, 2):
        assert evidence.fvu[alone(GATE_KEPT, n)] < 0.1 * evidence.fvu[alone(BILINEAR, n)]
    assert load_gated(folder / "converted" / alone(BILINEAR, 2) / GATED_FILE).beta == 0.0
    assert list(evidence.features) == [1, 2, 4]
    assert all(0 < len(found) <= 6 for found in evidence.features.values())
    assert all(fvu > 0 for fvu in evidence.sae_fvu.values())
    assert all(-1 <= one.two <= 1 for found in evidence.features.values() for one in found)


def test_what_is_written(world, tmp_path):
    _, evidence = world
    written = {path.name for path in experiment.write_evidence(tmp_path, evidence)}
    figures = {"layers", "together", "eigenvectors", "longer", "interactions"}
    figures |= {"board"}
    assert {f"{name}.png" for name in figures} | {"table.csv", "report.md"} <= written
    text = (tmp_path / "report.md").read_text()
    found = claims.claims(evidence)
    assert [one.claim.partition(":")[0] for one in found] == [
        "L5a", "L5b", "L5c", "L5d", "L3", "L4", "Beyond the paper"
    ]  # fmt: skip
    assert all(one.claim in text and one.evidence in text for one in found)
    assert all(claim in text and why in text for claim, why in claims.UNTESTED.items())
    assert len(report.table(evidence)) == 8 + 2 + 1 + 3 + 7


def test_explanations_are_scored_on_one_board(world):
    """With as many eigenvectors as inputs, latents are predicted without an error."""
    _, evidence = world
    assert list(evidence.board) == [
        "sae", "eigen-1", "eigen-16", "squares", "squares-scaled", "pca", "random"
    ]  # fmt: skip
    sae, every = evidence.board["sae"], evidence.board["eigen-16"]
    assert every.site.hook == "blocks.2.mlp.hook_in"
    assert every.site.hook_out == sae.site.hook == "blocks.2.hook_mlp_out"
    assert every.floor.fvu == pytest.approx(sae.floor.fvu, rel=1e-3)
    for one, other in zip(every.points, sae.points, strict=True):
        assert one.bits.total == pytest.approx(other.bits.total, rel=1e-2, abs=1e-6)
    assert evidence.board["eigen-1"].floor.fvu != pytest.approx(sae.floor.fvu, rel=1e-2)
    limits = {(one.metric, one.epsilon) for one in sae.tolerances}
    assert limits == {("delta_ce", 0.02), ("delta_ce", 0.3), ("fvu", 0.3), ("fvu", 0.9)}
    assert {record.n_tokens.test for record in evidence.board.values()} == {63}
    pca = evidence.board["pca"].result("fvu", 0.3)
    assert evidence.bits("pca", "fvu", 0.3) == Estimate(pca.bits, *pca.bits_ci)
    squares = evidence.board["squares-scaled"].result("fvu", 0.3)
    gap = np.array(squares.replicates) - np.array(pca.replicates)
    swapped = replace(evidence, board=evidence.board | {"sae": evidence.board["pca"]})
    found = swapped.beyond_sae("squares-scaled", "fvu", 0.3)
    assert found.value == pytest.approx(squares.bits - pca.bits)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(gap, [0.025, 0.975])))


def priced(evidence, key, bits):
    """An explanation's record with these bits at each ε, or infeasible there."""
    noise = np.linspace(-1, 1, 200)
    results = []
    for epsilon, one in zip(evidence.plan.epsilons, bits, strict=True):
        known = {"metric": "delta_ce", "epsilon": epsilon, "feasible": one is not None}
        if one is not None:
            known |= {"bits": one, "bits_ci": (one - 1, one + 1), "replicates": list(one + noise)}
        results.append(ToleranceResult(**known))
    return evidence.board[key].model_copy(update={"tolerances": results})


@pytest.mark.parametrize(
    ("sae", "eigen", "verdict", "said"),
    [
        ((90, 50), (60, 40), True, "ΔCE at most 0.02: 60.0 [59.0, 61.0] with 16 eigenvectors"),
        ((90, 50), (60, 51), False, "a difference of +1.0 [+1.0, +1.0]: not shorter"),
        ((90, 50), (None, 40), False, "0.02: 90.0 [89.0, 91.0] with the SAE, infeasible for eig"),
        ((None, 50), (60, 40), True, "a feature, infeasible for the SAE; ΔCE at most 0.3: 40.0"),
        ((None, None), (None, None), None, "infeasible for the SAE and for eigenvectors"),
        ((90, 50), (60, 50), None, "a difference of +0.0 [+0.0, +0.0]: a tie"),
    ],
)
def test_the_bits_decide(sae, eigen, verdict, said, world):
    _, evidence = world
    bits = {"sae": sae, "eigen-16": eigen}
    board = {key: priced(evidence, key, bits.get(key, (None, None))) for key in evidence.board}
    finding = claims.shorter(replace(evidence, board=board))
    assert finding.holds is verdict
    assert said in finding.evidence
    board["squares"] = priced(evidence, "squares", (20, 20))
    finding = claims.shorter(replace(evidence, board=board))
    assert finding.holds is True
    assert "20.0 [19.0, 21.0] with 30 squares" in finding.evidence


def test_costs_are_paired_over_documents(world):
    _, evidence = world
    clean, tokens = evidence.sums[scores.CLEAN], evidence.tokens
    bilinear, zero = (evidence.sums[alone(kind, 2)] for kind in (BILINEAR, ZERO))
    found = evidence.beyond_half(2)
    assert found.value == pytest.approx(
        (bilinear - clean - (zero - clean) / 2).sum() / tokens.sum()
    )
    assert found.low <= found.value <= found.high
    both = evidence.sums[together(2)] - clean
    singles = sum(evidence.sums[alone(BILINEAR, n)] - clean for n in (0, 2))
    assert evidence.beyond_sum().value == pytest.approx((both - singles).sum() / tokens.sum())


def costs(evidence, **nats):
    """Evidence whose ΔCE by kind are these, a little different in every document."""
    clean = np.full(10, 20.0)
    spread = np.linspace(0.9, 1.1, 10)
    sums = {scores.CLEAN: clean}
    for name in evidence.sums:
        kind = name.rpartition("-")[0] if name != TUNED else "tuned"
        if name != scores.CLEAN:
            sums[name] = clean + nats.get(kind, 0.0) * 7 * spread
    sums[together(2)] = clean + nats["both"] * 7 * spread
    return replace(evidence, sums=sums, tokens=np.full(10, 7.0))


USUAL = {"bilinear": 0.1, "gate-kept": 0.001, "mean": 0.5, "zero": 0.6, "both": 0.3, "tuned": 0.2}


@pytest.mark.parametrize(
    ("changes", "verdicts"),
    [
        ({}, [True, True, False, True]),
        ({"both": 0.15}, [True, True, True, False]),
        ({"bilinear": 0.4}, [False, True, True, True]),
        ({"gate-kept": 0.1}, [True, None, False, True]),
        ({"zero": 0.15, "tuned": 0.3}, [False, True, False, None]),
    ],
)
def test_the_losses_decide(changes, verdicts, world):
    evidence = costs(world[1], **(USUAL | changes))
    assert [finding.holds for finding in claims.claims(evidence)[:4]] == verdicts


def features(share, n=100):
    return [Feature(i, 60, 0.5, 0.9 if i < share * n else 0.3, 10.0) for i in range(n)]


@pytest.mark.parametrize(
    ("shares", "verdicts"),
    [
        ((0.2, 0.5, 0.9), [True, True]),
        ((0.1, 0.2, 0.3), [False, True]),
        ((0.2, 0.1, 0.5), [None, None]),
        ((0.5, 0.1, 0.9), [True, False]),
        ((0.9, 0.5, 0.2), [False, False]),
        ((0.5, 0.5, 0.5), [None, None]),
    ],
)
def test_the_features_decide(shares, verdicts, world):
    found = {budget: features(share) for budget, share in zip((1, 2, 4), shares, strict=True)}
    evidence = replace(world[1], features=found)
    assert [finding.holds for finding in claims.claims(evidence)[4:6]] == verdicts
    assert evidence.explained(4).value == pytest.approx(shares[-1])


def test_an_interval_over_features_is_that_of_a_binomial():
    found = Estimate.of_difference(np.array([1.0] * 60 + [0.0] * 40), np.zeros(50), 4000, 0)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.504, 0.696), abs=0.015)
    assert found.sign == 1


def test_a_studied_layer_is_one_that_is_converted():
    with pytest.raises(UsageError, match="layer 5 cannot be studied"):
        Plan(studied=5)


# the command line


def test_the_training_text_is_asked_for(tmp_path):
    run = CliRunner().invoke
    missing = run(app, ["reproduce", "bilinear-language", "-o", str(tmp_path / "one")])
    assert isinstance(missing.exception, UsageError)
    assert "bilinear-language trains on a text: give one with --text" in str(missing.exception)
    other = run(app, ["reproduce", "hierarchy", "--text", "x", "-o", str(tmp_path / "two")])
    assert "hierarchy reads no text: run it without --text" in str(other.exception)
    assert not list(tmp_path.iterdir())
