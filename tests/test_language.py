"""Activations and spliced losses of language models against whole naive forward passes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mdlbench.disk import cache
from mdlbench.disk.cache import kept
from mdlbench.errors import HubError, MdlbenchWarning, MemoryShortageError, SourceError, UsageError
from mdlbench.hub.hub import WHAT_TO_DO, HubUnreachableError
from mdlbench.sources.kinds.language import HubModel
from mdlbench.sources.language import losses
from mdlbench.sources.language import source as language
from mdlbench.sources.language.cut import Head, weights_digest
from mdlbench.sources.language.decoder import DecoderModel
from mdlbench.sources.language.hooks import Hook, HookEntry, Wiring
from mdlbench.sources.language.load import load_model
from mdlbench.sources.language.losses import clean_predictions, spliced_losses
from mdlbench.sources.language.source import Language
from mdlbench.sources.language.text import Contexts
from mdlbench.suite.site import Site
from tests.tiny_language import (
    CONTEXT,
    D_MODEL,
    FAMILIES,
    KINDS,
    N_LAYERS,
    SPECIAL,
    VOCABULARY,
    causal_lm,
    contexts,
    counted,
    decoder,
    naive,
)

FIRST = 2
SPLITS = {"calibration": contexts(5, seed=1), "test": contexts(7, seed=2)}
LAYER = 1
THOROUGH = ("gpt2", "gemma2", "qwen3.5")
"""Families that are tried at every layer and with several blocks."""
EPSILONS = {"gpt2": 1e-5, "llama": 1e-6, "gemma2": 1e-6}


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch):
    """Blocks of three documents, the last of them shorter; logits of a few words at a time."""
    monkeypatch.setattr(language, "BLOCK_TOKENS", 3 * CONTEXT + 1)
    monkeypatch.setattr(losses, "CHUNK_BYTES", 5 * 4 * VOCABULARY)


@pytest.fixture(scope="module")
def pairs():
    """The models as the harness cuts them, and the same ones run whole."""
    models = {family: causal_lm(family) for family in FAMILIES}
    return {family: (decoder(model), naive(model, family)) for family, model in models.items()}


def hook(kind, layer=LAYER):
    return Hook(layer, kind).name


def opened(model, kind="resid_pre", layer=LAYER, **site):
    place = Site(hook=hook(kind, layer), first_position=FIRST, **site)
    return Language(model, SPLITS, place)


def mask(split="test"):
    """Neither a special token nor one of the first positions."""
    tokens = SPLITS[split].tokens
    allowed = np.ones(tokens.shape, dtype=bool)
    allowed[:, :FIRST] = False
    for special in SPECIAL:
        allowed &= tokens != special
    return allowed


def losses_of(log_probabilities):
    """CE of each token under the mask."""
    labels = SPLITS["test"].labels
    return -np.take_along_axis(log_probabilities, labels[:, :, None], 2)[:, :, 0][mask()]


def noisy(x, seed=0):
    return x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_hook_against_whole_passes(pairs, family, kind, monkeypatch):
    model, whole = pairs[family]
    if family not in THOROUGH:
        monkeypatch.setattr(language, "BLOCK_TOKENS", 1024)
    if kind == "resid_mid" and model.is_parallel:
        pytest.skip("a parallel block has no such hook point")
    tokens, allowed = SPLITS["test"].tokens, mask()
    clean, tolerance = whole.clean(tokens), 2e-4
    for layer in range(N_LAYERS) if family in THOROUGH else [LAYER]:
        source = opened(model, kind, layer)
        blocks = list(source.blocks("test"))
        x = whole.activations(tokens, kind, layer)[torch.from_numpy(allowed)].float()
        if family in THOROUGH:
            assert [len(np.unique(block.document)) for block in blocks] == [3, 3, 1]
        found = torch.cat([block.activations for block in blocks])
        torch.testing.assert_close(found, x, atol=tolerance, rtol=1e-5)
        new = noisy(x)
        parts = new.split([len(block.activations) for block in blocks])
        spliced = [source.splice(b, part) for b, part in zip(blocks, parts, strict=True)]

        changed = whole.log_probabilities(tokens, kind, layer, new, allowed)
        blank = whole.log_probabilities(tokens, kind, layer, torch.zeros_like(x), allowed)
        kl = (np.exp(clean) * (clean - changed)).sum(2)[allowed]
        assert np.abs(losses_of(changed) - losses_of(clean)).max() > 0.01
        for found, expected in (
            (np.concatenate([source.clean_ce(block) for block in blocks]), losses_of(clean)),
            (np.concatenate([loss.ce for loss in spliced]), losses_of(changed)),
            (np.concatenate([loss.kl for loss in spliced]), kl),
            (np.concatenate([source.ablated_ce(block) for block in blocks]), losses_of(blank)),
        ):
            np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)
            error = abs(found.mean() - expected.mean())
            assert error < 1e-5 * abs(losses_of(changed).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_every_hook_is_what_it_is_in_the_whole_model(family, monkeypatch):
    monkeypatch.setattr(language, "BLOCK_TOKENS", 1024)
    model = causal_lm(family)
    rough, whole = decoder(model, torch.bfloat16), naive(model, family, torch.bfloat16)
    tokens, allowed = SPLITS["test"].tokens, mask()
    for kind in KINDS:
        if kind == "resid_mid" and rough.is_parallel:
            continue
        source = opened(rough, kind)
        blocks = list(source.blocks("test"))
        x = whole.activations(tokens, kind, LAYER)[torch.from_numpy(allowed)].float()
        found = torch.cat([block.activations for block in blocks])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, x, atol=0.02, rtol=0.02)
        new = noisy(x).bfloat16().float()
        parts = new.split([len(block.activations) for block in blocks])
        losses = [source.splice(b, part) for b, part in zip(blocks, parts, strict=True)]
        changed = whole.log_probabilities(tokens, kind, LAYER, new, allowed)
        ce = np.concatenate([loss.ce for loss in losses])
        assert ce.mean() == pytest.approx(losses_of(changed).mean(), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_transcoder_reads_what_the_mlp_is_given(pairs, family):
    model, whole = pairs[family]
    tokens, allowed = SPLITS["test"].tokens, mask()
    site = Site(hook="blocks.1.mlp.hook_in", hook_out=hook("mlp_out"), first_position=FIRST)
    given = torch.cat([b.given for b in Language(model, SPLITS, site).blocks("test")])
    expected = whole.activations(tokens, "mlp_in", LAYER)[torch.from_numpy(allowed)].float()
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", ["gemma2", "gpt2", "llama"])
def test_a_transcoder_reads_what_is_normalised_before_gain_and_bias(pairs, family):
    model, whole = pairs[family]
    site = Site(hook="blocks.1.ln2.hook_normalized", hook_out=hook("mlp_out"), first_position=FIRST)
    given = torch.cat([b.given for b in Language(model, SPLITS, site).blocks("test")])
    tokens, allowed = SPLITS["test"].tokens, mask()
    x = whole.activations(tokens, "resid_mid", LAYER)[torch.from_numpy(allowed)].double()
    x = x - x.mean(1, keepdim=True) if family == "gpt2" else x
    expected = x / (x.square().mean(1, keepdim=True) + EPSILONS[family]).sqrt()
    torch.testing.assert_close(given.double(), expected, atol=1e-5, rtol=1e-5)


def test_what_a_transcoder_reads_is_not_replaced(pairs):
    for name in ("blocks.1.mlp.hook_in", "blocks.1.ln2.hook_normalized"):
        with pytest.raises(UsageError, match=f"{name} can be read, .* but not replaced: say the "):
            Language(pairs["llama"][0], SPLITS, Site(hook=name))
    site = Site(hook="blocks.1.ln2.hook_normalized", hook_out=hook("mlp_out"))
    with pytest.raises(UsageError, match=r"cannot be cut at blocks\.1\.ln2.*: nothing normalises"):
        Language(pairs["olmo2"][0], SPLITS, site)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_transcoder_reads_one_hook_and_replaces_another(pairs, family):
    model, whole = pairs[family]
    source = opened(model, "resid_mid", hook_out=hook("mlp_out"))
    tokens, allowed = SPLITS["test"].tokens, mask()
    given, wanted = (
        whole.activations(tokens, kind, LAYER)[torch.from_numpy(allowed)].float()
        for kind in ("resid_mid", "mlp_out")
    )
    blocks = list(source.blocks("test"))
    for found, expected in (
        (torch.cat([block.given for block in blocks]), given),
        (torch.cat([block.activations for block in blocks]), wanted),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    new = noisy(wanted)
    changed = whole.log_probabilities(tokens, "mlp_out", LAYER, new, allowed)
    parts = new.split([len(block.activations) for block in blocks])
    ce = [source.splice(b, part).ce for b, part in zip(blocks, parts, strict=True)]
    np.testing.assert_allclose(np.concatenate(ce), losses_of(changed), atol=1e-5, rtol=1e-5)
    calibration = next(source.blocks("calibration"))
    assert calibration.inputs is not None
    assert (source.d_in, source.d_out) == (D_MODEL, D_MODEL)


def test_a_transcoder_of_other_widths(pairs):
    source = opened(pairs["gpt2"][0], "z", hook_out=hook("mlp_out"))
    assert (source.d_in, source.d_out) == (D_MODEL, D_MODEL)
    block = next(source.blocks("test"))
    assert (block.given.shape[1], block.activations.shape[1]) == (D_MODEL, D_MODEL)


def test_splicing_the_activation_itself_costs_nothing(pairs):
    for family in ("gpt2", "gemma2", "qwen3.5", "gpt-oss"):
        source = opened(pairs[family][0], "z")
        for block in source.blocks("test"):
            loss = source.splice(block, block.activations)
            np.testing.assert_allclose(loss.ce, source.clean_ce(block), atol=1e-6)
            np.testing.assert_allclose(loss.kl, 0, atol=1e-6)


def test_excluded_tokens_are_no_tokens_of_a_block(pairs):
    source = opened(pairs["gpt2"][0])
    for split in ("calibration", "test"):
        allowed = mask(split)
        assert not allowed.all()
        assert source.n_tokens[split] == allowed.sum()
        assert source.n_documents[split] == len(allowed)
        documents = np.concatenate([block.document for block in source.blocks(split)])
        assert np.array_equal(documents, np.nonzero(allowed)[0])
        assert sum(len(block.activations) for block in source.blocks(split)) == allowed.sum()


def test_first_position_alone_is_excluded_by_default(pairs):
    site = Site(hook=hook("resid_pre"))
    source = Language(pairs["gpt2"][0], SPLITS, site)
    ordinary = ~np.isin(SPLITS["test"].tokens, SPECIAL)
    assert source.n_tokens["test"] == ordinary[:, 1:].sum()


def test_blocks_are_the_same_at_every_call(pairs):
    source = opened(pairs["llama"][0])
    first, second = (list(source.blocks("test")) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.index == other.index
        assert torch.equal(one.activations, other.activations)
        assert np.array_equal(one.document, other.document)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("kind", "prefix", "suffix"),
    [
        ("resid_pre", [0], [1, 2]),
        ("resid_mid", [0, 1], [2]),
        ("attn_out", [0, 1], [2]),
        ("z", [0, 1], [2]),
        ("mlp_out", [0, 1], [2]),
        ("resid_post", [0, 1], [2]),
    ],
)
def test_no_pass_runs_a_block_that_it_need_not(family, kind, prefix, suffix):
    calls = []
    source = opened(decoder(counted(causal_lm(family), calls, family)), kind)
    calls.clear()
    assert list(source.blocks("calibration"))
    assert calls == 2 * prefix
    calls.clear()
    blocks = list(source.blocks("test"))
    assert calls == 3 * (prefix + suffix)
    calls.clear()
    source.splice(blocks[0], blocks[0].activations)
    assert calls == suffix
    calls.clear()
    list(source.blocks("test"))
    for block in blocks:
        source.clean_ce(block)
    assert calls == []


def results(source):
    """All that an evaluation asks of a source."""
    blocks = [*source.blocks("calibration"), *source.blocks("test")]
    found = [array for block in blocks for array in (block.document, block.activations.numpy())]
    for block in blocks[2:]:
        found += [source.clean_ce(block), source.ablated_ce(block)]
        found += source.splice(block, noisy(block.activations))
    return [(source.d_in, source.d_out), *found]


def cached(model, kind="resid_post", splits=SPLITS, **site):
    place = Site(hook=hook(kind), first_position=FIRST, **site)
    return Language(model, splits, place, cache=True)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return kept()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("other", [{}, {"hook_out": hook("mlp_out")}])
def test_a_later_source_at_the_same_hook_runs_no_prefix(own_cache, family, other):
    """Its numbers are those of one that keeps nothing, bit for bit."""
    expected = results(opened(decoder(family), "resid_post", **other))
    calls = []
    first = results(cached(decoder(counted(causal_lm(family), calls, family)), **other))
    assert 0 in calls
    later = decoder(counted(causal_lm(family), calls, family))
    calls.clear()
    second = results(cached(later, **other))
    assert set(calls) == {2}
    for one, two, three in zip(expected, first, second, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_what_is_kept_is_of_a_block_whatever_is_beside_it(own_cache):
    """A run of three documents finds the first block of a run of seven, in blocks of three."""
    calls = []
    results(cached(decoder("llama")))
    first = {split: Contexts(*(array[:3] for array in SPLITS[split])) for split in SPLITS}
    model = decoder(counted(causal_lm("llama"), calls, "llama"))
    calls.clear()
    assert list(cached(model, splits=first).blocks("test"))
    assert calls == []


@pytest.mark.parametrize(
    "other",
    [
        lambda: cached(decoder(causal_lm("llama", seed=1))),
        lambda: cached(decoder(causal_lm("llama", rms_norm_eps=1e-3))),
        lambda: cached(decoder("llama", torch.bfloat16)),
        lambda: cached(decoder("llama"), "resid_mid"),
        lambda: cached(decoder("llama"), hook_out=hook("mlp_out")),
        lambda: cached(decoder("llama"), splits=SPLITS | {"test": contexts(7, seed=3)}),
    ],
)
def test_what_is_kept_is_of_one_model_hook_and_text(own_cache, other):
    list(cached(decoder("llama")).blocks("test"))
    before = len(own_cache.held())
    list(other().blocks("test"))
    assert len(own_cache.held()) == 2 * before


def test_what_is_kept_is_of_one_way_to_compute(own_cache, monkeypatch):
    list(cached(decoder("llama")).blocks("test"))
    before = len(own_cache.held())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    list(cached(decoder("llama")).blocks("test"))
    assert len(own_cache.held()) == 2 * before


def test_what_vanishes_or_is_damaged_is_computed_again(own_cache):
    model = decoder("llama")
    expected = results(opened(model, "resid_post"))
    source = cached(model)
    results(source)
    own_cache.clear()
    for one, two in zip(expected, results(source), strict=True):
        np.testing.assert_array_equal(one, two)
    for held in own_cache.held():
        (held.folder / "arrays.bin").write_bytes(b"")
    with pytest.warns(MdlbenchWarning, match="damaged"):
        again = results(cached(model))
    for one, two in zip(expected, again, strict=True):
        np.testing.assert_array_equal(one, two)


def test_the_run_goes_on_where_nothing_can_be_kept(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "RESERVE", 10**30)
    model = decoder("llama")
    with pytest.warns(MdlbenchWarning, match="no room") as said:
        found = results(cached(model))
    assert len(said) == 1
    for one, two in zip(results(opened(model, "resid_post")), found, strict=True):
        np.testing.assert_array_equal(one, two)
    assert own_cache.held() == []


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_chunks_of_logits_change_nothing(monkeypatch, softcap):
    generator = torch.Generator().manual_seed(0)
    head = Head(
        torch.randn(D_MODEL, VOCABULARY, generator=generator),
        torch.randn(VOCABULARY, generator=generator),
        softcap,
    )
    clean, spliced = torch.randn(2, 33, D_MODEL, generator=generator)
    labels = torch.randint(VOCABULARY, (33,), generator=generator)
    p, q = (torch.log_softmax(head(h).double(), 1).numpy() for h in (clean, spliced))
    rows = np.arange(33), labels.numpy()
    kl = (np.exp(p) * (p - q)).sum(1)
    for n_words in (1, 4, 33, 1000):
        monkeypatch.setattr(losses, "CHUNK_BYTES", n_words * 4 * 33)
        kept = clean_predictions(head, clean, labels)
        loss = spliced_losses(head, spliced, labels, kept)
        np.testing.assert_allclose(kept.ce.numpy(), -p[rows], atol=1e-5)
        np.testing.assert_allclose(loss.ce, -q[rows], atol=1e-5)
        np.testing.assert_allclose(loss.kl, kl, atol=1e-5)


def test_no_matrix_of_logits_is_larger_than_a_chunk(monkeypatch):
    sizes = []
    original = Head.__call__
    model = decoder()
    opened(model)

    def watched(self, *arguments):
        logits = original(self, *arguments)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(Head, "__call__", watched)
    source = opened(model)
    for block in source.blocks("test"):
        source.splice(block, block.activations)
        source.ablated_ce(block)
    assert 4 * max(sizes) <= losses.CHUNK_BYTES


@pytest.mark.parametrize(
    ("layer", "site", "what"),
    [
        (0, {}, r"activations at blocks\.1\.hook_resid_pre"),
        (
            1,
            {"kind": "mlp_out", "hook_out": hook("resid_pre")},
            r"activations at .*1\.hook_mlp_out",
        ),
        (1, {"hook_out": hook("mlp_out")}, r"activations at blocks\.1\.hook_mlp_out"),
        (2, {}, "next-token losses"),
    ],
)
def test_what_the_model_itself_computes_must_be_finite(layer, site, what):
    """A model that is sound when it is opened, and whose MLP of that layer then writes NaN."""
    model = causal_lm()
    source = opened(decoder(model), **site)
    model.transformer.h[layer].mlp.c_proj.bias.data[3] = float("nan")
    message = rf"tiny: {what} are NaN or infinite in block 0 of the test split, before any SAE"
    with pytest.raises(SourceError, match=message):
        list(source.blocks("test"))


def test_a_model_whose_logits_are_not_finite_is_refused():
    transformer = causal_lm()
    transformer.transformer.h[2].mlp.c_proj.bias.data[3] = float("nan")
    with pytest.raises(SourceError, match="model tiny: its own logits are NaN or infinite"):
        decoder(transformer)


def test_pieces_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(DecoderModel, "suffix", lambda self, residual, entry: residual * np.nan)
    with pytest.raises(UsageError, match="model tiny cannot be cut at hook points: run in pieces"):
        decoder()


def test_a_pass_that_failed_leaves_nothing_behind(pairs, monkeypatch):
    model = pairs["gpt2"][0]
    fresh, retried = opened(model), opened(model)
    original, calls = type(model).capture, []

    def interrupted(self, tokens, hooks):
        calls.append(len(tokens))
        if len(calls) == 2:
            raise RuntimeError("no memory left")
        return original(self, tokens, hooks)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "capture", interrupted)
        with pytest.raises(RuntimeError, match="no memory left"):
            list(retried.blocks("test"))
    assert calls == [3, 3]
    for one, other in zip(fresh.blocks("test"), retried.blocks("test"), strict=True):
        wanted, found = (
            s.splice(b, noisy(b.activations)) for s, b in ((fresh, one), (retried, other))
        )
        np.testing.assert_array_equal(retried.clean_ce(other), fresh.clean_ce(one))
        np.testing.assert_array_equal(found.ce, wanted.ce)
        np.testing.assert_array_equal(found.kl, wanted.kl)


def test_a_hook_that_the_model_lacks(pairs):
    for family in ("gpt2", "llama"):
        with pytest.raises(UsageError, match=r"no hook 'blocks\.3\.hook_mlp_out'.*are 0 to 2"):
            opened(pairs[family][0], "mlp_out", layer=N_LAYERS)
        with pytest.raises(UsageError, match=r"no hook 'blocks\.9\.hook_mlp_out'"):
            opened(pairs[family][0], "resid_mid", hook_out=hook("mlp_out", 9))
    with pytest.raises(UsageError, match=r"hook_resid_mid: attention and MLP .* are parallel"):
        opened(pairs["neox"][0], "resid_mid")


@pytest.mark.parametrize(
    "name", ["blocks.8.hook_q", "hook_embed", "blocks.x.hook_z", "blocks.1.hook_resid_pre ", ""]
)
def test_other_hook_names_are_refused(name):
    with pytest.raises(UsageError, match=r"is not supported: .*blocks\.L\.hook_resid_pre"):
        Hook.parse(name)


def test_hook_names_are_canonical():
    assert Hook.parse("blocks.8.hook_z").name == "blocks.8.attn.hook_z"
    assert Hook.parse("blocks.10.hook_resid_pre") == Hook(10, "resid_pre")


def test_foreign_tokens_are_refused(pairs):
    foreign = SPLITS["calibration"].tokens.copy()
    foreign[1, 2] = VOCABULARY
    splits = SPLITS | {"calibration": Contexts(foreign, SPLITS["calibration"].labels)}
    with pytest.raises(UsageError, match="tokenizer does not match: token 40 of a vocabulary of"):
        Language(pairs["gpt2"][0], splits, Site(hook=hook("resid_pre")))


def test_foreign_labels_are_refused(pairs):
    foreign = SPLITS["test"].labels.copy()
    foreign[1, -1] = VOCABULARY
    splits = SPLITS | {"test": Contexts(SPLITS["test"].tokens, foreign)}
    with pytest.raises(UsageError, match="tokenizer does not match: token 40 of a vocabulary of"):
        Language(pairs["gpt2"][0], splits, Site(hook=hook("resid_pre")))


def test_a_mask_that_leaves_nothing_is_refused(pairs):
    site = Site(hook=hook("resid_pre"), first_position=CONTEXT)
    with pytest.raises(UsageError, match=r"no token of the .* split is left to measure"):
        Language(pairs["gpt2"][0], SPLITS, site)


def test_the_digest_covers_weights_tokens_labels_and_site(pairs):
    model = pairs["gpt2"][0]
    labels = SPLITS["test"].labels.copy()
    labels[0, 0] ^= 1
    others = {**SPLITS, "test": Contexts(SPLITS["test"].tokens, labels)}
    site = Site(hook=hook("resid_pre"), first_position=FIRST)
    digests = {
        opened(model).data_sha256,
        opened(decoder(causal_lm(seed=1))).data_sha256,
        opened(decoder("gpt2", torch.bfloat16)).data_sha256,
        opened(model, "resid_post").data_sha256,
        opened(model, text="other").data_sha256,
        Language(model, others, site).data_sha256,
        Language(model, SPLITS | {"test": SPLITS["calibration"]}, site).data_sha256,
    }
    assert len(digests) == 7
    assert opened(model).data_sha256 == opened(model).data_sha256


def test_the_digest_of_weights_tells_names_and_precisions_apart():
    one, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
    assert weights_digest(one) != weights_digest(other.bfloat16())


def test_wiring_of_a_parallel_block():
    pre, attn, mlp = (Hook(1, kind) for kind in ("resid_pre", "attn_out", "mlp_out"))
    assert Wiring.of(attn, is_parallel=True) == Wiring(HookEntry(2), (pre, mlp))
    assert Wiring.of(mlp, is_parallel=True) == Wiring(HookEntry(2), (pre, attn))
    assert Wiring.of(Hook(1, "z"), is_parallel=True) == Wiring(HookEntry(2), (pre, mlp))


def test_models_that_do_not_add_up_to_their_pieces_are_refused():
    from transformers import GraniteConfig, GraniteForCausalLM

    config = GraniteConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        residual_multiplier=0.5,
        embedding_multiplier=3.0,
        logits_scaling=2.0,
    )
    with pytest.raises(UsageError, match="model tiny cannot be cut at hook points: run in pieces"):
        decoder(GraniteForCausalLM(config))


def test_a_model_without_layers_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=D_MODEL, num_hidden_layers=1)
    model = MambaForCausalLM(config)
    del model.backbone.layers
    with pytest.raises(UsageError, match=r"tiny cannot be cut at hook points: its MambaModel has"):
        decoder(model)


def test_a_model_that_lacks_something_else_is_refused():
    from transformers import BloomConfig, BloomForCausalLM, OPTConfig, OPTForCausalLM

    bloom = BloomConfig(vocab_size=VOCABULARY, hidden_size=D_MODEL, n_layer=1, n_head=2)
    with pytest.raises(UsageError) as error:
        decoder(BloomForCausalLM(bloom))
    assert str(error.value) == (
        "model tiny cannot be cut at hook points: 'BloomConfig' object has no attribute "
        "'max_position_embeddings'"
    )
    opt = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        word_embed_proj_dim=D_MODEL,
        ffn_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        do_layer_norm_before=False,
    )
    with pytest.raises(UsageError, match="its OPTDecoder has no norm or ln_f or final_layer_norm"):
        decoder(OPTForCausalLM(opt))


def test_a_model_that_reads_few_tokens_is_tried_on_so_many():
    assert decoder(causal_lm("gpt2", max_position_embeddings=5)).n_positions == 5


def test_a_hook_where_the_pieces_are_not_the_whole_is_refused_and_the_others_are_not(monkeypatch):
    """A block that writes twice what its MLP puts out: the residual stream can be cut."""
    model = causal_lm("llama")
    block = model.model.layers[LAYER]
    written = []
    block.mlp.register_forward_hook(lambda module, args, output: written.append(output))
    block.register_forward_hook(
        lambda module, args, output: output + (written.pop() if written else 0)
    )
    cut = decoder(model)
    for kind in ("resid_pre", "resid_post"):
        opened(cut, kind)
    for kind in ("attn_out", "mlp_out", "z", "resid_mid"):
        message = rf"model tiny cannot be cut at {hook(kind)}: run in pieces, it is not the model"
        with pytest.raises(UsageError, match=message.replace(".", r"\.")):
            opened(cut, kind)


# --- models that cannot be loaded -----------------------------------------------------------------


def loaded(name):
    return load_model(HubModel(kind="hub", name=name), {}, "cpu", torch.float32)


def saved_llama(folder):
    """A repository's files, in a folder."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    causal_lm("llama").save_pretrained(folder)
    words = Tokenizer(WordLevel({"a": 1, "?": 0}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("n_bytes", [0, 40, 5000])
def test_weights_that_are_cut_off_are_damaged(tmp_path, n_bytes):
    folder = saved_llama(tmp_path / "tiny")
    assert loaded(str(folder)).d_model == D_MODEL
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(
        HubError, match=r"tiny: a file of its weights is damaged .*`mdlbench fetch`"
    ):
        loaded(str(folder))


@pytest.mark.parametrize("family", ["gpt2", "neox", "qwen3", "qwen3-moe", "qwen3.5", "gpt-oss"])
def test_files_that_have_all_weights_are_loaded_as_they_are(tmp_path, family):
    """Tied ones, which no file has, and experts, which files have one by one."""
    model = causal_lm(family)
    model.save_pretrained(saved_llama(tmp_path / "tiny"))
    assert loaded(str(tmp_path / "tiny")).sha256 == decoder(model).sha256


def rewritten(folder, changes):
    """The weights of a saved model, by new names and with other content; None takes one away."""
    file = folder / "model.safetensors"
    found = {**load_file(file)}
    for name, change in changes.items():
        found[name] = change(found[name]) if change else None
    kept = {name: tensor.contiguous() for name, tensor in found.items() if tensor is not None}
    save_file(kept, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("changes", "config", "lacking"),
    [
        ({"lm_head.weight": None}, {}, "1 .*(lm_head.weight)"),
        (
            {"model.layers.1.mlp.up_proj.weight": lambda w: w[:3]},
            {},
            "1 .*(model.layers.1.mlp.up_proj.weight)",
        ),
        ({}, {"vocab_size": VOCABULARY + 1}, "2 .*(lm_head.weight, model.embed_tokens.weight)"),
        ({}, {"num_hidden_layers": N_LAYERS + 1}, "13 .*(model.layers.3.input_layernorm.weight, "),
    ],
)
def test_weights_that_files_lack_are_not_drawn(tmp_path, changes, config, lacking):
    """The library would draw them, and the model would be another at each run."""
    folder = rewritten(saved_llama(tmp_path / "tiny"), changes)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    number, names = lacking.split(" .*")
    with pytest.raises(HubError) as error:
        loaded(str(folder))
    said = f"model {folder}: its files lack {number} of its weights, or have them in other shapes "
    assert str(error.value).startswith(f"{said}than its config says {names}")
    assert str(error.value).endswith("; name a repository that has all")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[]", "argument after .* must be a mapping, not list"),
        ("config.json", {"hidden_act": "nope"}, "'nope'"),
        ("config.json", {"num_attention_heads": 0}, "integer modulo by zero"),
        ("config.json", {"hidden_size": "wide"}, "Validation error for field 'hidden_size'"),
        (
            "config.json",
            {"model_type": "own", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "c.M"}},
            "The repository .* contains custom code which must be executed",
        ),
        ("tokenizer.json", "{}", "'added_tokens'"),
        ("tokenizer.json", "{", "Expecting property name"),
        ("model.safetensors.index.json", "[]", "list indices must be integers"),
    ],
)
def test_files_that_are_no_model_are_told(tmp_path, monkeypatch, file, content, message):
    folder = saved_llama(tmp_path / "tiny")
    if isinstance(content, dict):
        content = json.dumps(json.loads((folder / file).read_text()) | content)
    if file.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(content)
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("nobody is asked"))
    with pytest.raises(UsageError, match=rf"^model {folder} cannot be loaded: .*{message}") as told:
        loaded(str(folder))
    assert str(told.value).endswith(
        "; if files of it are missing or damaged, `mdlbench fetch` gets them, and its own code is "
        "never run"
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            GatedRepoError,
            r"access is restricted\. Ask for it on the .* `hf auth login`, or set HF_TO",
        ),
        (
            RepositoryNotFoundError,
            "no such repository on the hub; if it is private, log in: `hf auth",
        ),
        (RevisionNotFoundError, "no such revision$"),
        (HfHubHTTPError, r"the hub refuses access \(403\)\. Log in with a token that may read it:"),
    ],
)
def test_a_gated_model_or_one_that_is_not_there_says_what_to_do(monkeypatch, kind, message):
    import transformers

    def from_pretrained(*args, **kwargs):
        """As transformers does it."""
        answer = SimpleNamespace(headers={}, request=None, status_code=403)
        cause = kind("403", response=answer)
        if kind is HfHubHTTPError:
            local = LocalEntryNotFoundError("not in the cache")
            local.__cause__, cause = cause, local
        raise OSError("We couldn't connect.") from cause

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(HubError, match=rf"^google/gemma-2-2b: {message}"):
        loaded("google/gemma-2-2b")


def test_a_model_that_the_cache_lacks_says_what_to_do_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(HubUnreachableError) as error:
        loaded("google/gemma-2-2b")
    assert str(error.value) == (
        f"google/gemma-2-2b is not in the cache {tmp_path / 'hub'} and the hub cannot be reached "
        f"(HF_HUB_OFFLINE is set). {WHAT_TO_DO}."
    )


class ProxyError(Exception):
    """What huggingface_hub's HTTP client raises, an `OSError` by no means."""

    __module__ = "httpx2"


@pytest.mark.parametrize("name", ["gpt2", "ann/llama"])
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (ProxyError("403 Forbidden"), HubError, r"cannot be reached \(ProxyError: 403 Forbidden\)"),
        (SafetensorError("header too small"), HubError, r"is damaged \(header too small\)"),
        (OSError("no such repository\nmore"), HubError, r"not available \(no such repository\)"),
        (ValueError("no such type\nmore"), UsageError, "cannot be loaded: no such type; if files"),
        (
            KeyError("a mistake of the library"),
            UsageError,
            "KeyError: 'a mistake of the library'; if",
        ),
        (MemoryError(), MemoryShortageError, "memory does not suffice"),
    ],
)
def test_why_a_model_of_the_hub_cannot_be_loaded(monkeypatch, name, error, raised, message):
    import transformers

    def from_pretrained(*args, **kwargs):
        raise error

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_pretrained)
    with pytest.raises(raised, match=message):
        loaded(name)
