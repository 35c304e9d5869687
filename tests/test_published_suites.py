"""The suites of Gemma, Pythia, Qwen and Llama, unchanged, on surrogate weights."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.scoring.suite_run import Scored, run
from mdlbench.scoring.targets import targets
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.load import load_suite
from tests.surrogate_hub import python_docs
from tests.surrogate_suites import MODELS, N_LATENTS, N_OF_QWEN, WIDTH, write_suite_hub

SCORED = {
    "gemma-2-2b-l12": ["topk-4k-0", "scope-transcoder-16k-6"],
    "pythia-160m-l8": ["jumprelu-4k-0", "matryoshka-16k-4", "gated-4k-5"],
    "gemma-3-270m": ["res-16k-small", "att-16k-big", "transcoder-16k-small-affine"],
    "gemma-3-1b": ["mlp-65k-medium", "transcoder-16k-small"],
    "qwen3-1.7b": ["layer-7-k50", "layer-21-k100"],
    "llama-3.1-8b": ["res-32k", "att-131k", "mlp-32k"],
}
"""SAEs that are scored, at least one at each kind of hook and of each layout."""
TRANSCODERS = {
    "gemma-2-2b-l12": "blocks.12.ln2.hook_normalized",
    "gemma-3-270m": "blocks.12.mlp.hook_in",
    "gemma-3-1b": "blocks.13.mlp.hook_in",
}


@pytest.fixture(params=MODELS)
def suite(request, tmp_path, monkeypatch):
    """A suite, its model and SAEs in the cache of a hub that cannot be reached."""
    write_suite_hub(tmp_path / "hub", request.param)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return load_suite(request.param)


def test_every_sae_is_read_where_the_suite_scores_it_and_some_are_scored(suite, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(python_docs())[:60_000])
    opener = Opener(suite, Setting(text=str(text), limit=2))
    for entry in suite.saes:
        named = NamedCoder(entry.spec)
        site = opener.site_of(named.origin(), entry.place, entry.key)
        assert (site.context, site.prepend_bos) == (1024, suite.name != "qwen3-1.7b"), entry.key
        if entry.spec.startswith("baseline:"):
            continue
        coder = load_coder(entry.spec)
        n_latents = N_OF_QWEN if suite.name == "qwen3-1.7b" else N_LATENTS
        assert (coder.spec.d_in, coder.spec.d_latents) == (WIDTH, n_latents), entry.key
        is_transcoder = "transcoder" in entry.key
        assert (site.hook == TRANSCODERS.get(suite.name)) == is_transcoder, entry.key
        assert (site.hook_out is not None) == is_transcoder, entry.key
        assert Hook.parse(site.hook).layer == Hook.parse(site.hook_out or site.hook).layer

    keys = SCORED[suite.name]
    outcomes = list(run(opener, targets(suite, keys, None), tmp_path / "results"))
    assert [outcome.target.name for outcome in outcomes] == keys
    for outcome in outcomes:
        assert isinstance(outcome, Scored), outcome
        record = outcome.record
        assert record.identity.suite == suite.name
        assert record.partial
        if "transcoder" not in outcome.target.name:
            assert record.floor.fvu < 1e-5, outcome.target.name
            assert abs(record.floor.delta_ce) < 1e-3, outcome.target.name


def test_no_suite_names_an_sae_twice_and_every_one_says_what_it_takes():
    for name in MODELS:
        suite = load_suite(name)
        specs = [(entry.spec, entry.place.hook) for entry in suite.saes]
        assert len(set(specs)) == len(specs)
        assert suite.costs.download_gb > 1
        assert suite.costs.memory_gb > 1
