"""Several hook points at once: what a splice costs, SAEs together, coders that write to many."""

from __future__ import annotations

import json
import pickle
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mdlbench.adapters import checked
from mdlbench.adapters.check import check_coder
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.errors import CheckpointError, SuiteError, UsageError
from mdlbench.records.checks import problems_of
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.evaluation import evaluate_coder
from mdlbench.scoring.executor import InProcess
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.suite_run import Failed, Scored, run
from mdlbench.scoring.targets import target_site, targets
from mdlbench.sources.language import opener as opening
from mdlbench.sources.language.hooks import KINDS, READ, Hook, joined, parsed
from mdlbench.sources.language.source import Language
from mdlbench.sources.language.text import Contexts
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.site import Place, Site
from tests.tiny import tiny_suite
from tests.tiny_language import (
    CONTEXT,
    D_HEAD,
    D_MODEL,
    N_HEADS,
    N_LAYERS,
    SPECIAL,
    VOCABULARY,
    causal_lm,
    contexts,
    decoder,
    language_suite,
    naive,
    write_saelens,
)

FIRST = 2
SPLITS = {"calibration": contexts(3, seed=1), "test": contexts(4, seed=2)}
MLPS = "blocks.0.hook_mlp_out + blocks.2.hook_mlp_out"


def put(new, allowed):
    def replaced(x):
        x = x.clone()
        x[torch.from_numpy(allowed)] = new.reshape(len(new), *x.shape[2:]).to(x.dtype)
        return x

    return replaced


def mask(tokens, first=FIRST):
    allowed = ~np.isin(tokens, SPECIAL)
    allowed[:, :first] = False
    return allowed


def whole_losses(whole, splits, hooks, new, allowed):
    """CE, and KL from the clean model, of a whole model in which all hooks are replaced."""
    tokens = torch.from_numpy(splits["test"].tokens)
    with ExitStack() as stack:
        for hook, value in zip(hooks, new, strict=True):
            stack.enter_context(whole.hooked(hook.kind, hook.layer, put(value, allowed)))
        changed = torch.log_softmax(whole.run(tokens).double(), -1).numpy()
    clean = whole.clean(splits["test"].tokens)
    labels = splits["test"].labels[:, :, None]
    ce = -np.take_along_axis(changed, labels, 2)[:, :, 0][allowed]
    return ce, (np.exp(clean) * (clean - changed)).sum(2)[allowed]


# --- splicing at several hook points ------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("gpt2", MLPS),
        ("gpt2", "blocks.0.attn.hook_z + blocks.1.hook_resid_mid + blocks.1.hook_mlp_out"),
        ("gpt2", "blocks.0-2.hook_attn_out"),
        ("gpt2", "blocks.1.hook_attn_out + blocks.1.hook_resid_mid + blocks.2.hook_resid_post"),
        ("gemma2", "blocks.0.hook_attn_out + blocks.0.hook_mlp_out + blocks.1.hook_mlp_out"),
        ("gemma2", "blocks.1.hook_resid_pre + blocks.1.hook_resid_mid + blocks.2.hook_mlp_out"),
        ("qwen3.5", "blocks.0.attn.hook_z + blocks.1.attn.hook_z + blocks.2.hook_mlp_out"),
        ("qwen3-moe", "blocks.0-2.hook_mlp_out"),
        ("neox", "blocks.0.hook_attn_out + blocks.0.hook_mlp_out + blocks.2.hook_attn_out"),
        ("olmo2", "blocks.0.hook_mlp_out + blocks.2.hook_resid_post"),
    ],
)
def test_all_at_once_against_the_whole_model_in_float64(family, names):
    model = causal_lm(family)
    whole, hooks = naive(model, family), parsed(names)
    source = Language(decoder(model), SPLITS, Site(hook=names, first_position=FIRST))
    (block,) = source.blocks("test")
    allowed = mask(SPLITS["test"].tokens)
    own = [
        whole.activations(SPLITS["test"].tokens, hook.kind, hook.layer)[torch.from_numpy(allowed)]
        for hook in hooks
    ]
    x = torch.cat(own, dim=1)
    assert source.widths_out == tuple(one.shape[1] for one in own)
    torch.testing.assert_close(block.activations.double(), x, atol=2e-4, rtol=1e-5)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    for new in (x + 0.3 * noise, torch.zeros_like(x)):
        ce, kl = whole_losses(whole, SPLITS, hooks, new.split(source.widths_out, 1), allowed)
        found = source.splice(block, new.float())
        np.testing.assert_allclose(found.ce, ce, atol=3e-4, rtol=1e-5)
        np.testing.assert_allclose(found.kl, kl, atol=3e-4, rtol=1e-5)
    np.testing.assert_allclose(source.ablated_ce(block), ce, atol=3e-4, rtol=1e-5)
    untouched = source.splice(block, block.activations)
    np.testing.assert_allclose(untouched.ce, source.clean_ce(block), atol=1e-4)
    np.testing.assert_allclose(untouched.kl, 0, atol=1e-4)


def test_a_residual_stream_hides_what_was_replaced_before_it():
    """So of residual SAEs that are spliced at once, the last alone decides the losses."""
    generator = np.random.default_rng(3)
    stream = generator.integers(max(SPECIAL) + 1, VOCABULARY, size=(5, CONTEXT + 1))
    ordinary = Contexts(stream[:, :-1].copy(), stream[:, 1:].copy())
    splits = {"calibration": ordinary, "test": ordinary}
    model, last = decoder("gpt2"), "blocks.2.hook_resid_pre"
    both = Language(model, splits, Site(hook=f"blocks.0.hook_resid_post + {last}"))
    alone = Language(model, splits, Site(hook=last))
    (block,), (other,) = both.blocks("test"), alone.blocks("test")
    new = block.activations + torch.randn(
        block.activations.shape, generator=torch.Generator().manual_seed(1)
    )
    found, expected = both.splice(block, new), alone.splice(other, new[:, D_MODEL:])
    np.testing.assert_allclose(found.ce, expected.ce, atol=1e-5)
    assert np.abs(found.ce - alone.clean_ce(other)).max() > 0.01


def test_what_is_read_may_be_elsewhere_and_of_another_width():
    model = decoder("gpt2")
    read, replaced = "blocks.0-1.mlp.hook_in", "blocks.0-1.hook_mlp_out"
    source = Language(model, SPLITS, Site(hook=read, hook_out=replaced, first_position=FIRST))
    (block,) = source.blocks("test")
    for where, found in ((read, block.given), (replaced, block.activations)):
        tokens = torch.from_numpy(SPLITS["test"].tokens)
        captured = model.capture(tokens, parsed(where))
        here = torch.from_numpy(mask(SPLITS["test"].tokens))
        expected = torch.cat([captured[hook][here] for hook in parsed(where)], dim=1)
        torch.testing.assert_close(found, expected)
    site = Site(hook="blocks.0.attn.hook_z + blocks.1.hook_mlp_out")
    source = Language(decoder("llama"), SPLITS, site)
    assert (source.widths_in, source.d_out) == ((N_HEADS * D_HEAD, D_MODEL), 28)


HOOKS = st.lists(
    st.builds(Hook, st.integers(0, 30), st.sampled_from([*KINDS, *READ])), min_size=1, max_size=9
)


@given(HOOKS)
def test_names_of_several_hook_points_are_read_as_they_are_written(hooks):
    assert parsed(joined(hooks)) == tuple(hooks)
    assert parsed(" + ".join(hook.name for hook in hooks)) == tuple(hooks)


def test_a_run_of_layers_has_a_short_name():
    hooks = parsed("blocks.3.hook_mlp_out + blocks.4.hook_mlp_out + blocks.6.attn.hook_z")
    assert joined(hooks) == "blocks.3-4.hook_mlp_out + blocks.6.attn.hook_z"
    with pytest.raises(UsageError, match="its layers end before they begin"):
        parsed("blocks.4-3.hook_mlp_out")


# --- SAEs that are spliced in at once -----------------------------------------------------------


@pytest.fixture
def loaded(monkeypatch):
    model = causal_lm()
    monkeypatch.setattr(opening, "load_model", lambda *given: decoder(model))
    return model


@pytest.fixture
def suite(loaded, tmp_path):
    folder = tmp_path / "suite"
    for layer in (0, 2):
        hook = Hook(layer, "mlp_out").name
        write_saelens(folder / f"sae{layer}", seed=layer, n_latents=24, hook_name=hook)
    write_saelens(folder / "silent", seed=5)
    return language_suite(
        folder,
        steps={"finest": 0.125, "octaves": 4},
        tolerances=[{"metric": "fvu", "epsilons": [0.9]}],
        headline={"metric": "fvu", "epsilon": 0.9},
        saes=[
            {"key": "mlp-0", "spec": "saelens:sae0"},
            {"key": "mlp-2", "spec": "saelens:sae2"},
            {"key": "both", "splice": "all", "spec": "mlp-0 + mlp-2"},
            {"key": "pca", "spec": "baseline:pca", "place": {"hook": MLPS}},
            {"key": "two-pca", "splice": "all", "spec": "first + second"},
            {"key": "first", "spec": "baseline:pca", "place": {"hook": "blocks.0.hook_mlp_out"}},
            {"key": "second", "spec": "baseline:pca", "place": {"hook": "blocks.2.hook_mlp_out"}},
            {"key": "silent", "spec": "saelens:silent"},
        ],
    )


OWN = Setting(text="own")


def records_of(suite, *keys):
    outcomes = run(Opener(suite, OWN), targets(suite, list(keys), None), suite.folder / "out")
    return [outcome.record for outcome in outcomes if isinstance(outcome, Scored)]


def test_rates_and_errors_add_up_and_all_decoders_are_charged(suite):
    one, other, both = records_of(suite, "mlp-0", "mlp-2", "both")
    assert both.site.hook == MLPS
    assert (both.coder.d_latents, both.coder.d_out) == (48, 2 * D_MODEL)
    assert both.coder.architecture == "joint"
    assert not both.is_baseline
    assert both.identity.coder.adapter == "joint"
    for joint in both.points[:1] + both.points[-1:]:
        parts = [
            next(point for point in record.points if point.step == joint.step)
            for record in (one, other)
        ]
        assert joint.bits.plugin == pytest.approx(sum(p.bits.plugin for p in parts), rel=1e-9)
        assert joint.bits.heldout == pytest.approx(sum(p.bits.heldout for p in parts), rel=0.02)
        assert joint.l0 == pytest.approx(sum(p.l0 for p in parts))
        assert 2 * joint.mse == pytest.approx(sum(p.mse for p in parts), rel=1e-6)
    live = sum(round(r.coder.d_latents * (1 - r.coder.dead_fraction)) for r in (one, other))
    bits = both.coder.decoder_weight_bits
    assert both.coder.decoder_bits == (live + 2) * D_MODEL * bits
    assert list(problems_of(both, suite)) == []


def test_its_floor_is_what_the_whole_model_loses_with_both_spliced_in(suite, loaded):
    (both,) = records_of(suite, "both")
    source = Opener(suite, OWN).open(both.site)
    hooks, whole = parsed(MLPS), naive(loaded, "gpt2")
    splits = {split: source._splits[split] for split in ("calibration", "test")}
    allowed = mask(splits["test"].tokens, first=1)
    new = []
    for hook, key in zip(hooks, ("sae0", "sae2"), strict=True):
        x = whole.activations(splits["test"].tokens, hook.kind, hook.layer)
        coder = load_coder(f"saelens:{suite.folder / key}")
        latents, side = coder.encode(x[torch.from_numpy(allowed)].float())
        new.append(coder.decode(latents, side).double())
    ce, kl = whole_losses(whole, splits, hooks, new, allowed)
    assert both.floor.ce == pytest.approx(ce.mean(), rel=1e-5)
    assert both.floor.kl == pytest.approx(kl.mean(), rel=1e-4)


def test_baselines_are_fitted_to_all_hooks_or_to_each(suite):
    joint, each, first, second = records_of(suite, "pca", "two-pca", "first", "second")
    assert joint.site == each.site
    assert joint.coder.d_latents == each.coder.d_latents == 2 * D_MODEL
    assert joint.is_baseline
    assert each.is_baseline
    assert joint.points[0].mse == pytest.approx(each.points[0].mse, rel=0.1)
    parts = [record.points[0].bits.plugin for record in (first, second)]
    assert each.points[0].bits.plugin == pytest.approx(sum(parts), rel=1e-3)


def test_the_same_from_the_command_lines_words_and_with_a_decoder_of_few_bits(suite):
    names = [str(suite.folder / f"sae{layer}") for layer in (0, 2)]
    (target,) = targets(suite, [" + ".join(names)], None)
    source = Opener(suite, OWN).open(target_site(Opener(suite, OWN), target))
    coder = target.sae.load(source)
    x = next(iter(source.blocks("test"))).given
    latents, side = checked.encode(coder, x)
    z, rows = latents.to_dense().astype(np.float64), coder.decoder_rows().astype(np.float64)
    biases = [load_coder(f"saelens:{name}").decoder.b_dec.numpy() for name in names]
    found = checked.decode(coder, latents, side, torch.device("cpu"))
    np.testing.assert_allclose(found, z @ rows + np.concatenate(biases), atol=1e-5)
    assert not rows[:24, D_MODEL:].any()
    assert not rows[24:, :D_MODEL].any()
    rounded = coder.with_decoder_precision(4)
    for part, name in zip(rounded.parts, names, strict=True):
        alone = load_coder(f"saelens:{name}").with_decoder_precision(4)
        np.testing.assert_array_equal(part.coder.decoder_rows(), alone.decoder_rows())
    assert {check.name for check in check_coder(coder, source) if not check.passed} == set()
    record = evaluate(" + ".join(names), suite, text="own", limit=2)
    assert record.name == "sae0 + sae2"
    assert "saelens" in json.dumps(record.identity.coder.arguments)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mlp-0 + mlp-9", "suite 'lm' has no SAE 'mlp-9'. Did you mean 'mlp-2'"),
        ("mlp-2 + mlp-0", "in the order in which the model comes to them: 'blocks.0.hook_mlp_out'"),
        ("mlp-0 + mlp-0", "mlp-0 and mlp-0 are both at blocks.0.hook_mlp_out, .*only SAEs at diff"),
        ("mlp-0 + both", "'both': is several SAEs; write each by itself, as in A"),
        ("mlp-0 + pca", "pca: has several hook points itself, so it cannot be spliced in with"),
        ("mlp-0 + silent", "silent: neither its config nor the suite says its hook"),
        ("mlp-0 + not/here", "not/here: no such file or folder"),
        ("mlp-0 + ", "nothing stands beside a ' . ': write several SAEs as in 'A . B'"),
    ],
)
def test_what_cannot_be_spliced_in_at_once_is_told(suite, words, message):
    with pytest.raises((UsageError, CheckpointError), match=message):
        target_site(Opener(suite, OWN), targets(suite, [words], None)[0])


def test_saes_of_other_contexts_or_widths_are_told(suite, tmp_path, monkeypatch):
    write_saelens(tmp_path / "long", hook_name="blocks.1.hook_mlp_out", context_size=16)
    write_saelens(tmp_path / "z", hook_name="blocks.1.attn.hook_z", context_size=12)
    for name in ("long", "z"):
        config = json.loads((tmp_path / name / "cfg.json").read_text())
        config["metadata"]["prepend_bos"] = True
        (tmp_path / name / "cfg.json").write_text(json.dumps(config))
    free = language_suite(tmp_path / "free", {"place": {}})
    with pytest.raises(UsageError, match="at once: context is 16 for one, 12 for the other"):
        evaluate(f"{tmp_path / 'long'} + {tmp_path / 'z'}", free, text="own")
    (target,) = targets(suite, [f"mlp-0 + {tmp_path / 'z'}"], None)
    monkeypatch.setattr(opening, "load_model", lambda *given: decoder("llama"))
    opener = Opener(suite, OWN)
    source = opener.open(target_site(opener, target))
    with pytest.raises(CheckpointError, match="reads activations of width 16, but those at hook"):
        target.sae.load(source)


def test_an_entry_of_which_an_sae_cannot_be_read_stops_no_other(loaded, tmp_path):
    saes = [
        {"key": "here", "spec": "baseline:mean", "place": {"hook": "blocks.0.hook_mlp_out"}},
        {"key": "gone", "splice": "all", "spec": "here + ./gone"},
        {"key": "strange", "splice": "all", "spec": "here + sealens:gone"},
    ]
    suite = language_suite(tmp_path / "suite", saes=saes)
    outcomes = list(run(Opener(suite, OWN), targets(suite, [], None), tmp_path / "out"))
    assert [o.record.name for o in outcomes if isinstance(o, Scored)] == ["here"]
    gone, strange = (outcome.message for outcome in outcomes if isinstance(outcome, Failed))
    assert gone.startswith("gone: './gone' is neither a folder nor ADAPTER:ARGUMENT. Known: basel")
    assert strange.startswith("strange: 'sealens:gone': unknown adapter 'sealens'. Did you mean 's")


def test_what_is_said_of_all_is_said_of_each(loaded, tmp_path):
    """SAEs that say nothing of contexts, and an entry, or a caller, that says it for all."""
    for layer in (0, 2):
        hook = Hook(layer, "mlp_out").name
        write_saelens(tmp_path / f"sae{layer}", seed=layer, n_latents=24, hook_name=hook)
    spec = " + ".join(f"saelens:{tmp_path / name}" for name in ("sae0", "sae2"))
    said = {"context": 9, "prepend_bos": True}
    saes = [
        {"key": "both", "splice": "all", "spec": spec, "place": said},
        {"key": "none", "splice": "all", "spec": spec},
    ]
    free = language_suite(tmp_path / "free", {"place": {}}, saes=saes)
    opener = Opener(free, OWN)
    both, none = (targets(free, [key], None)[0] for key in ("both", "none"))
    site = target_site(opener, both)
    assert (site.hook, site.context, site.prepend_bos) == (MLPS, 9, True)
    with pytest.raises(UsageError, match="neither its config nor the suite says its context"):
        target_site(opener, none)
    record = evaluate(spec, free, text="own", limit=2, **said)
    assert record.site == site


def test_a_hook_point_that_the_model_lacks_or_that_the_coder_lacks_is_told(suite, tmp_path):
    far = MLPS.replace("blocks.2", "blocks.9")
    with pytest.raises(UsageError, match=r"no hook 'blocks.9.hook_mlp_out': its layers are 0 to 2"):
        evaluate("baseline:mean", suite, text="own", hook=far)
    with pytest.raises(UsageError, match=r"hook .blocks\.2\.hook_q. is not supported"):
        evaluate("baseline:mean", suite, text="own", hook=f"{MLPS} + blocks.2.hook_q")
    write_tracer(tmp_path / "clt", threshold=False)
    config = tmp_path / "clt/config.yaml"
    config.write_text(config.read_text().replace("hook_resid_mid", "hook_mlp_out"))
    coder = NamedCoder(str(tmp_path / "clt"))
    opener = Opener(suite, OWN)
    with pytest.raises(CheckpointError, match=r"width 48, but those at hook .*width 32"):
        coder.load(opener.open(opener.site_of(place=Place(hook=MLPS))))
    with pytest.raises(CheckpointError, match=r"its hook is .blocks\.0-2.*, but the suite.s is "):
        evaluate(str(tmp_path / "clt"), suite, text="own", hook=MLPS)


def test_workers_find_the_same_and_are_told_which_saes_by_name(suite):
    (target,) = targets(suite, ["both"], None)
    assert pickle.loads(pickle.dumps(target)) == target
    opener = Opener(suite, OWN)
    site, found = target_site(opener, target), []
    for n_workers in (1, 3):
        bench = Bench.open(InProcess(opener, n_workers), site)
        identity = bench.identity(bench.identify(target.sae))
        found.append(evaluate_coder(bench, target.sae, identity).record)
    besides = {"environment", "provenance"}
    one, three = (record.model_dump(exclude=besides) for record in found)
    assert one == three


def test_a_name_before_a_spec_names_one_of_several(suite):
    (target,) = targets(suite, ["mlp-0 + other=mlp-2"], None)
    assert [part.label for part in target.sae.parts] == ["mlp-0", "other"]
    (target,) = targets(suite, ["both=mlp-0 + mlp-2"], None)
    assert (target.name, len(target.sae.parts)) == ("both", 2)


def test_a_record_of_many_saes_may_have_a_long_name(suite):
    (both,) = records_of(suite, "both")
    coder = both.identity.coder.named(" + ".join(["a" * 150] * 5))
    identity = both.identity.model_copy(update={"coder": coder})
    long = both.model_copy(update={"identity": identity, "id": identity.id})
    assert list(problems_of(long, suite)) == []
    outside = identity.model_copy(update={"coder": coder.named("mlp-0 + /etc/passwd")})
    found = problems_of(both.model_copy(update={"identity": outside, "id": outside.id}), suite)
    assert list(found) == ["name '/etc/passwd' is a path"]


def test_images_have_one_hook_point(tmp_path):
    suite = tiny_suite(tmp_path)
    with pytest.raises(UsageError, match="are both at pixels: only SAEs at different hook points"):
        target_site(Opener(suite), targets(suite, ["baseline:pca + baseline:mean"], None)[0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("baseline:pca", "does not name several SAEs, as in A + B"),
        ("b + ", "does not name several SAEs, as in A + B"),
        ("b + a", "'a' is several SAEs itself"),
        ("b + c", "'c' is no key of the suite. Known: a, b."),
    ],
)
def test_an_entry_that_splices_all_names_several(tmp_path, spec, message):
    saes = [{"key": "b", "spec": "baseline:pca"}, {"key": "a", "splice": "all", "spec": spec}]
    with pytest.raises(SuiteError) as error:
        language_suite(tmp_path, saes=saes)
    assert str(error.value) == f"{tmp_path / 'suite.yaml'}, line 10: saes.1.spec: {message}"


@pytest.mark.parametrize("spec", ["b + c", "c + baseline:pca", "saelens:b + saelens:c"])
def test_several_saes_without_splice_are_refused(tmp_path, spec):
    saes = [{"key": key, "spec": "baseline:pca"} for key in "bc"] + [{"key": "a", "spec": spec}]
    with pytest.raises(SuiteError) as error:
        language_suite(tmp_path, saes=saes)
    assert str(error.value) == (
        f"{tmp_path / 'suite.yaml'}, line 12: saes.2.spec: names several SAEs: write `splice: all` "
        "beside it"
    )


def test_a_path_may_have_a_plus_in_it(tmp_path):
    suite = language_suite(tmp_path, saes=[{"key": "a", "spec": "saelens:runs/k 3 + l1"}])
    assert suite.entry("a").words == ["saelens:runs/k 3 + l1"]


# --- transcoders and crosscoders of several layers ----------------------------------------------

N = 6


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write_tracer(folder, threshold):
    """As circuit-tracer writes a cross-layer transcoder of the tiny model."""
    folder.mkdir(parents=True)
    weights = {}
    for i in range(N_LAYERS):
        encoder = {
            f"W_enc_{i}": drawn(N, D_MODEL, seed=i),
            f"b_enc_{i}": drawn(N, seed=i),
            f"b_dec_{i}": drawn(D_MODEL, seed=i),
            **({f"threshold_{i}": drawn(N, seed=9 + i).abs()} if threshold else {}),
        }
        last = {f"W_dec_{i}": drawn(N, N_LAYERS - i, D_MODEL, seed=i)}
        save_file(encoder, folder / f"W_enc_{i}.safetensors")
        save_file(last, folder / f"W_dec_{i}.safetensors")
        weights |= encoder | last
    config = {
        "model_name": "tiny",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return {name: tensor.double().numpy() for name, tensor in weights.items()}


def write_second(folder, kind, skip, layers=(0, 2)):
    """As Gemma Scope 2 has its cross-layer transcoders and crosscoders."""
    folder.mkdir(parents=True)
    n = len(layers)
    weights = []
    for i in range(n):
        tensors = {
            "w_enc": drawn(D_MODEL, N, seed=i),
            "b_enc": drawn(N, seed=i),
            "threshold": drawn(N, seed=9 + i).abs(),
            "w_dec": drawn(N, n, D_MODEL, seed=i),
            "b_dec": drawn(D_MODEL, seed=i),
            **({"affine_skip_connection": drawn(D_MODEL, D_MODEL, seed=i)} if skip else {}),
        }
        save_file(tensors, folder / f"params_layer_{i}.safetensors")
        weights.append({name: tensor.double().numpy() for name, tensor in tensors.items()})
    told = "{all}" if kind == "clt" else "{" + ",".join(map(str, layers)) + "}"
    module = {"clt": "pre_feedforward_layernorm.output", "crosscoder": "output"}[kind]
    out = {"clt": "post_feedforward_layernorm.output", "crosscoder": "output"}[kind]
    config = {
        "hf_hook_point_in": f"model.layers.{told}.{module}",
        "hf_hook_point_out": f"model.layers.{told}.{out}",
        "width": n * N,
        "model_name": "google/gemma-3-270m-pt",
        "architecture": "jump_relu",
        "l0": 150,
        "affine_connection": skip,
        "type": kind,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return weights


def agrees(coder, x, z, expected):
    latents, side = checked.encode(coder, torch.from_numpy(x).float())
    np.testing.assert_allclose(latents.to_dense(), z, atol=1e-4)
    found = checked.decode(coder, latents, side, torch.device("cpu"))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    rows = coder.decoder_rows().astype(np.float64)
    np.testing.assert_allclose(coder.spec.decoder_norms, np.linalg.norm(rows, axis=1), rtol=1e-5)


@pytest.mark.parametrize("threshold", [False, True])
def test_circuit_tracers_cross_layer_transcoder_against_float64(tmp_path, threshold):
    w = write_tracer(tmp_path / "clt", threshold)
    x = np.random.default_rng(0).normal(size=(50, N_LAYERS, D_MODEL))
    zs, expected = [], np.stack([np.tile(w[f"b_dec_{m}"], (50, 1)) for m in range(N_LAYERS)], 1)
    for i in range(N_LAYERS):
        a = x[:, i] @ w[f"W_enc_{i}"].T + w[f"b_enc_{i}"]
        zs.append(a * (a > (w[f"threshold_{i}"] if threshold else 0)))
        for m in range(i, N_LAYERS):
            expected[:, m] += zs[-1] @ w[f"W_dec_{i}"][:, m - i]
    coder = load_coder(str(tmp_path / "clt"))
    agrees(coder, x.reshape(50, -1), np.concatenate(zs, 1), expected.reshape(50, -1))
    assert coder.spec.adapter == "cross_layer"
    assert coder.spec.row_widths.tolist() == [D_MODEL * (3 - i) for i in range(3) for _ in range(N)]
    origin = NamedCoder(str(tmp_path / "clt")).origin()
    assert joined(parsed(origin.hook)) == "blocks.0-2.hook_resid_mid"
    assert joined(parsed(origin.hook_out)) == "blocks.0-2.hook_mlp_out"


@pytest.mark.parametrize(("kind", "skip"), [("clt", False), ("clt", True), ("crosscoder", False)])
def test_gemma_scope_2_of_several_layers_against_float64(tmp_path, kind, skip):
    ws = write_second(tmp_path / "it", kind, skip)
    x = np.random.default_rng(0).normal(size=(50, 2, D_MODEL))
    zs, expected = [], np.stack([np.tile(w["b_dec"], (50, 1)) for w in ws], 1)
    for i, w in enumerate(ws):
        a = x[:, i] @ w["w_enc"] + w["b_enc"]
        zs.append(np.maximum(a, 0) * (a > w["threshold"]))
        expected += np.einsum("tn,nld->tld", zs[-1], w["w_dec"])
        expected[:, i] += x[:, i] @ w["affine_skip_connection"] if skip else 0
    coder = load_coder(f"cross_layer:{tmp_path / 'it'}")
    agrees(coder, x.reshape(50, -1), np.concatenate(zs, 1), expected.reshape(50, -1))
    assert coder.spec.side_bits == (2 * 32 * D_MODEL if skip else 0)
    origin = coder.spec.origin
    assert (origin.model, origin.context, origin.prepend_bos) == ("gemma-3-270m", 1024, True)
    if kind == "clt":
        assert coder.spec.architecture == "cross_layer_transcoder"
        assert parsed(origin.hook) == parsed("blocks.0-1.mlp.hook_in")
        assert parsed(origin.hook_out) == parsed("blocks.0-1.hook_mlp_out")
    else:
        assert coder.spec.architecture == "crosscoder"
        assert parsed(origin.hook) == (Hook(0, "resid_post"), Hook(2, "resid_post"))
        assert origin.hook_out is None


def test_files_of_which_one_site_is_missing_are_refused(tmp_path):
    write_tracer(tmp_path / "clt", threshold=False)
    (tmp_path / "clt/W_dec_1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"W_dec_1\.safetensors is missing: the files of all"):
        load_coder(str(tmp_path / "clt"))
    write_tracer(tmp_path / "cut", threshold=False)
    for part in ("W_enc", "W_dec"):
        (tmp_path / f"cut/{part}_2.safetensors").unlink()
    with pytest.raises(CheckpointError, match="write to 3 layers, but with the files of 2 layers"):
        load_coder(str(tmp_path / "cut"))
    write_second(tmp_path / "cc", "crosscoder", skip=False)
    (tmp_path / "cc/params_layer_1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="says 2 layers, but it has the files of 1"):
        load_coder(str(tmp_path / "cc"))
    write_second(tmp_path / "first", "crosscoder", skip=False)
    (tmp_path / "first/params_layer_0.safetensors").unlink()
    with pytest.raises(CheckpointError) as error:
        load_coder(f"cross_layer:{tmp_path / 'first'}")
    assert str(error.value) == (
        f"{tmp_path / 'first'}: params_layer_0.safetensors is missing: the files of all 2 layers "
        "are needed"
    )
    write_second(tmp_path / "narrow", "clt", skip=False)
    config = tmp_path / "narrow/config.json"
    config.write_text(config.read_text().replace('"width": 12', '"width": 13'))
    with pytest.raises(CheckpointError, match="have 12 latents together, but its config says 13"):
        load_coder(str(tmp_path / "narrow"))


def changed(file, **tensors):
    """Write a file of weights again with other tensors; None takes one out."""
    found = {**load_file(file), **tensors}
    save_file({k: v.contiguous() for k, v in found.items() if v is not None}, file)


@pytest.mark.parametrize(
    ("file", "tensors", "message"),
    [
        ("W_enc", {"W_enc_1": torch.full((N, D_MODEL), torch.nan)}, "W_enc_1: 96 of 96 weights"),
        (
            "W_enc",
            {"W_enc_1": drawn(D_MODEL, N)},
            r"b_enc_1 has shape \(6,\), but its encoder says",
        ),
        ("W_enc", {"W_enc_1": torch.ones(N, D_MODEL, dtype=torch.int8)}, "W_enc_1 has dtype"),
        ("W_enc", {"W_enc": drawn(N, D_MODEL)}, "unknown tensor 'W_enc'. Did you mean 'W_enc_1'"),
        ("W_enc", {"b_dec_1": None}, "no tensor 'b_dec_1'; it has W_enc_1, b_enc_1"),
        ("W_dec", {"b_dec_1": drawn(D_MODEL)}, "unknown tensor 'b_dec_1'"),
        ("W_dec", {"W_dec_1": drawn(N, 2 * D_MODEL)}, r"W_dec_1 has shape \(6, 32\), but"),
    ],
)
def test_a_faulty_file_of_a_layer_is_named(tmp_path, file, tensors, message):
    write_tracer(tmp_path / "clt", threshold=False)
    path = tmp_path / f"clt/{file}_1.safetensors"
    changed(path, **tensors)
    with pytest.raises(CheckpointError, match=f"^{path}: {message}"):
        load_coder(str(tmp_path / "clt"))


def test_layers_of_two_models_are_refused(tmp_path):
    write_second(tmp_path / "cc", "crosscoder", skip=False)
    wide = {"w_enc": drawn(9, N), "w_dec": drawn(N, 2, 9), "b_dec": drawn(9)}
    changed(tmp_path / "cc/params_layer_1.safetensors", **wide)
    with pytest.raises(CheckpointError) as error:
        load_coder(str(tmp_path / "cc"))
    assert str(error.value) == (
        f"{tmp_path / 'cc'}: layer 1 is of width 9, layer 0 of width 16: they are not of one model"
    )


@pytest.mark.parametrize("name", ["W_enc_999999999999", "W_enc_00", "W_enc_٣"])
def test_a_file_that_is_named_like_a_layer_is_none(tmp_path, name):
    write_tracer(tmp_path / "clt", threshold=False)
    (tmp_path / f"clt/{name}.safetensors").write_bytes(b"")
    assert load_coder(str(tmp_path / "clt")).spec.d_latents == 3 * N


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("{1,1}", ".*: each layer stands once, those before it first"),
        ("{2,0}", ".*: each layer stands once, those before it first"),
        ("{" + "9" * 5000 + ",1}", ""),
        ("2", ".* does not say which layers"),
    ],
)
def test_layers_that_a_config_says_wrongly(tmp_path, layers, message):
    write_second(tmp_path / "cc", "crosscoder", skip=False)
    file = tmp_path / "cc/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {
        "hf_hook_point_in": f"model.layers.{layers}.output"}))  # fmt: skip
    with pytest.raises(CheckpointError, match=f"^{file}: {message}"):
        NamedCoder(str(tmp_path / "cc")).origin()
    file.write_text("[1]")
    with pytest.raises(CheckpointError, match="expected an object, found a list"):
        NamedCoder(str(tmp_path / "cc")).origin()


def test_a_config_that_is_a_list_is_said_to_be(tmp_path):
    write_tracer(tmp_path / "clt", threshold=False)
    (tmp_path / "clt/config.yaml").write_text("- 1")
    with pytest.raises(CheckpointError, match=r"config\.yaml: Input should be a valid dictionary"):
        load_coder(str(tmp_path / "clt"))


@pytest.mark.parametrize(
    "name",
    [f"blocks.{'9' * 5000}.hook_mlp_out", f"model.layers.{'9' * 5000}", "blocks.٣.hook_mlp_out"],
)
def test_what_is_nearly_a_hook_point_is_none(name):
    with pytest.raises(UsageError, match="is not supported") as error:
        parsed(name)
    assert len(str(error.value)) < 400


def test_a_cross_layer_transcoder_is_scored_at_all_its_hooks(suite, tmp_path, loaded):
    write_tracer(tmp_path / "clt", threshold=True)
    record = evaluate(str(tmp_path / "clt"), suite, text="own")
    assert record.site.label == (
        "blocks.0-2.hook_resid_mid → blocks.0-2.hook_mlp_out, 8 tokens, BOS"
    )
    live = 1 - record.coder.dead_fraction
    assert record.coder.decoder_bits is None or live <= 1
    outcomes = run(
        Opener(suite, OWN), targets(suite, [str(tmp_path / "clt")], None), tmp_path / "out"
    )
    assert not any(isinstance(outcome, Failed) for outcome in outcomes)
    assert list(Path(tmp_path / "out/records").glob("clt*.json"))
