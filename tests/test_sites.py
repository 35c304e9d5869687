"""Where SAEs are scored: what decides a site, and several of them in one folder of results."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from mdlbench.adapters.agreement import doubts
from mdlbench.adapters.formats.saelens.config import parse_config
from mdlbench.adapters.load import CoderAt, NamedCoder
from mdlbench.adapters.protocol import Origin
from mdlbench.boards.leaderboard import build_all
from mdlbench.cli.app import app
from mdlbench.disk.cache import kept
from mdlbench.errors import CheckpointError, SpoolError, UsageError
from mdlbench.records.store import read_records, read_references
from mdlbench.report import write_report
from mdlbench.scoring.bench import Bench
from mdlbench.scoring.rounds import Rounds
from mdlbench.scoring.single import evaluate
from mdlbench.scoring.suite_run import Failed, Scored, run
from mdlbench.scoring.targets import Target, targets
from mdlbench.sources.kinds.images import PIXELS
from mdlbench.sources.language import opener as opening
from mdlbench.sources.language.hooks import Hook
from mdlbench.sources.language.source import Language
from mdlbench.sources.open import Opener, Setting
from mdlbench.suite.site import UNSAID, Place, Site
from tests.tiny import tiny_suite
from tests.tiny_language import causal_lm, counted, decoder, language_suite, write_saelens

PRE, POST, MLP = (f"blocks.1.hook_{kind}" for kind in ("resid_pre", "resid_post", "mlp_out"))
OWN, SILENT = Setting(text="own"), Origin()

# --- what decides a site ------------------------------------------------------------------------


def site(folder, origin=SILENT, entry=UNSAID, **source):
    return Opener(language_suite(folder, source), OWN).site_of(origin, entry, "sae")


def test_images_have_one_site(tmp_path):
    opener = Opener(tiny_suite(tmp_path))
    assert opener.site_of(Origin(hook="blocks.1.hook_z")) == Site(hook=PIXELS)


def test_a_config_that_says_all_is_enough(tmp_path):
    origin = Origin(
        model="tiny",
        hook="blocks.2.hook_z",
        context=16,
        prepend_bos=False,
        model_options={"center_writing_weights": True},
    )
    assert site(tmp_path, origin, place={}) == Site(
        hook="blocks.2.attn.hook_z",
        model="tiny",
        model_options={"center_writing_weights": True},
        text="own",
        context=16,
        prepend_bos=False,
        first_position=1,
    )


def test_the_suite_comes_first_then_its_entry_then_the_config(tmp_path):
    origin = Origin(hook=PRE, context=16, prepend_bos=False, model_options={"fold_ln": True})
    entry = Place(context=32, model_options={"center_unembed": True})
    found = site(tmp_path, origin, entry, place={"context": 64})
    assert (found.context, found.prepend_bos) == (64, False)
    assert found.model_options == {"center_unembed": True}
    found = site(tmp_path, origin, entry, place={})
    assert (found.context, found.prepend_bos) == (32, False)
    found = site(tmp_path, origin, place={"model_options": {}})
    assert found.model_options == {}
    assert site(tmp_path, origin, place={}).model_options == {"fold_ln": True}


def test_the_setting_and_the_suite_decide_the_rest(tmp_path):
    suite = language_suite(tmp_path, {"first_position": 3})
    opener = Opener(suite, Setting(text="lm:docs", dtype="bfloat16"))
    found = opener.site_of(Origin(hook=PRE))
    assert (found.first_position, found.text, found.dtype) == (3, "docs", "bfloat16")


def test_a_transcoder_has_two_hooks_and_an_sae_one(tmp_path):
    assert site(tmp_path, Origin(hook=PRE, hook_out=MLP)).hook_out == MLP
    assert site(tmp_path, Origin(hook=PRE, hook_out=PRE)).hook_out is None


def test_options_that_are_off_make_no_other_site(tmp_path):
    off = {"fold_ln": False, "center_unembed": 0, "fold_value_biases": None}
    plain, spelt = Origin(hook=PRE), Origin(hook=PRE, model_options=off)
    assert site(tmp_path, spelt) == site(tmp_path, plain)
    assert site(tmp_path, spelt).model_options == {}
    on, one = ({"fold_ln": value, "n": 2} for value in (True, 1))
    found = [site(tmp_path, Origin(hook=PRE, model_options=options)) for options in (on, one)]
    assert [repr(each.model_options) for each in found] == 2 * ["{'fold_ln': True, 'n': 2}"]


def test_options_that_are_off_make_no_other_data(loaded, tmp_path):
    opener = Opener(language_suite(tmp_path), OWN)
    one, other = (
        opener.open(opener.site_of(Origin(hook=PRE, model_options=options)))
        for options in ({}, {"fold_ln": False})
    )
    assert one.data_sha256 == other.data_sha256
    assert loaded == [{}]


def transcoder(**metadata):
    content = {"architecture": "transcoder", "d_in": 16, "d_sae": 32, "d_out": 16}
    return parse_config(content | {"metadata": {"hook_name": PRE, **metadata}}, "sae").origin


def test_a_transcoder_that_does_not_say_its_output_is_no_sae(tmp_path):
    with pytest.raises(UsageError, match=r"says its hook_out; write `place: \{hook_out: …\}`"):
        site(tmp_path, transcoder())
    assert site(tmp_path, transcoder(), Place(hook_out=MLP)).hook_out == MLP
    assert site(tmp_path, transcoder(hook_name_out=MLP)).hook_out == MLP


@pytest.mark.parametrize(
    ("origin", "entry", "source", "error", "message"),
    [
        (Origin(hook=PRE), Place(), {"place": {"hook": POST}}, CheckpointError,
         f"sae: its hook is '{PRE}', but the suite's is '{POST}'"),
        (Origin(hook=PRE), Place(hook=POST), {}, CheckpointError, "its hook is"),
        (Origin(hook=PRE, hook_out=MLP), Place(hook_out=POST), {}, CheckpointError,
         f"its hook_out is '{MLP}'"),
        (Origin(hook=PRE, model="gpt2"), Place(), {}, CheckpointError,
         "was trained on model 'gpt2', but the suite's is 'tiny'"),
        (Origin(), Place(), {}, UsageError, r"says its hook; write `place: \{hook: …\}`"),
        (Origin(hook=PRE), Place(), {"place": {"context": 8}}, UsageError, "says its prepend_bos"),
        (Origin(hook=PRE, prepend_bos=True), Place(), {"place": {}}, UsageError, "its context"),
        (Origin(hook="blocks.1.hook_q"), Place(), {}, UsageError,
         "^sae: hook .* is not supported: .*not scored"),
    ],
)  # fmt: skip
def test_what_cannot_be_settled_is_named(tmp_path, origin, entry, source, error, message):
    with pytest.raises(error, match=message):
        site(tmp_path, origin, entry, **source)


def test_names_of_one_model_are_one(tmp_path):
    suite = language_suite(tmp_path, {"model": {"kind": "hub", "name": "gpt2"}})
    opener = Opener(suite, OWN)
    for name in ("gpt2", "gpt2-small", "openai-community/gpt2"):
        assert opener.site_of(Origin(model=name, hook=PRE)).model == "gpt2"
    with pytest.raises(CheckpointError, match="'gpt2-medium'"):
        opener.site_of(Origin(model="gpt2-medium", hook=PRE))


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("model.layers.14", "", "blocks.14.hook_resid_post"),
        ("transformer.h.11", "gpt2", "blocks.11.hook_resid_post"),
        ("gpt_neox.layers.4", "pythia-70m", "blocks.4.hook_resid_post"),
        (
            "model.language_model.layers.3.output",
            "google/gemma-3-4b-pt",
            "blocks.3.hook_resid_post",
        ),
        ("model.layers.3.input", "", "blocks.3.hook_resid_pre"),
        ("layers.7", "", "blocks.7.hook_resid_post"),
        ("model.layers.2.mlp", "", "blocks.2.hook_mlp_out"),
        ("model.layers.2.mlp.down_proj", "", "blocks.2.hook_mlp_out"),
        ("gpt_neox.layers.2.mlp.dense_4h_to_h", "", "blocks.2.hook_mlp_out"),
        ("model.layers.2.self_attn", "", "blocks.2.hook_attn_out"),
        ("transformer.h.2.attn", "", "blocks.2.hook_attn_out"),
        ("gpt_neox.layers.2.attention", "", "blocks.2.hook_attn_out"),
        ("transformer.h.2.attn.c_proj", "", "blocks.2.hook_attn_out"),
        ("model.layers.2.self_attn.o_proj.input", "google/gemma-3-1b-pt", "blocks.2.attn.hook_z"),
        ("model.layers.2.post_feedforward_layernorm.output", "gemma-2-2b", "blocks.2.hook_mlp_out"),
        ("model.layers.2.post_attention_layernorm", "OLMo-2-1B", "blocks.2.hook_attn_out"),
        ("blocks.2.hook_z", "", "blocks.2.attn.hook_z"),
        ("model.layers.2.mlp", "google/gemma-2-2b", None),
        ("model.layers.2.mlp.down_proj", "google/gemma-3-1b-pt", None),
        ("model.layers.2.post_attention_layernorm", "Qwen/Qwen3-0.6B", "blocks.2.mlp.hook_in"),
        ("model.layers.2.post_attention_layernorm", "", None),
        ("model.layers.2.pre_feedforward_layernorm.output", "gemma-3-1b", "blocks.2.mlp.hook_in"),
        ("model.layers.2.linear_attn.out_proj.input", "Qwen3.5-2B", "blocks.2.attn.hook_z"),
        ("blocks.2.mlp.hook_in", "", "blocks.2.mlp.hook_in"),
        ("blocks.2.ln2.hook_normalized", "", "blocks.2.ln2.hook_normalized"),
        ("model.layers.2.mlp.gate_proj", "", None),
        ("model.layers.2.mlp.input", "", "blocks.2.mlp.hook_in"),
        ("model.embed_tokens", "", None),
        ("model.layers.14x", "", None),
    ],
)
def test_modules_are_hook_points_where_that_is_certain(name, model, expected):
    if expected:
        assert Hook.parse(name, model).name == expected
    else:
        with pytest.raises(UsageError, match="is not supported"):
            Hook.parse(name, model)


def test_a_config_that_names_the_module_says_which_of_two_meanings():
    origin = transcoder(
        hook_name="blocks.1.hook_mlp_in",
        hf_hook_name="model.layers.1.pre_feedforward_layernorm.output",
        hook_name_out=MLP,
        model_name="google/gemma-3-1b-pt",
    )
    assert (origin.hook, origin.hook_out) == ("blocks.1.mlp.hook_in", MLP)


def test_a_name_with_two_meanings_is_refused():
    with pytest.raises(UsageError, match=r"hook_mlp_in' has two meanings: write .*mlp\.hook_in"):
        Hook.parse("blocks.2.hook_mlp_in")


def test_a_transcoder_of_folded_norms_is_refused(loaded, tmp_path):
    opener = Opener(language_suite(tmp_path), OWN)
    origin = Origin(hook="blocks.1.mlp.hook_in", hook_out=MLP, model_options={"fold_ln": True})
    with pytest.raises(UsageError, match="with this option, what the MLP is given is without"):
        opener.open(opener.site_of(origin))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("model.layers.0", PRE),
        ("blocks.0.hook_resid_post", PRE),
        ("blocks.2.hook_resid_pre", POST),
        ("transformer.h.1", POST),
        ("model.layers.1.mlp", MLP),
    ],
)
def test_an_sae_is_accepted_at_every_name_of_its_tensor(tmp_path, name, known):
    place = {"context": 16, "prepend_bos": False}
    found = site(tmp_path, Origin(hook=name), place={**place, "hook": known})
    assert found.hook == known
    assert doubts(Origin(hook=name, context=16, prepend_bos=False), found) == []
    with pytest.raises(CheckpointError, match=r"its hook is 'blocks.*but the suite's is 'blocks"):
        site(tmp_path, Origin(hook=name), place={**place, "hook": "blocks.1.hook_attn_out"})


def test_a_config_may_name_a_module(tmp_path):
    config = {"d_in": 4, "d_sae": 8, "hook_name": "model.layers.1", "context_size": 16}
    origin = parse_config({**config, "prepend_bos": False}, "cfg.json").origin
    assert site(tmp_path, origin, place={}).hook == "blocks.1.hook_resid_post"
    assert site(tmp_path, origin, place={"hook": "blocks.2.hook_resid_pre"}).hook == (
        "blocks.2.hook_resid_pre"
    )


def test_labels_tell_sites_apart():
    assert Site(hook=PIXELS).label == PIXELS
    plain = Site(hook=PRE, context=128, prepend_bos=True)
    assert plain.label == f"{PRE}, 128 tokens, BOS"
    others = [
        plain.model_copy(update={"hook_out": MLP}),
        plain.model_copy(update={"context": 64}),
        plain.model_copy(update={"prepend_bos": False}),
        plain.model_copy(update={"model_options": {"fold_ln": True}}),
    ]
    assert len({plain.label, *(other.label for other in others)}) == 5
    assert others[0].label == f"{PRE} → {MLP}, 128 tokens, BOS"


# --- several sites in one folder ----------------------------------------------------------------

SAES = [
    {"key": "pca-pre", "spec": "baseline:pca", "place": {"hook": PRE}},
    {"key": "pca-mlp", "spec": "baseline:pca", "place": {"hook": MLP}},
    {"key": "mean-pre", "spec": "baseline:mean", "place": {"hook": PRE}},
    {"key": "mean-mlp", "spec": "baseline:mean", "place": {"hook": MLP}},
]


@pytest.fixture
def loaded(monkeypatch):
    """The options of every model that is loaded; each is the tiny one."""
    calls = []

    def load(config, options, device, dtype):
        calls.append(dict(options))
        return decoder()

    monkeypatch.setattr(opening, "load_model", load)
    return calls


def scored(suite, folder, keys=(), **setting):
    opener = Opener(suite, Setting(text="own", **setting))
    return list(run(opener, targets(suite, list(keys), None), folder))


@pytest.fixture
def results(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", saes=SAES)
    folder = tmp_path / "out"
    outcomes = scored(suite, folder)
    assert [outcome.target.name for outcome in outcomes] == [
        "pca-pre", "mean-pre", "pca-mlp", "mean-mlp",
    ]  # fmt: skip
    assert all(isinstance(outcome, Scored) for outcome in outcomes)
    return SimpleNamespace(suite=suite, folder=folder, outcomes=outcomes)


def test_a_model_is_loaded_once_for_all_sites(results, loaded):
    assert loaded == [{}]


def test_another_sae_at_the_same_hook_runs_no_prefix_again(tmp_path, monkeypatch):
    """With `cache`, across runs; its record is the one that it has without, bit for bit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    calls = []
    monkeypatch.setattr(opening, "load_model", lambda *given: decoder(counted(causal_lm(), calls)))
    suite = language_suite(tmp_path / "suite", saes=SAES)
    scored(suite, tmp_path / "first", ["mean-pre"], cache=True)
    assert set(calls) == {0, 1, 2}
    calls.clear()
    (later,) = scored(suite, tmp_path / "later", ["pca-pre"], cache=True)
    assert set(calls) == {1, 2}
    (without,) = scored(suite, tmp_path / "without", ["pca-pre"])
    besides = {"environment", "provenance"}
    assert later.record.model_dump(exclude=besides) == without.record.model_dump(exclude=besides)
    one, other = (tmp_path / folder / "references.json" for folder in ("later", "without"))
    assert one.read_bytes() == other.read_bytes()


def test_eval_keeps_activations_when_asked(loaded, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    language_suite(tmp_path / "suite", saes=SAES)
    asked = ["eval", "--suite", str(tmp_path / "suite"), "--sae", "mean-pre", "--text", "own"]
    for options, kinds in ((), set()), (("--cache",), {"activations"}):
        out = ["--limit", "8", "-o", str(tmp_path / f"out{len(options)}"), "--json", "-q"]
        done = CliRunner().invoke(app, [*asked, *out, *options])
        assert done.exit_code == 0, done.output
        assert {one.kind for one in kept().held()} == kinds
        assert {one.what for one in kept().held()} <= {f"tiny at {PRE}"}
    monkeypatch.setenv("MDLBENCH_CACHE_LIMIT", "plenty")
    done = CliRunner().invoke(app, [*asked, "--cache"])
    assert str(done.exception) == (
        "MDLBENCH_CACHE_LIMIT is 'plenty', not a size such as 20GB or 500MB"
    )


def test_records_say_their_site(results):
    records = {record.name: record for record in read_records(results.folder)}
    assert records["pca-pre"].site == Site(
        hook=PRE, model="tiny", text="own", context=8, prepend_bos=True, first_position=1
    )
    assert records["pca-mlp"].site.hook == MLP
    assert records["pca-pre"].identity.data_sha256 == records["mean-pre"].identity.data_sha256
    assert records["pca-pre"].identity.data_sha256 != records["pca-mlp"].identity.data_sha256


def test_each_site_has_its_references(results):
    references = read_references(results.folder)
    assert [one.site.hook for one in references.sites] == [PRE, MLP]
    for record in read_records(results.folder):
        assert references.of_data(record.identity.data_sha256).site == record.site


def test_each_site_has_a_board_and_figures_of_its_own(results):
    records, references = read_records(results.folder), read_references(results.folder)
    boards = build_all(records, references.headline)
    labels = [f"{hook}, 8 tokens, BOS" for hook in (MLP, PRE)]
    assert [board.site for board in boards] == labels
    for board, names in zip(boards, ("pca-mlp mean-mlp", "pca-pre mean-pre"), strict=True):
        assert {row.record.name for row in board.headline.rows} == set(names.split())
        assert board.headline.rows[0].status == "baseline"
    files = [path.name for path in write_report(records, references, results.folder)]
    slugs = ["blocks-1-hook-mlp-out-8-tokens-bos", "blocks-1-hook-resid-pre-8-tokens-bos"]
    drawn = ("curves", "curves-delta_ce", "sparsity")
    figures = [f"{figure}-{slug}.png" for slug in slugs for figure in drawn]
    assert files == ["table.csv", "table.md", *figures]
    rows = list(csv.DictReader(io.StringIO((results.folder / "table.csv").read_text())))
    assert {row["site"] for row in rows} == set(labels)
    assert {row["hook"] for row in rows if row["site"] == labels[0]} == {MLP}
    assert {row["text"] for row in rows} == {"own"}
    text = (results.folder / "table.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## blocks.1.hook_mlp_out, 8 tokens, BOS",
        "## blocks.1.hook_resid_pre, 8 tokens, BOS",
    ]
    assert "SAEs are ranked within a site" in text


def test_one_site_needs_no_name(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", saes=SAES)
    scored(suite, tmp_path / "out", ["pca-pre"])
    records, references = (read(tmp_path / "out") for read in (read_records, read_references))
    files = [path.name for path in write_report(records, references, tmp_path / "out")]
    assert "curves.png" in files
    assert build_all(records, references.headline)[0].site is None


def test_what_is_finished_costs_no_pass(results, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a pass over the activations, though every record is there")

    monkeypatch.setattr(Language, "_run_prefix", refuse)
    monkeypatch.setattr(Rounds, "reference", refuse)
    monkeypatch.setattr(CoderAt, "coder", property(refuse))
    before = {p: p.stat().st_mtime_ns for p in results.folder.rglob("*") if p.is_file()}
    again = scored(results.suite, results.folder)
    assert [outcome.reused for outcome in again] == [True] * 4
    assert {p: p.stat().st_mtime_ns for p in results.folder.rglob("*") if p.is_file()} == before


def test_a_full_disk_at_one_site_stops_no_other(loaded, monkeypatch, tmp_path):
    references = Bench.references

    def full(bench):
        if bench.source.site.hook == PRE:
            raise SpoolError("no room for activations (set TMPDIR)")
        return references(bench)

    monkeypatch.setattr(Bench, "references", full)
    suite = language_suite(tmp_path / "suite", saes=SAES)
    outcomes = scored(suite, tmp_path / "out", ["pca-pre", "pca-mlp"])
    by_name = {outcome.target.label: outcome for outcome in outcomes}
    assert by_name["pca-pre"].message == "pca-pre: no room for activations (set TMPDIR)"
    assert by_name["pca-mlp"].record.site.hook == MLP


def test_a_site_may_join_later(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", saes=SAES)
    scored(suite, tmp_path / "out", ["pca-pre"])
    first = (tmp_path / "out" / "references.json").read_text()
    scored(suite, tmp_path / "out", ["pca-mlp"])
    both = json.loads((tmp_path / "out" / "references.json").read_text())
    assert both["sites"][0] == json.loads(first)["sites"][0]
    assert [one["site"]["hook"] for one in both["sites"]] == [PRE, MLP]


def test_other_data_at_the_same_site_is_refused(results, tmp_path):
    text = tmp_path / "other.txt"
    text.write_text("completely different " * 400)
    before = (results.folder / "references.json").read_bytes()
    opener = Opener(results.suite, Setting(text=str(text)))
    with pytest.raises(UsageError, match=rf"holds results at {PRE}, 8 tokens, BOS on other data"):
        list(run(opener, targets(results.suite, [], None), results.folder))
    assert (results.folder / "references.json").read_bytes() == before
    assert len(read_records(results.folder)) == 4


def test_a_limited_run_needs_another_folder(results):
    with pytest.raises(UsageError, match=r"limited to 3 documents; choose another folder"):
        scored(results.suite, results.folder, limit=3)


@pytest.mark.parametrize("part", ["open", "references"])
def test_a_site_that_takes_too_much_memory_stops_no_other_sae(part, loaded, tmp_path, monkeypatch):
    def attempted(*args, **kwargs):
        site = args[1] if part == "open" else args[0].source.site
        if site.hook == POST:
            raise RuntimeError("CUDA error: out of memory")
        return works(*args, **kwargs)

    works = getattr(Bench, part)
    monkeypatch.setattr(Bench, part, attempted)
    large = {"key": "large", "spec": "baseline:pca", "place": {"hook": POST}}
    small = {"key": "small", "spec": "baseline:mean", "place": {"hook": PRE}}
    suite = language_suite(tmp_path / "suite", saes=[large, small])
    found = {one.target.name: one for one in scored(suite, tmp_path / "out")}
    assert found["large"].message == (
        "large: memory does not suffice: CUDA error: out of memory; free some, or ask for less "
        "at once"
    )
    assert found["small"].record.name == "small"


def test_a_hook_that_the_model_lacks_stops_no_other_sae(loaded, tmp_path):
    wrong = {"key": "deep", "spec": "baseline:pca", "place": {"hook": "blocks.9.hook_resid_pre"}}
    silent = {"key": "silent", "spec": "baseline:pca"}
    suite = language_suite(tmp_path / "suite", saes=[wrong, silent, SAES[2]])
    silent_, deep, mean = scored(suite, tmp_path / "out")
    assert isinstance(deep, Failed)
    assert deep.message == (
        "deep: tiny has no hook 'blocks.9.hook_resid_pre': its layers are 0 to 2"
    )
    assert "silent: neither its config nor the suite says its hook" in silent_.message
    assert mean.record.name == "mean-pre"


def test_activations_that_are_not_finite_stop_no_other_site(loaded, monkeypatch, tmp_path):
    finite = Language._require_finite

    def poisoned(self, values, what, split, index):
        bad = self.hook == MLP and split == "calibration"
        finite(self, values * (np.nan if bad else 1), what, split, index)

    monkeypatch.setattr(Language, "_require_finite", poisoned)
    suite = language_suite(tmp_path / "suite", saes=[SAES[1], SAES[3], SAES[2]])
    pca, mean_mlp, mean_pre = scored(suite, tmp_path / "out")
    for failed in (pca, mean_mlp):
        assert f"tiny: activations at {MLP} are NaN or infinite" in failed.message
    assert mean_pre.record.name == "mean-pre"
    assert [s.site.hook for s in read_references(tmp_path / "out").sites] == [PRE]


def test_baselines_are_not_fitted_to_transcode(loaded, tmp_path):
    names = ("pca", "kmeans?k=8", "dense", "mean")
    for kind, read in (("narrow", "blocks.1.attn.hook_z"), ("wide", PRE)):
        place = {"hook": read, "hook_out": MLP}
        saes = [
            {"key": f"b{i}", "spec": f"baseline:{name}", "place": place}
            for i, name in enumerate(names)
        ]
        suite = language_suite(tmp_path / kind, saes=saes)
        outcomes = scored(suite, tmp_path / f"{kind}-out")
        assert [outcome.message for outcome in outcomes] == [
            f"b{i}: baseline:{name.partition('?')[0]}: baselines reconstruct what they read, "
            f"but here {read} is read and {MLP} is to be reconstructed"
            for i, name in enumerate(names)
        ]


def test_a_context_longer_than_the_models_is_refused(loaded, tmp_path):
    long = {"key": "long", "spec": "baseline:pca", "place": {"hook": PRE, "context": 13}}
    suite = language_suite(tmp_path / "suite", {"place": {"prepend_bos": True}}, saes=[long])
    (failed,) = scored(suite, tmp_path / "out")
    assert failed.message == (
        "long: contexts of 13 tokens are longer than the 12 that tiny reads; write "
        "`place: {context: 12}` into the suite"
    )


def test_a_text_that_is_not_there_is_said_once(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", saes=SAES)
    opener = Opener(suite, Setting(text="nothing.txt"))
    with pytest.raises(UsageError, match=r"--text nothing\.txt: no such file"):
        list(run(opener, targets(suite, [], None), tmp_path / "out"))


def test_an_sae_for_another_model_fails_alone(loaded, tmp_path):
    other = write_saelens(tmp_path / "other", model_name="gpt2", hook_name=PRE)
    suite = language_suite(tmp_path / "suite", saes=[SAES[2]])
    wanted = [Target(NamedCoder(str(other))), *targets(suite, [], None)]
    failed, mean = run(Opener(suite, OWN), wanted, tmp_path / "out")
    assert "was trained on model 'gpt2'" in failed.message
    assert mean.record.name == "mean-pre"


def test_an_sae_is_scored_where_its_config_says(loaded, tmp_path):
    sae = write_saelens(
        tmp_path / "sae", model_name="tiny", hook_name=POST, context_size=6, prepend_bos=False,
        model_from_pretrained_kwargs={"center_writing_weights": True},
    )  # fmt: skip
    suite = language_suite(tmp_path / "suite", {"place": {}})
    record = evaluate(str(sae), suite, text="own")
    assert loaded == [{"center_writing_weights": True}]
    assert record.site == Site(
        hook=POST, model="tiny", model_options={"center_writing_weights": True}, text="own",
        context=6, prepend_bos=False, first_position=1,
    )  # fmt: skip
    assert record.coder.hook == POST


# --- steps relative to the latents --------------------------------------------------------------


def test_relative_steps_are_multiples_of_the_latents_root_mean_square(loaded, tmp_path):
    sae = write_saelens(tmp_path / "sae", hook_name=PRE)
    suite = language_suite(tmp_path / "suite")
    record = evaluate(str(sae), suite, text="own")
    opener = Opener(suite, OWN)
    source = opener.open(opener.site_of(Origin(hook=PRE)))
    x = next(iter(source.blocks("calibration"))).activations.numpy().astype(np.float64)
    from safetensors.numpy import load_file

    weights = load_file(sae / "sae_weights.safetensors")
    latents = np.maximum((x - weights["b_dec"]) @ weights["W_enc"], 0)
    latents *= np.linalg.norm(weights["W_dec"], axis=1)
    rms = float(f"{np.sqrt((latents[latents > 0] ** 2).mean()):.3g}")
    steps = [point.step for point in record.points]
    assert {0.125 * rms * 2.0**j for j in range(4)} <= set(steps)
    assert min(steps) == 0.125 * rms


def test_relative_steps_do_not_see_the_latents_unit(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite")
    one, other = (
        evaluate(str(write_saelens(tmp_path / f"x{scale}", scale=scale, hook_name=PRE)), suite,
                 text="own")
        for scale in (1.0, 2.0**-7)
    )  # fmt: skip
    assert one.id != other.id
    assert [point.step for point in one.points] == [point.step for point in other.points]
    for mine, theirs in zip(one.points, other.points, strict=True):
        assert mine.bits == theirs.bits
        assert mine.fvu == pytest.approx(theirs.fvu, rel=1e-6)
        assert mine.delta_ce == pytest.approx(theirs.delta_ce, abs=1e-6)
    assert one.tolerances == other.tolerances


def test_relative_steps_follow_the_unit_where_it_is_not_normalised_away(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", quantiser="uniform")
    one, other = (
        evaluate(str(write_saelens(tmp_path / f"x{scale}", scale=scale, hook_name=PRE)), suite,
                 text="own")
        for scale in (1.0, 2.0**-7)
    )  # fmt: skip
    for mine, theirs in zip(one.points[:1], other.points[:1], strict=True):
        assert mine.step / 2**7 == pytest.approx(theirs.step, rel=0.01)
        assert mine.bits.plugin == pytest.approx(theirs.bits.plugin, rel=0.01)


def test_latents_that_never_fire_have_the_grid_as_it_is_written(loaded, tmp_path):
    suite = language_suite(tmp_path / "suite", {"place": {
        "hook": PRE, "context": 8, "prepend_bos": True}})  # fmt: skip
    record = evaluate("baseline:mean", suite, text="own")
    assert [point.step for point in record.points] == [0.125, 0.25, 0.5, 1.0]


def test_identities_hold_on_a_language_model(loaded, tmp_path):
    sae = write_saelens(tmp_path / "sae", hook_name=PRE)
    record = evaluate(str(sae), language_suite(tmp_path / "suite"), text="own")
    assert record.floor.fvu < 1e-6
    assert abs(record.floor.delta_ce) < 1e-5
    met = [result for result in record.tolerances if result.feasible]
    assert [result.metric for result in met] == ["delta_ce", "fvu"]
    for result in met:
        point = next(point for point in record.points if point.step == result.step)
        assert result.bits == point.bits.total == point.bits.heldout
        assert getattr(point, result.metric) <= result.epsilon
    (audited,) = [point for point in record.points if point.bits.coded is not None]
    assert audited.step == record.at("fvu", 0.3).step
