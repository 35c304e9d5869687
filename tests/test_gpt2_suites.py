"""The suites of published SAEs, run as a user runs them, against the surrogate hub."""

import csv
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants

from mdlbench.adapters.formats.saelens.releases import find_release
from mdlbench.adapters.load import NamedCoder, load_coder
from mdlbench.suite.load import load_suite, suites_folder
from tests.quick import MDLBENCH, served
from tests.surrogate_hub import N_HEADS, WIDTH, environment

SUITES = ("gpt2-l8", "gpt2-res-jb")
SAES = load_suite("gpt2-l8").saes
WIDTHS = {768: 32, 1536: 64, 3072: 96, 6144: 128, 12288: 160, 24576: 192, 49152: 256, 98304: 384}
PRE = "blocks.8.hook_resid_pre, 128 tokens, BOS, center_writing_weights"


def mdlbench(folder, *arguments, **variables):
    """The command as a process that has the surrogate hub in `folder` and no network."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    here = {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [*MDLBENCH, *map(str, arguments)],
        env=served(clean | environment(folder) | here | variables),
        capture_output=True,
        text=True,
        check=False,
    )


def records(folder):
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return {record["identity"]["coder"]["name"]: record for record in found}


def small_suite(folder):
    """`gpt2-l8` on a few contexts, at two tolerances."""
    content = yaml.safe_load((suites_folder() / "gpt2-l8" / "suite.yaml").read_text())
    content["source"]["tokens"] = {"calibration": 2048, "test": 1024}
    content["tolerances"] = [
        {"metric": "delta_ce", "epsilons": [0.5]},
        {"metric": "fvu", "epsilons": [0.2]},
    ]
    content["headline"] = {"metric": "delta_ce", "epsilon": 0.5}
    content["replicates"] = 100
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.fixture
def cached(hub, monkeypatch):
    """This process has the surrogate hub's cache and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return hub


@pytest.fixture(scope="module")
def finished(hub, tmp_path_factory):
    """A whole run of all 19 SAEs, on fewer tokens."""
    folder = tmp_path_factory.mktemp("results")
    suite = small_suite(tmp_path_factory.mktemp("suite"))
    run = mdlbench(hub, "eval", "--suite", suite, "-o", folder)
    assert run.returncode == 0, run.stderr
    return folder, run


def test_every_sae_of_the_suites_is_a_published_one():
    for name in (*SUITES, "template.yaml"):
        suite = load_suite(suites_folder() / name)
        for entry in suite.saes:
            release, _, id = entry.spec.removeprefix("saelens:").partition("/")
            assert find_release(release, suites_folder()).published(id).path
    assert [len(load_suite(name).saes) for name in SUITES] == [19, 13]


@pytest.mark.parametrize("entry", SAES, ids=[entry.key for entry in SAES])
def test_saelens_opens_it_offline_and_agrees(entry, cached):
    from sae_lens import SAE

    release, _, id = entry.spec.removeprefix("saelens:").partition("/")
    theirs = SAE.from_pretrained(release, id)
    x = 3 * torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0))
    is_z = theirs.cfg.reshape_activations == "hook_z"
    shaped = x.view(1, 16, N_HEADS, -1) if is_z else x
    with torch.no_grad():
        latents = theirs.encode(shaped)
        decoded = theirs.decode(latents).reshape(16, WIDTH)
    ours = load_coder(entry.spec)
    found, side = ours.encode(x)
    np.testing.assert_allclose(
        found.to_dense(), latents.reshape(16, -1).numpy(), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(ours.decode(found, side), decoded, rtol=1e-4, atol=1e-4)
    said, metadata = NamedCoder(entry.spec).origin(), theirs.cfg.metadata
    bos = entry.place.prepend_bos if said.prepend_bos is None else said.prepend_bos
    assert (said.context, bos) == (metadata.context_size, metadata.prepend_bos)
    assert said.model_options == (metadata.model_from_pretrained_kwargs or {})


def test_all_nineteen_are_scored_where_they_were_trained(finished):
    found = records(finished[0])
    assert sorted(found) == sorted(entry.key for entry in SAES)
    assert {record["status"] for record in found.values()} == {"complete"}
    assert not any(record["partial"] for record in found.values())
    for width, d_sae in WIDTHS.items():
        assert found[f"splitting-{width}"]["coder"]["d_latents"] == d_sae
    tokens = {name: record["n_tokens"]["test"] for name, record in found.items()}
    assert tokens["res-jb-24576"] == tokens["splitting-768"] == tokens["hook-z-kk-24576"]
    assert 1000 < tokens["res-jb-24576"] <= 8 * 127
    assert 990 < tokens["mlp-out-v5-32k"] <= 16 * 63


def test_every_sae_was_loaded_right(finished):
    for name, record in records(finished[0]).items():
        floor = record["floor"]
        assert floor["fvu"] < 0.5, name
        assert floor["ce_recovered"] > 0.7, name
        assert abs(floor["delta_ce"]) < 0.5, name
        layer_norm = "-v5-" in name
        assert record["points"][0]["bits"]["side"] == (64 if layer_norm else 0), name
        assert not layer_norm or record["coder"]["l0"] <= 32


@pytest.mark.parametrize(
    "sae", ["res-jb-24576", "saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre"]
)
def test_a_suites_sae_is_checked_where_the_suite_scores_it(hub, sae, tmp_path):
    suite = small_suite(tmp_path)
    run = mdlbench(hub, "check-adapter", sae, "--suite", suite, "--json")
    assert run.returncode == 0, run.stderr
    checks = {row["check"]: row for row in json.loads(run.stdout)}
    assert checks["trained on"][""] == "warning"
    assert "its config does not say prepend_bos" in checks["trained on"]["found"]
    assert "blocks.8.hook_resid_pre" in checks["trained on"]["found"]


def test_the_leaderboard_ranks_within_a_place(finished):
    folder, run = finished
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 19 * 2
    sites = {row["site"]: [] for row in rows}
    assert len(sites) == len(list(folder.glob("curves-blocks*.png"))) == 7
    for row in rows:
        if (row["metric"], row["epsilon"], row["status"]) == ("delta_ce", "0.5", "ranked"):
            sites[row["site"]].append((float(row["bits"]), int(row["rank"])))
    assert all(sorted(ranked)[0][1] == 1 for ranked in sites.values())
    assert len(sites[PRE]) >= 5
    assert sorted(rank for _, rank in sites[PRE]) == [rank for _, rank in sorted(sites[PRE])]
    assert "blocks.8.hook_resid_pre" in run.stdout
    assert (folder / "table.md").read_text().count("splitting-98304") > 0


@pytest.mark.parametrize(("name", "sae"), [("gpt2-l8", "mlp-tm-24576"), ("gpt2-res-jb", "final")])
def test_the_shipped_suites_run_by_name_and_are_partial_with_a_limit(name, sae, hub, tmp_path):
    run = mdlbench(hub, "eval", "--suite", name, "--limit", 2, "--sae", sae, "-o", tmp_path)
    assert run.returncode == 0, run.stderr
    (record,) = records(tmp_path).values()
    assert record["partial"]
    assert record["identity"]["suite"] == name
    assert 200 < record["n_tokens"]["test"] <= 2 * 127


def changed_sae(hub, folder, **keys):
    """A published SAE's folder with other keys in its config, as a spec."""
    published = next((hub / "hub").glob("*Reformatted/snapshots/*/blocks.8.hook_resid_pre"))
    shutil.copytree(published, folder)
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"prepend_bos": True} | keys))
    return f"saelens:{folder}"


def test_what_cannot_be_scored_is_named_and_stops_nothing_else(hub, tmp_path):
    wrong = {
        changed_sae(hub, tmp_path / "a", model_name="pythia-70m"): "was trained on model 'pythia-",
        changed_sae(hub, tmp_path / "b", hook_point="blocks.8.hook_q"): "'blocks.8.hook_q'",
        changed_sae(hub, tmp_path / "c", d_in=64): "W_enc",
        changed_sae(hub, tmp_path / "d", hook_point="blocks.12.hook_resid_pre"): "are 0 to 11",
        changed_sae(hub, tmp_path / "e", context_size=256): "longer than the 128",
        "saelens:gpt2-small-res-jbb/blocks.8.hook_resid_pre": "no release that SAELens knows",
        "saelens:gpt2-small-res-jb/blocks.12.hook_resid_pre": "has no SAE 'blocks.12.hook_resid",
    }
    options = [part for spec in [*wrong, "splitting-768"] for part in ("--sae", spec)]
    folder = tmp_path / "results"
    run = mdlbench(hub, "eval", "--suite", small_suite(tmp_path), "-o", folder, *options)
    assert run.returncode in (1, 2)
    assert "Traceback" not in run.stderr
    said = [line for line in run.stderr.splitlines() if line.startswith("failed  ")]
    assert len(said) == len(wrong)
    for spec, message in wrong.items():
        assert any(spec.partition(":")[2] in line and message in line for line in said), spec
    assert list(records(folder)) == ["splitting-768"]


def test_a_model_that_cannot_be_had_is_one_message(hub, tmp_path):
    shutil.copytree(hub, tmp_path / "hub", symlinks=True)
    shutil.rmtree(tmp_path / "hub" / "hub" / "models--gpt2")
    arguments = ("eval", "--suite", "gpt2-l8", "--sae", "splitting-768", "-o", tmp_path / "results")
    run = mdlbench(tmp_path / "hub", *arguments)
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "Run `mdlbench fetch" in line]
    assert "gpt2 is not in the cache" in line
    assert "Traceback" not in run.stderr


def test_fetch_checks_what_is_here(hub, tmp_path):
    home = shutil.copytree(hub, tmp_path / "hub", symlinks=True)
    model = next((home / "hub" / "models--gpt2").glob("snapshots/*/model.safetensors")).resolve()
    model.write_bytes(model.read_bytes()[:-1])
    run = mdlbench(home, "fetch", "gpt2-l8", XDG_CACHE_HOME=str(tmp_path))
    assert run.returncode == 1
    (line,) = [line for line in run.stderr.splitlines() if "damaged" in line]
    assert line.startswith("mdlbench: model gpt2: model.safetensors is damaged (its SHA-256 is")
    got = [line.partition(":")[0] for line in run.stdout.splitlines()]
    assert got == ["text pile-10k", *(entry.key for entry in SAES)]
