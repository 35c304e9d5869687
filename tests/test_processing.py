"""Weights that are processed, against TransformerLens; and the processed model against itself."""

from __future__ import annotations

import re
from copy import deepcopy

import pytest
import torch

from mdlbench.disk.files import PACKAGE
from mdlbench.errors import UsageError
from mdlbench.sources.kinds.language import HubModel
from mdlbench.sources.language import load
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.load import load_model, official_name, same_model
from mdlbench.sources.language.processing import OPTIONS, process
from tests.tiny_language import (
    CONTEXT,
    D_MODEL,
    KINDS,
    N_HEADS,
    N_LAYERS,
    VOCABULARY,
    Characters,
    causal_lm,
    decoder,
)

ALL = frozenset(OPTIONS)
TOKENS = torch.arange(CONTEXT)[None] * 7 % VOCABULARY


def hooks(kinds=KINDS):
    return [Hook(layer, kind) for layer in range(N_LAYERS) for kind in kinds]


def processed(model, *options):
    model = deepcopy(model)
    process(model, frozenset(options))
    return decoder(model)


def as_hooked_transformer(model, **options):
    """The activations of TransformerLens 3's model of a GPT-2, processed as it does."""
    lens = pytest.importorskip("transformer_lens")
    try:
        transformer = lens.HookedTransformer
    except (AttributeError, ImportError):
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    config = lens.HookedTransformerConfig(
        n_layers=N_LAYERS,
        d_model=D_MODEL,
        d_head=D_MODEL // N_HEADS,
        n_heads=N_HEADS,
        d_mlp=model.transformer.h[0].mlp.c_fc.nf,
        n_ctx=CONTEXT,
        d_vocab=VOCABULARY,
        act_fn="gelu_new",
        normalization_type="LN",
        device="cpu",
    )
    hooked = transformer(config)
    weights = convert_gpt2_weights(deepcopy(model), hooked.cfg)
    weights["unembed.b_U"] = torch.zeros(VOCABULARY)
    off = dict.fromkeys((*OPTIONS, "refactor_factored_attn_matrices"), False)
    hooked.load_and_process_state_dict(weights, **off | options)
    logits, cache = hooked.run_with_cache(TOKENS)
    return logits, {hook: cache[hook.name].flatten(2) for hook in hooks()}


@pytest.mark.parametrize("options", [(), *((option,) for option in OPTIONS), OPTIONS])
def test_every_hook_of_a_gpt2_is_that_of_a_hooked_transformer(options):
    model = causal_lm()
    logits, expected = as_hooked_transformer(model, **dict.fromkeys(options, True))
    ours = processed(model, *options)
    found = ours.capture(TOKENS, hooks())
    for hook, values in expected.items():
        torch.testing.assert_close(found[hook], values, atol=1e-4, rtol=1e-4, msg=hook.name)
    shift = (ours.logits(TOKENS) - logits).double()
    assert (shift - shift.mean(-1, keepdim=True)).abs().max() < 1e-4


def tokenizer():
    """One that TransformerLens takes; nothing is tokenised."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({"a": 1, "?": 0}, unk_token="?"))
    special = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "?")
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
@pytest.mark.parametrize("options", [("center_writing_weights",), OPTIONS])
def test_every_hook_is_that_of_a_transformer_bridge(family, options):
    """The Bridge is in TransformerLens 3.9 and 4."""
    from transformer_lens.model_bridge import TransformerBridge

    model = causal_lm(family)
    bridge = TransformerBridge.boot_transformers(
        {"gpt2": "gpt2", "neox": "EleutherAI/pythia-70m"}[family],
        hf_model=deepcopy(model),
        tokenizer=tokenizer(),
        device="cpu",
    )
    bridge.enable_compatibility_mode(
        disable_warnings=True, **{option: option in options for option in OPTIONS}
    )
    kinds = [kind for kind in KINDS if (family, kind) != ("neox", "resid_mid")]
    _, cache = bridge.run_with_cache(TOKENS)
    found = processed(model, *options).capture(TOKENS, hooks(kinds))
    for hook in hooks(kinds):
        expected = cache[hook.name].flatten(2)
        torch.testing.assert_close(found[hook], expected, atol=1e-4, rtol=1e-4, msg=hook.name)


@pytest.mark.parametrize("family", ["gpt2", "neox", "neox-sequential", "qwen2", "llama"])
def test_processing_changes_nothing_of_what_a_model_computes(family):
    model = causal_lm(family)
    ours = processed(model, *OPTIONS)
    torch.testing.assert_close(
        ours.logits(TOKENS), decoder(model).logits(TOKENS), atol=1e-4, rtol=1e-4
    )
    streams = ours.capture(TOKENS, hooks(["resid_pre", "attn_out", "mlp_out"]))
    for values in streams.values():
        centred = float(values.mean(-1).abs().max()) < 1e-4
        assert centred == family.startswith(("gpt2", "neox"))


def test_value_biases_of_shared_heads_are_folded():
    """Qwen2's two heads share one head of values, whose bias is then in neither's output."""
    model = causal_lm("qwen2")
    biases = model.model.layers[0].self_attn.v_proj.bias.clone()
    z = Hook(0, "z")
    before, after = (
        m.capture(TOKENS, [z])[z] for m in (decoder(model), processed(model, "fold_value_biases"))
    )
    torch.testing.assert_close(before - after, biases.repeat(N_HEADS).expand_as(before))


def test_what_cannot_be_folded_is_refused():
    with pytest.raises(UsageError, match="attention to a sink does not sum to 1"):
        process(causal_lm("gpt-oss"), frozenset({"fold_value_biases"}))


def test_options_decide_how_a_model_is_loaded(monkeypatch):
    loaded = []

    def from_hub(config, dtype):
        loaded.append(dtype)
        return causal_lm().to(dtype), Characters()

    monkeypatch.setattr(load, "_load_from_hub", from_hub)
    config, pre = HubModel(kind="hub", name="tiny"), Hook(1, "resid_pre")
    centred = {"center_writing_weights": True, "fold_ln": False}
    for options, mean in (({}, False), (centred, True)):
        model = load_model(config, options, "cpu", torch.bfloat16)
        stream = model.capture(TOKENS, [pre])[pre]
        assert model.head.weight.dtype == torch.bfloat16
        assert (stream.mean(-1).abs().max() < 0.02) == mean
    assert loaded == [torch.bfloat16, torch.float32]
    with pytest.raises(UsageError, match=r"model tiny: unknown option 'fold_lnn'\. Did you mean"):
        load_model(config, {"fold_lnn": True}, "cpu", torch.float32)
    sinks = {"fold_value_biases": True}
    monkeypatch.setattr(load, "_load_from_hub", lambda *_: (causal_lm("gpt-oss"), Characters()))
    with pytest.raises(UsageError, match="model tiny: fold_value_biases: attention to a sink"):
        load_model(config, sinks, "cpu", torch.float32)


def test_nothing_is_used_that_version_4_of_transformer_lens_removed():
    sources = [file.read_text() for file in PACKAGE.rglob("*.py")]
    lines = [line.strip() for source in sources for line in source.splitlines()]
    found = {line for line in lines if re.match(r"(from|import) transformer_lens", line)}
    assert found == {
        "from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES"
    }


def test_names_are_those_of_either_version_of_transformer_lens():
    assert official_name("gpt2-small") == official_name("gpt2") == "gpt2"
    assert official_name("gemma-2-2b") == "google/gemma-2-2b"
    assert official_name("pythia-160m-deduped") == "EleutherAI/pythia-160m-deduped"
    assert official_name("ann/gpt2") == "ann/gpt2"
    assert official_name("unheard-of") == "unheard-of"
    assert same_model("gemma-2-2b", "google/gemma-2-2b")
    assert not same_model("gemma-2-2b", "google/gemma-2-2b-it")
