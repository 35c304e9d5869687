"""`fetch` from a server of the surrogate hub into caches that are empty, damaged or complete."""

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from safetensors.torch import save

from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.adapters.protocol import Origin
from mdlbench.disk.files import cache_folder, sha256_of
from mdlbench.errors import CheckpointError, HubError
from mdlbench.hub.hub import HubUnreachableError
from mdlbench.scoring.fetch import Got, Missed, fetch
from mdlbench.sources.language import needs
from mdlbench.suite.load import load_suite, suites_folder
from tests.surrogate_hub import as_json, serving, write_repository
from tests.test_hub import DISCARD, fake, set_endpoint
from tests.test_packaged import FILE, SHA256, index, write_wheel

__all__ = ["fake", "index"]

JB = "saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre"
V5 = "saelens:gpt2-small-resid-post-v5-32k/blocks.8.hook_resid_post"
HOOK_Z = "saelens:gpt2-small-hook-z-kk/blocks.8.hook_z"
SPARSIFY = "sparsify:hf://ann/saes/run/layers.8"
GEMMA_3 = "saelens:gemma-scope-2-4b-pt-res-all/layer_0_width_16k_l0_small"
WEIGHTS = "blocks.8.hook_resid_pre/sae_weights.safetensors"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Empty caches, and no hub."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    set_endpoint(monkeypatch, DISCARD)
    close_session()
    yield tmp_path
    close_session()


@pytest.fixture
def online(hub, empty, monkeypatch):
    """Empty caches, and a hub that can be reached."""
    with serving(hub) as endpoint:
        set_endpoint(monkeypatch, int(endpoint.rpartition(":")[2]))
        yield empty


def language_suite(folder, saes, **source):
    content = yaml.safe_load((suites_folder() / "gpt2-l8" / "suite.yaml").read_text())
    content["name"] = "mine"
    content["source"] |= {"texts": [{"kind": "python-docs", "name": "python-docs"}], **source}
    content["saes"] = [{"key": key, "spec": spec} for key, spec in saes.items()]
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return load_suite(folder)


def cached(folder, name):
    """The one file of that name in the hub's cache."""
    (found,) = (folder / "hub").glob(f"models--*/snapshots/*/{name}")
    return found


def messages(suite):
    return [outcome.message for outcome in fetch(suite)]


def test_everything_is_got_then_checked_without_the_hub(online, monkeypatch):
    suite = language_suite(online, {"jb": JB, "v5": V5, "z": HOOK_Z})
    seen = []
    first = list(fetch(suite, seen.append))
    assert seen == [outcome.label for outcome in first] == ["model gpt2", "jb", "v5", "z"]
    assert [outcome.n_files for outcome in first] == [7, 2, 2, 2]
    kept = json.loads((cache_folder() / "fetched" / "mine.json").read_text())
    files = {path for path in (online / "hub").glob("*/snapshots/**/*") if path.is_file()}
    assert kept == {path.relative_to(online / "hub").as_posix(): sha256_of(path) for path in files}
    assert len(kept) == 13
    assert str(online) not in str(kept)
    set_endpoint(monkeypatch, DISCARD)
    assert list(fetch(suite)) == first


def test_a_pattern_is_every_sae_that_it_matches(online):
    suite = language_suite(online, {"jb": "saelens:gpt2-small-res-jb/blocks.1*.hook_resid_pre"})
    labels = [outcome.label.rpartition("/")[2] for outcome in fetch(suite)]
    assert labels[1:] == [f"blocks.{i}.hook_resid_pre" for i in (1, 10, 11)]


def test_a_truncated_file_is_fetched_again(online):
    suite = language_suite(online, {"jb": JB, "v5": V5})
    list(fetch(suite))
    whole = sha256_of(cached(online, WEIGHTS))
    blob = cached(online, WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    outcomes = {outcome.label: outcome for outcome in fetch(suite)}
    assert "fetched again, because sae_weights.safetensors is damaged" in outcomes["jb"].message
    assert outcomes["v5"].damaged == []
    assert sha256_of(cached(online, WEIGHTS)) == whole == cached(online, WEIGHTS).resolve().name


def test_damage_is_known_by_the_hubs_hashes_alone(online):
    suite = language_suite(online, {"jb": JB})
    list(fetch(suite))
    shutil.rmtree(cache_folder())
    for name in (WEIGHTS, "blocks.8.hook_resid_pre/cfg.json"):
        blob = cached(online, name).resolve()
        blob.write_bytes(blob.read_bytes() + b" ")
    (_, jb) = fetch(suite)
    assert [problem.split()[0] for problem in jb.damaged] == ["cfg.json", "sae_weights.safetensors"]


def test_without_links_damage_is_known_by_the_first_fetch(online):
    suite = language_suite(online, {"jb": JB})
    list(fetch(suite))
    file = cached(online, WEIGHTS)
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1])
    (_, jb) = fetch(suite)
    assert "when it was first fetched" in jb.message
    assert cached(online, WEIGHTS).read_bytes() == content


def test_damage_that_cannot_be_mended_is_named_and_stops_nothing_else(online, monkeypatch):
    suite = language_suite(online, {"jb": JB, "v5": V5})
    list(fetch(suite))
    blob = cached(online, WEIGHTS).resolve()
    blob.write_bytes(b"")
    set_endpoint(monkeypatch, DISCARD)
    (_, jb, v5) = fetch(suite)
    assert isinstance(jb, Missed)
    assert jb.message.startswith("jb: sae_weights.safetensors is damaged")
    assert isinstance(v5, Got)


def test_what_cannot_be_had_is_said_in_a_line_each(empty):
    saes = {
        "jb": JB,
        "z": HOOK_Z,
        "misspelt": "saelens:gpt2-small-res-jbb/blocks.8.hook_resid_pre",
        "no-such-id": "saelens:gpt2-small-res-jb/blocks.12.hook_resid_pre",
        "pca": "baseline:pca",
    }
    said = dict(line.split(": ", 1) for line in messages(language_suite(empty, saes)))
    for label in ("model gpt2", "jb", "z"):
        assert said[label].startswith("not cached, and the hub cannot be reached (ConnectError")
    assert "no release that SAELens knows. The nearest" in said["misspelt"]
    assert "has no SAE 'blocks.12.hook_resid_pre'" in said["no-such-id"]
    assert "pca" not in said
    assert not (cache_folder() / "fetched").exists()


def sparsify_files():
    shapes = {"encoder.weight": (8, 4), "encoder.bias": (8,), "W_dec": (8, 4), "b_dec": (4,)}
    return {
        "run/layers.8/cfg.json": as_json({"d_in": 4, "num_latents": 8, "k": 2}),
        "run/layers.8/sae.safetensors": save({k: torch.ones(v) for k, v in shapes.items()}),
    }


def test_what_tells_the_site_of_an_sae_is_got_and_checked(empty, monkeypatch):
    run = {"run/config.json": as_json({"model": "gpt2", "ctx_len": 64})}
    write_repository(empty / "served" / "hub", "ann/saes", sparsify_files() | run)
    suite = language_suite(empty, {"s": SPARSIFY})
    with serving(empty / "served") as endpoint:
        set_endpoint(monkeypatch, int(endpoint.rpartition(":")[2]))
        (_, got) = fetch(suite)
        assert (got.label, got.n_files, got.damaged) == ("s", 3, [])
        cached(empty, "run/config.json").resolve().write_bytes(b"{")
        with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
            NamedCoder(SPARSIFY).origin()
        (_, got) = fetch(suite)
        assert [problem.split()[0] for problem in got.damaged] == ["config.json"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    expected = Origin(model="gpt2", hook="blocks.8.hook_resid_post", context=64)
    assert load_coder(SPARSIFY).spec.origin == NamedCoder(SPARSIFY).origin() == expected


def test_what_tells_the_site_of_an_sae_must_be_cached_if_the_hub_has_it(empty, monkeypatch):
    write_repository(empty / "hub", "ann/saes", sparsify_files())
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(HubUnreachableError, match=r"'run/config\.json' is not in the cache"):
            NamedCoder(SPARSIFY).origin()


def test_that_the_hub_says_nothing_of_the_site_is_kept(empty, fake, monkeypatch):
    fake.files["ann/saes"] = sparsify_files()
    suite = language_suite(empty, {"s": SPARSIFY})
    (_, got) = fetch(suite)
    assert got.n_files == 2
    for offline in (False, True):
        set_endpoint(monkeypatch, DISCARD)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        assert NamedCoder(SPARSIFY).origin() == Origin(hook="blocks.8.hook_resid_post")


def test_an_sae_at_the_root_of_a_repository_has_nothing_above_it(empty):
    files = {name.removeprefix("run/layers.8/"): file for name, file in sparsify_files().items()}
    write_repository(empty / "hub", "ann/saes", files)
    assert NamedCoder("sparsify:hf://ann/saes").origin() == Origin()


def test_places_on_the_hub_are_read_as_adapters_read_them(empty):
    run = {"run/config.json": as_json({})}
    write_repository(empty / "hub", "ann/saes", sparsify_files() | run)
    short, doubled = "sparsify:hf://someone", "sparsify:hf://ann/saes//run//layers.8/"
    (_, missed, got) = fetch(language_suite(empty, {"short": short, "doubled": doubled}))
    assert missed.message == (
        "short: 'hf://someone': a place on the hub is written hf://OWNER/REPO/PATH"
    )
    assert (got.label, got.n_files) == ("doubled", 3)


def test_a_folder_on_the_hub_is_no_release(empty):
    config = {"d_in": 4, "d_sae": 8, "dtype": "torch.float32", "hook_name": "blocks.8.hook_mlp_out"}
    shapes = {"W_enc": (4, 8), "b_enc": (8,), "W_dec": (8, 4), "b_dec": (4,)}
    files = {
        "a/cfg.json": as_json(config),
        "a/sae_weights.safetensors": save({k: torch.ones(v) for k, v in shapes.items()}),
    }
    write_repository(empty / "hub", "ann/saes", files)
    (_, got) = fetch(language_suite(empty, {"a": "saelens:hf://ann/saes/a"}))
    assert (got.label, got.n_files) == ("a", 2)


def test_what_saelens_asks_the_network_for_is_missing(empty, fake, monkeypatch):
    from sae_lens.loading import pretrained_sae_loaders

    shapes = {"w_enc": (4, 8), "b_enc": (8,), "w_dec": (8, 4), "b_dec": (4,), "threshold": (8,)}
    monkeypatch.setattr(
        pretrained_sae_loaders, "get_safetensors_tensor_shapes", lambda repo, file: shapes
    )
    config = {"architecture": "jump_relu", "model_name": "gemma-v3-4b-pt"}
    path = "resid_post_all/layer_0_width_16k_l0_small"
    fake.files["google/gemma-scope-2-4b-pt"] = {
        f"{path}/config.json": as_json(config),
        f"{path}/params.safetensors": save({k: torch.ones(v) for k, v in shapes.items()}),
    }
    (_, missed) = fetch(language_suite(empty, {"gemma": GEMMA_3}))
    assert missed.message == (
        f"gemma: {GEMMA_3.removeprefix('saelens:')}: SAELens itself asks the network for the "
        "config of such a release (gemma_3), even where everything is cached: "
        "it cannot be loaded without one"
    )
    assert load_coder(GEMMA_3).spec.d_latents == 8


def test_a_repository_without_weights_is_no_model(online):
    repository = "ckkissane/attn-saes-gpt2-small-all-layers"
    (model,) = fetch(language_suite(online, {}, model={"kind": "hub", "name": repository}))
    assert model.message.startswith(f"model {repository}: {repository}: no weights among its files")


def test_a_packaged_model(empty, index):
    model = {"kind": "package", "name": "tiny", "package": "tiny-model", "version": "1.0"}
    suite = language_suite(empty, {}, model=model | {"file": FILE, "sha256": SHA256})
    assert "the package index cannot be reached" in messages(suite)[0]
    write_wheel(index)
    (got,) = fetch(suite)
    assert (got.label, got.n_files, got.n_bytes) == ("model tiny", 1, 7000)
    path = cache_folder() / "packages" / "tiny-model-1.0" / FILE
    path.write_bytes(b"short")
    assert "is damaged" in messages(suite)[0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


def test_a_list_of_hashes_that_cannot_be_read_is_named(empty):
    path = cache_folder() / "fetched" / "mine.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(HubError, match=r"mine\.json: cannot be read.*delete it"):
        list(fetch(language_suite(empty, {"jb": JB})))


def test_a_text_that_the_suite_can_do_without_is_not_missing(hub, empty, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(empty / "datasets"))
    texts = load_suite("gpt2-l8").model_dump()["source"]["texts"]
    (_, text) = fetch(language_suite(empty, {}, texts=texts))
    assert text.instead == "python-docs"
    assert text.message.endswith("Runs will use python-docs instead")
    (_, text) = fetch(language_suite(empty, {}, texts=texts[:1]))
    assert text.instead is None
    shutil.copytree(hub / "datasets", empty / "datasets")
    (_, text) = fetch(language_suite(empty, {}, texts=texts))
    assert (text.label, text.n_files) == ("text pile-10k", 1)


def test_a_prepared_dataset_is_made_again_as_a_whole(empty, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(empty / "datasets"))
    prepared = empty / "datasets" / "NeelNanda___pile-10k" / "default" / "0.0.0" / "commit"
    made = {"a-test.arrow": b"test", "b-train.arrow": b"train", "c-validation.arrow": b"valid"}

    def prepare(text, folder):
        prepared.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            if not (prepared / name).exists():
                (prepared / name).write_bytes(content)
        yield "a text"

    monkeypatch.setattr(needs, "read", prepare)
    texts = load_suite("gpt2-l8").model_dump()["source"]["texts"][:1]
    suite = language_suite(empty, {}, texts=texts)
    (_, text) = fetch(suite)
    assert (text.n_files, text.damaged) == (3, [])
    (prepared / "a-test.arrow").write_bytes(b"short")
    made = {name: content + b" of a newer version" for name, content in made.items()}
    del made["c-validation.arrow"]
    (_, text) = fetch(suite)
    assert text.n_files == 2
    assert [problem.split()[0] for problem in text.damaged] == ["a-test.arrow"]
    kept = json.loads((cache_folder() / "fetched" / "mine.json").read_text())
    assert {name.rpartition("/")[2]: sha256 for name, sha256 in kept.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in made.items()
    }


def test_a_suite_that_ships_all_it_needs(empty):
    assert list(fetch(load_suite("mnist"))) == []
    assert not Path(constants.HF_HUB_CACHE).exists()
