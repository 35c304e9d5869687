"""Studies: plans, runs that are resumed, and what a report concludes."""

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE
from scipy.stats import studentized_range
from typer.testing import CliRunner

from mdlbench.cli.app import app
from mdlbench.errors import (
    CheckpointError,
    MdlbenchError,
    RecordError,
    SourceError,
    SuiteError,
    TrainingError,
    UsageError,
)
from mdlbench.records.store import RecordStore, file_name, read_records
from mdlbench.report.tables import ABSENT
from mdlbench.scoring.suite_run import Scored
from mdlbench.scoring.worker import Worker
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import Block
from mdlbench.studies import figures
from mdlbench.studies import run as study_run
from mdlbench.studies.held_out import HeldOut
from mdlbench.studies.inference import (
    Estimate,
    Shares,
    alone,
    beyond,
    crossed_draws,
    degrees_of_freedom,
    estimate,
    standing,
    variance_shares,
)
from mdlbench.studies.plan import parse_study
from mdlbench.studies.report import (
    Compared,
    Findings,
    _at_the_edge,
    comparison_table,
    drawings,
    findings,
    latex_table,
    text,
    verdict,
    write_report,
)
from mdlbench.studies.results import Configuration, Done, Family, Level, equal_grid, level
from mdlbench.studies.run import DIVERGED, RUNS, STUDY_FILE, Diverged, Trained, claim, run_study
from mdlbench.suite.load import load_suite
from mdlbench.suite.site import Site
from mdlbench.training.config import TrainingConfig
from mdlbench.training.settings import merged

SUITE = {
    "name": "small",
    "title": "Small",
    "source": {
        "kind": "superposed",
        "d": 8,
        "features": 12,
        "tokens": {"calibration": 3000, "test": 1024},
        "rates": {"most": 0.3, "least": 0.05},
        "read_out": 6,
    },
    "steps": {"finest": 0.5, "octaves": 3},
    "tolerances": [{"metric": "fvu", "epsilons": [0.0001, 0.9]}],
    "headline": {"metric": "fvu", "epsilon": 0.9},
    "replicates": 100,
}
PLAN = {
    "name": "tiny-study",
    "suite": "suite.yaml",
    "shared": {"epochs": 2, "batch_size": 256, "lr": 0.01, "warm_up_steps": 2, "dead_window": 5},
    "widths": [12],
    "seeds": [4, 2],
    "validation": 0.3,
    "architectures": {
        "batchtopk": {"sparsities": {"k2": {"k": 2}, "k3": {"k": 3}}},
        "plain-topk": {"architecture": "topk", "sparsities": {"k2": {"k": 2}, "k3": {"k": 3}}},
    },
}


def plan(**changes):
    return parse_study(yaml.safe_dump(PLAN | changes, sort_keys=False), Path("study.yaml"))


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_is_a_grid_seed_by_seed():
    runs = plan().runs()
    assert [run.key for run in runs] == [
        f"{name}-12-{label}-seed{seed}"
        for seed in (4, 2)
        for name in ("batchtopk", "plain-topk")
        for label in ("k2", "k3")
    ]
    config = runs[3].config()
    assert (config.architecture, config.width, config.k, config.seed) == ("topk", 12, 3, 4)
    assert (config.epochs, config.batch_size) == (2, 256)


def test_settings_that_are_nearer_to_a_run_win():
    found = plan(
        widths=[8, 16],
        shared={"lr": 0.1, "epochs": 5, "options": {"a": 1, "b": 1}},
        architectures={
            "batchtopk": {
                "settings": {"lr": 0.2, "options": {"b": 2}},
                "at_width": {"16": {"lr": 0.3, "options": {"c": 3}}},
                "sparsities": {"k2": {"k": 2}},
            }
        },
    ).runs()
    narrow, wide = found[0].settings, found[1].settings
    assert narrow == {
        "lr": 0.2,
        "epochs": 5,
        "options": {"a": 1, "b": 2},
        "architecture": "batchtopk",
        "k": 2,
    }
    assert wide["lr"] == 0.3
    assert wide["options"] == {"a": 1, "b": 2, "c": 3}
    assert merged({"k": 1}, {"k": 2}) == {"k": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 2, 1]}, r"study\.yaml, line \d+: .*repeated seed 1"),
        ({"widths": []}, "widths: .*at least 1"),
        (
            {"shared": {"options": None}},
            r"line 3: shared: options are a mapping of names to values, not None$",
        ),
        ({"shared": {"width": 3}}, "shared: width is no setting of a study's runs: it has widths"),
        ({"seedz": [1]}, "seedz: .*not permitted"),
        ({"validation": 1.0}, "validation: .*less than 1"),
        ({"architectures": {"topk": {"sparsities": {}}}}, "sparsities: .*at least 1"),
        (
            {"architectures": {"topk": {"sparsities": {"k2": {"k": 2}}, "seeds": []}}},
            "seeds: .*at least 1",
        ),
        (
            {"architectures": {"topk": {"sparsities": {"k2": {"k": 2}}, "seeds": [3, 3]}}},
            "repeated seed 3",
        ),
    ],
)
def test_a_study_that_does_not_fit_is_one_sentence(changes, message):
    with pytest.raises(SuiteError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"sparsities": {"k2": {"k": 2}}}, "batchtop-12-k2-seed4: unknown architecture 'batchtop'"),
        ({"architecture": "topk", "sparsities": {"k2": {"k": 99}}}, "k must lie between 0 and"),
        (
            {"architecture": "topk", "sparsities": {"k2": {"kk": 2}}},
            "^batchtop-12-k2-seed4: unknown setting 'kk'. Did you mean 'k'",
        ),
        (
            {"architecture": "topk", "sparsities": {"k2": {"k": 2, "epochs": "5"}}},
            "^batchtop-12-k2-seed4: epochs: '5': Input should be a valid integer$",
        ),
    ],
)
def test_impossible_settings_name_their_run(architecture, message):
    run = plan(architectures={"batchtop": architecture}).runs()[0]
    with pytest.raises(UsageError, match=message):
        run.config()


def test_two_runs_of_one_name_are_refused():
    study = plan(
        architectures={
            "topk": {"sparsities": {"12-x": {"k": 2}}},
            "topk-12": {"architecture": "topk", "sparsities": {"x": {"k": 3}}},
        }
    )
    with pytest.raises(UsageError) as error:
        study.runs()
    assert str(error.value) == (
        "2 runs are called topk-12-12-x-seed4: rename an architecture or a sparsity"
    )


def test_a_width_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match="topk: at_width has '13', but its widths are 12"):
        plan(architectures={"topk": {"sparsities": {"a": {"k": 2}}, "at_width": {"13": {}}}}).runs()


# --- validation -----------------------------------------------------------------------------------


class Untested:
    """A source whose test split may not be looked at."""

    site, hook, d_in, d_out = Site(hook="x"), "x", 2, 2
    data_sha256, image_shape, device = "0" * 64, None, torch.device("cpu")

    def __init__(self, sizes):
        self.sizes = sizes
        self.n_tokens = self.n_documents = {"calibration": sum(sizes), "test": 5}

    def n_blocks(self, split):
        return len(self.sizes)

    def blocks(self, split, start=0, stop=None):
        assert split == "calibration"
        for index in range(len(self.sizes))[start:stop]:
            first = sum(self.sizes[:index])
            document = np.arange(first, first + self.sizes[index])
            yield Block(index, document, torch.full((self.sizes[index], 2), float(index)))


@given(n_blocks=st.integers(2, 12), share=st.floats(0.01, 0.99))
@settings(max_examples=25, deadline=None)
def test_held_out_blocks_are_the_last_ones_and_the_test_split_is_not_touched(n_blocks, share):
    sizes = [3 + i for i in range(n_blocks)]
    held = HeldOut(Untested(sizes), share)
    splits = {split: list(held.blocks(split)) for split in ("calibration", "test")}
    indices = [block.index for blocks in splits.values() for block in blocks]
    assert indices == list(range(n_blocks))
    expected = min(max(1, round(share * n_blocks)), n_blocks - 1)
    assert len(splits["test"]) == held.n_blocks("test") == expected
    for split, blocks in splits.items():
        tokens = sum(len(block.document) for block in blocks)
        assert tokens == held.n_tokens[split] == held.n_documents[split]
        assert [block.index for block in held.blocks(split, 1, 3)] == [b.index for b in blocks[1:3]]


def test_what_a_held_out_split_has_not():
    with pytest.raises(UsageError, match="there is 1 here: take a suite with more training data"):
        HeldOut(Untested([7]), 0.1)
    with pytest.raises(UsageError, match="calibration tokens, and there is none here: take a"):
        HeldOut(Untested([]), 0.1)
    held = HeldOut(Untested([3, 3]), 0.5)
    with pytest.raises(SourceError, match="no model to splice into"):
        held.splice(next(held.blocks("test")), None)


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    (folder / "suite.yaml").write_text(yaml.safe_dump(SUITE))
    (folder / "study.yaml").write_text(yaml.safe_dump(PLAN, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def whole(home):
    """A study that was run without an interruption."""
    found = CliRunner().invoke(
        app, ["study", "run", str(home / "study.yaml"), "-o", str(home / "whole"), "-q"]
    )
    assert found.exit_code == 0, found.output
    assert "whole/ holds 8 of 8 runs" in found.output.replace("\n", "")
    return home / "whole"


def numbers(folder):
    """All that a record measures, by run, and the logs but for seconds."""
    records = {
        record.name: (record.floor, record.points, record.tolerances)
        for record in read_records(folder)
    }
    logs = {
        path.parent.name: [line.rpartition(",")[0] for line in path.read_text().splitlines()]
        for path in (folder / RUNS).glob("*/log.csv")
    }
    return records, logs


def test_a_study_that_is_killed_ends_with_the_same_numbers(home, whole):
    folder = home / "killed"
    study, content = study_run.read_study(home / "study.yaml")
    opener = Opener(load_suite(home))
    claim(folder, study, content)
    first = run_study(study, opener, folder)
    seen = [next(first) for _ in range(6)]
    first.close()
    assert [type(one) for one in seen] == [Trained] * 4 + [Scored] * 2
    begun = folder / RUNS / study.runs()[5].key
    begun.mkdir()
    done = json.loads((whole / RUNS / begun.name / "training.json").read_text())
    (begun / "training.json").write_text(json.dumps({"settings": done["settings"]}))
    again = list(run_study(study, opener, folder))
    assert [one.reused for one in again if isinstance(one, Scored)] == [True] * 2 + [False] * 6
    assert sum(isinstance(one, Trained) for one in again) == 2 + 4
    assert numbers(folder) == numbers(whole)
    write_report(folder, home / "one")
    write_report(whole, home / "other")
    names = sorted(path.name for path in (home / "one").iterdir())
    assert names == sorted(path.name for path in (home / "other").iterdir())
    assert {
        "report.md",
        "table.csv",
        "comparison.csv",
        "comparison.tex",
        "hulls-fvu.png",
        "bits-fvu.pdf",
        "variance.png",
    } <= set(names)
    for name in names:
        assert (home / "one" / name).read_bytes() == (home / "other" / name).read_bytes()


def test_the_kept_epoch_is_the_best_on_tokens_that_were_held_out(whole, home):
    opened = Opener(load_suite(home)).open(Site(hook="superposed"))
    held = HeldOut(opened, 0.3)
    key = plan().runs()[0].key
    kept = json.loads((whole / RUNS / key / "training.json").read_text())["result"]
    sae = SAE.load_from_disk(whole / RUNS / key)
    (block,) = held.blocks("test")
    with torch.no_grad():
        error = (sae(block.activations) - block.activations).double().square().mean()
    assert float(error) == pytest.approx(kept["test_mse"], rel=1e-5)


def test_a_folder_of_another_study_is_refused(whole):
    text = (whole / STUDY_FILE).read_text()
    others = ({"validation": 0.2}, {"widths": [8]}, {"shared": {"epochs": 3}}, {"suite": "toy"})
    for changes in others:
        with pytest.raises(UsageError, match="holds another study, or this one with other"):
            claim(whole, plan(**changes), "name: other\n")
    assert (whole / STUDY_FILE).read_text() == text


def test_a_study_grows_and_keeps_what_is_finished_without_its_weights(home, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "grown")
    for weights in (folder / RUNS).glob("*/sae_weights.safetensors"):
        weights.unlink()
    before = {path.name: path.read_bytes() for path in (folder / "records").iterdir()}
    more = plan(seeds=[4, 2, 7])
    claim(folder, more, yaml.safe_dump(PLAN | {"seeds": [4, 2, 7]}, sort_keys=False))
    outcomes = list(run_study(more, Opener(load_suite(home)), folder))
    trained = {outcome.key for outcome in outcomes if isinstance(outcome, Trained)}
    assert trained == {run.key for run in more.runs() if run.seed == 7}
    assert len(outcomes) == 2 * len(trained)
    after = {path.name: path.read_bytes() for path in (folder / "records").iterdir()}
    assert after.items() > before.items()
    assert findings(folder).grid.seeds == [4, 2, 7]


def test_a_diverged_run_is_said_and_excluded(whole, home, monkeypatch, tmp_path):
    def fail(config, source, folder, progress, snapshots):
        raise TrainingError(f"{folder}: the loss became nan in epoch 1; lower lr")

    monkeypatch.setattr(study_run, "train", fail)
    key = plan().runs()[0].key
    task = study_run.TrainRun(Site(hook="x"), key, TrainingConfig(4, 2), tmp_path / RUNS / key, 0.3)

    class Held(Worker):
        def source(self, site):
            return Untested([3, 3])

    outcome = task(Held(Opener(load_suite(home))))
    assert outcome == Diverged(key, "the loss became nan in epoch 1")
    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    (record,) = list((folder / "records").glob(f"{key}*.json"))
    record.unlink()
    (folder / RUNS / key / DIVERGED).write_text((tmp_path / RUNS / key / DIVERGED).read_text())
    found = findings(folder)
    said = text(found, comparison_table(found))
    assert "7 of 8 runs on suite suite.yaml are scored" in said
    assert f"**{key} diverged and is excluded: the loss became nan in epoch 1.**" in said
    assert "width 12 and sparsity 1 are left out of the comparison (batchtopk has one run)" in said


def test_a_damaged_note_of_a_run_that_diverged_is_named(tmp_path):
    file = tmp_path / RUNS / "a" / DIVERGED
    file.parent.mkdir(parents=True)
    for content, message in ((b"{", "not JSON"), (b"{}", "gives no reason; delete it, and the r")):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"^{file}: {message}"):
            study_run.diverged(tmp_path, "a")
    (tmp_path / STUDY_FILE).write_bytes(b"\xff")
    with pytest.raises(SuiteError, match=r"study\.yaml: cannot be read"):
        claim(tmp_path, plan(name="other", widths=[8]), "name: other\n")


def test_a_report_is_of_records_of_one_suite_as_they_were_written(whole, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    path = next((folder / "records").glob("*.json"))
    written = path.read_text()
    path.write_text(written.replace('"threads": ', '"threads": 1'))
    assert len(findings(folder).done) == 7
    path.write_text(written)
    record = read_records(folder)[-1]
    identity = record.identity.model_copy(update={"suite_digest": "0" * 64})
    (folder / "records" / file_name(record.identity)).unlink()
    RecordStore(folder).save(record.model_copy(update={"identity": identity, "id": identity.id}))
    with pytest.raises(RecordError, match="cannot be compared: their suite_digest differs"):
        findings(folder)


def test_architectures_without_a_grid_in_common_are_not_compared(whole):
    study = plan(
        architectures={
            "a": {"architecture": "topk", "sparsities": {"k2": {"k": 2}}},
            "b": {"architecture": "topk", "sparsities": {"k2": {"k": 2}}, "widths": [16]},
        }
    )
    done = tuple(Done(run, read_records(whole)[0]) for run in study.runs())
    grid = equal_grid(done)
    nothing = level(grid.done, "fvu", 0.9)
    compared = (Compared(nothing, standing(nothing, 0)),)
    found = Findings(study, len(done), done, {}, {}, grid, compared)
    assert list(verdict(compared[0])) == [
        "Nothing is compared: no width, sparsity and seed is common to all architectures."
    ]
    said = text(found, comparison_table(found))
    assert "a has width 12, and not every architecture has: left out of the comparison" in said
    assert "tabular" in latex_table(found, comparison_table(found))
    assert set(drawings(found)) == {"bits-fvu", "hulls-fvu"}


def test_a_report_before_any_record(tmp_path):
    (tmp_path / STUDY_FILE).write_text(yaml.safe_dump(PLAN))
    with pytest.raises(MdlbenchError, match="no run is scored yet"):
        findings(tmp_path)


def test_the_report_of_a_study(whole):
    found = findings(whole)
    tight, coarse = found.compared
    assert list(verdict(tight)) == ["No configuration meets FVU ≤ 0.0001 with every seed."]
    first, *_rest = coarse.standing.order
    bits = {
        name: min(
            np.mean(
                [
                    one.record.result("fvu", 0.9).bits
                    for one in found.done
                    if (one.run.architecture, one.run.label) == (name, label)
                ]
            )
            for label in ("k2", "k3")
        )
        for name in ("batchtopk", "plain-topk")
    }
    assert {name: one.value for name, one in coarse.standing.shortest.items()} == pytest.approx(
        bits
    )
    assert first == min(bits, key=bits.__getitem__)
    assert f"Shortest is {first}: {bits[first]:.2f} [" in " ".join(verdict(coarse))
    assert not found.grid.warnings
    assert sum(found.shares["FVU ≤ 0.9"][:4]) == pytest.approx(1.0)


# --- grids and inference --------------------------------------------------------------------------


def test_grids_that_differ_are_cut_to_what_all_have(whole):
    runs = plan(
        widths=[8, 12],
        architectures={
            "a": {"architecture": "topk", "sparsities": {"k2": {"k": 2}, "k3": {"k": 3}}},
            "b": {"architecture": "topk", "sparsities": {"k4": {"k": 4}}, "widths": [12, 16]},
        },
    ).runs()
    record = read_records(whole)[0]
    grid = equal_grid([Done(run, record) for run in runs])
    assert {(one.run.architecture, one.run.width, one.run.level) for one in grid.done} == {
        ("a", 12, 0),
        ("b", 12, 0),
    }
    said = " ".join(grid.warnings)
    assert "a has width 8, and not every architecture has: left out" in said
    assert "b has width 16, and not every architecture has: left out" in said
    assert "a has sparsity 2, and not every architecture has: left out" in said
    assert equal_grid(list(grid.done)).warnings == ()


def test_what_one_architecture_has_not_run_is_compared_nowhere(whole):
    """As where a run diverged with every seed, or is not there yet."""
    sparsities = {"k2": {"k": 2}, "k3": {"k": 3}}
    runs = plan(
        widths=[8, 12],
        architectures={
            name: {"architecture": "topk", "sparsities": sparsities} for name in ("a", "b", "c")
        },
    ).runs()
    record = read_records(whole)[0]
    gone = {("a", 12, 1), ("b", 12, 1)}
    done = [Done(run, record) for run in runs]
    done = [d for d in done if (d.run.architecture, d.run.width, d.run.level) not in gone]
    grid = equal_grid(done)
    assert grid.warnings == (
        "width 12 and sparsity 2 are left out of the comparison (a has no run, b has no run)",
    )
    cells = {
        name: {(d.run.width, d.run.level) for d in grid.done if d.run.architecture == name}
        for name in "abc"
    }
    assert cells == {name: {(8, 0), (8, 1), (12, 0)} for name in "abc"}


def family(name, bits, resampled):
    configurations = tuple(Configuration(8, i, f"k{i}") for i in range(len(bits)))
    return Family(name, configurations, np.array(bits), np.array(resampled), ())


@given(seed=st.integers(0, 2**31), n_seeds=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_crossed_draws_against_an_independent_computation(seed, n_seeds):
    generator = np.random.default_rng(seed)
    resampled = 10 + generator.standard_normal((3, n_seeds, 40))
    found = crossed_draws(
        family("a", resampled.mean(axis=2), resampled), np.random.Generator(np.random.PCG64(seed))
    )
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(n_seeds, size=(40, n_seeds))
    stretch = (n_seeds / (n_seeds - 1)) ** 0.5 if n_seeds > 1 else 1.0
    for b in range(40):
        best = np.inf
        for c in range(3):
            centre = sum(resampled[c, s, b] for s in range(n_seeds)) / n_seeds
            values = [centre + stretch * (resampled[c, s, b] - centre) for s in drawn[b]]
            best = min(best, sum(values) / n_seeds)
        assert found[b] == pytest.approx(best)


def test_the_crossed_bootstrap_has_the_variance_of_a_mean_over_seeds_and_documents():
    generator = np.random.default_rng(3)
    documents = 0.5 * generator.standard_normal(20_000)
    seeds = np.array([-1.0, 0.2, 0.8])
    resampled = (5 + seeds[:, None] + documents)[None]
    drawn = crossed_draws(family("a", [5 + seeds], resampled), generator)
    assert drawn.var() == pytest.approx(seeds.var(ddof=1) / 3 + documents.var(), rel=0.05)


@given(seed=st.integers(0, 2**31), n_seeds=st.integers(2, 5), n_compared=st.integers(2, 8))
@settings(max_examples=10, deadline=None)
def test_an_interval_is_games_and_howells(seed, n_seeds, n_compared):
    generator = np.random.default_rng(seed)
    draws = generator.standard_normal((2, 300))
    one, other = (
        Estimate(bits, own, float(share * own.var(ddof=1)), n_seeds)
        for bits, own, share in zip((7.0, 5.0), draws, generator.random(2), strict=True)
    )
    found = beyond(other, one, n_compared)
    both = draws[0] - draws[1]
    variance = ((both - both.mean()) ** 2).sum() / 299
    noise = (one.seed_variance**2 + other.seed_variance**2) / (n_seeds - 1)
    half = (found.high - found.low) / 2
    assert (found.low + found.high) / 2 == pytest.approx(found.value) == pytest.approx(2.0)
    reached = studentized_range.cdf(
        np.sqrt(2 / variance) * half, n_compared, min(variance**2 / noise, 1e5)
    )
    assert 0.95 - 1e-6 < reached < 0.957


def test_degrees_of_freedom_are_at_least_those_of_the_seeds():
    small = Estimate(5.0, np.zeros(3), 2.0, 3)
    assert degrees_of_freedom(0.01, [small, small._replace(n_seeds=4)]) == 2.0
    assert degrees_of_freedom(8.0, [small]) == 8.0**2 / (2.0**2 / 2)
    assert degrees_of_freedom(8.0, [small._replace(n_seeds=1)]) == np.inf


def test_what_seeds_add_has_the_choice_of_the_configuration_in_it():
    """Two configurations, either of which is the best with other seeds."""
    generator = np.random.default_rng(0)
    bits = np.array([[4.0, 6.0, 5.0], [6.1, 4.1, 5.1]])
    resampled = bits[..., None] + 0.1 * generator.standard_normal(2000)
    found = estimate(family("a", bits, resampled), generator)
    assert (found.bits, found.n_seeds) == (5.0, 3)
    assert found.seed_variance == pytest.approx(max(1 / 3, found.draws.var(ddof=1) - 0.01), rel=0.1)
    fixed = estimate(family("a", bits[:1], resampled[:1]), generator)
    assert fixed.seed_variance == pytest.approx(1 / 3, rel=0.1)
    assert estimate(family("a", bits[:1, :1], resampled[:1, :1]), generator).seed_variance == 0


def test_an_interval_over_documents_alone_is_normal():
    draws = np.random.default_rng(0).standard_normal(500)
    found = alone(Estimate(3.0, draws, 0.0, 1))
    assert found.high - 3.0 == pytest.approx(1.95996 * draws.std(ddof=1), rel=1e-4)


def test_intervals_of_few_seeds_hold_together():
    """All pairs of four equal architectures, three seeds each, documents that add nothing."""
    generator = np.random.default_rng(5)
    whole = single = 0
    for _ in range(100):
        estimates = [
            estimate(family("a", [own], np.repeat(own[None, :, None], 100, axis=2)), generator)
            for own in generator.standard_normal((4, 3))
        ]
        pairs = [beyond(*pair, 4) for pair in combinations(estimates, 2)]
        whole += all(one.sign == 0 for one in pairs)
        single += sum(alone(one).sign == 0 for one in estimates)
    assert whole / 100 > 0.85
    assert 0.9 < single / 400 < 0.99


def test_a_verdict_names_who_is_longer_and_who_cannot_be_told_apart():
    generator = np.random.default_rng(0)
    noise = 0.1 * generator.standard_normal(500)
    families = [
        family(name, [[bits, bits]], [[bits + noise, bits + noise * 1.5]])
        for name, bits in (("far", 9.0), ("near", 5.02), ("first", 5.0))
    ]
    missing = Family(
        "never", (), np.zeros((0, 2)), np.zeros((0, 2, 0)), (Configuration(8, 0, "k"),)
    )
    level = Level("fvu", 0.1, (*families, missing))
    said = list(verdict(Compared(level, standing(level, 0))))
    assert said[0].startswith("Shortest is first: 5.00 [")
    assert said[1].startswith("It is shorter beyond chance than far by 4.00 [")
    assert said[2].startswith("It cannot be told apart from near (0.02 [")
    assert said[3] == "No configuration meets it with every seed: never."
    alone_in_it = Level("fvu", 0.1, (families[0], missing))
    said = list(verdict(Compared(alone_in_it, standing(alone_in_it, 0))))
    assert said[0].startswith("Only far meets it: 9.00 [")
    assert said[1:] == ["No configuration meets it with every seed: never."]
    for columns in (1, 2):
        only = Level("fvu", 0.1, (family("far", [[9.0] * columns], [[9.0 + noise] * columns]),))
        (sentence,) = verdict(Compared(only, standing(only, 0)))
        assert sentence.startswith("far takes 9.00 [")


def test_one_seed_claims_nothing_of_architectures(whole, tmp_path):
    """The plan has two seeds, and one of them is scored."""
    folder = shutil.copytree(whole, tmp_path / "one")
    for file in (folder / "records").glob("*seed2*"):
        file.unlink()
    found = findings(folder)
    assert len(found.study.seeds) == 2
    said = text(found, comparison_table(found))
    assert "4 of 8 runs on suite" in said
    assert "2 architectures, width 12, training seed 4. " in said
    assert "There is one training seed only, so that architectures are not compared." in said
    assert "One training seed cannot say which architecture is the shortest." in said
    assert not set(comparison_table(found).columns) & {"more", "more low", "more high"}
    assert [one.standing.more for one in found.compared] == [{}, {}]
    for words in ("hortest is", "shorter beyond chance", "told apart", "crossed", "simultaneous"):
        assert words not in said + latex_table(found, comparison_table(found))


def test_a_seed_that_is_not_finished_is_left_out(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "begun")
    (lost,) = (folder / "records").glob("plain-topk-12-k3-seed2*")
    lost.unlink()
    found = findings(folder)
    assert found.unfinished == {2: (3, 4)}
    assert found.grid.seeds == [4]
    assert len(found.grid.done) == 4
    said = text(found, comparison_table(found))
    assert (
        "- **Training seed 2 is not finished (3 of 4 runs): left out of the comparison.**" in said
    )
    assert "7 of 8 runs" in said


def test_a_study_of_which_nothing_is_within_epsilon(whole):
    found = findings(whole)
    tight = replace(found, compared=found.compared[:1])
    table = comparison_table(tight)
    assert list(table["configurations"]) == [0, 0]
    assert "No configuration meets FVU ≤ 0.0001 with every seed." in text(tight, table)
    assert latex_table(tight, table).count("--") >= 4


def test_the_best_configuration_at_the_edge_of_the_grid_is_said():
    noise = np.zeros(3)
    corner, middle, beyond_reach = (
        Configuration(64, 0, "k9"),
        Configuration(128, 1, "k13"),
        Configuration(256, 2, "k19"),
    )
    families = tuple(
        Family(name, (best,), np.array([[5.0, 5.0]]), np.array([[noise, noise]]), (beyond_reach,))
        for name, best in (("a", corner), ("b", middle))
    )
    assert list(_at_the_edge(Level("fvu", 0.1, families))) == [
        "The best configuration is at the edge of the grid, so that others may be shorter: "
        "a (narrowest, sparsest)."
    ]
    only = Family("c", (middle,), np.array([[5.0]]), np.zeros((1, 1, 3)), ())
    assert list(_at_the_edge(Level("fvu", 0.1, (only,)))) == []


def test_a_seed_counts_only_where_widths_are_shared(whole):
    record = read_records(whole)[0]
    runs = plan(
        widths=[8, 12],
        seeds=[1, 2],
        architectures={
            name: {"architecture": "topk", "sparsities": {"k2": {"k": 2}}} for name in ("a", "b")
        },
    ).runs()
    gone = {("b", 8, 1), ("b", 8, 2), ("a", 12, 2)}
    done = [
        Done(run, record) for run in runs if (run.architecture, run.width, run.seed) not in gone
    ]
    grid = equal_grid(done)
    assert {(d.run.architecture, d.run.width, d.run.seed) for d in grid.done} == {
        ("a", 12, 1),
        ("b", 12, 1),
    }


def test_a_configuration_of_one_seed_is_not_compared_where_others_have_two(whole):
    """As where it diverged with one of two seeds."""
    study, record = plan(), read_records(whole)[0]
    lost = study.runs()[-1]
    done = [Done(run, record) for run in study.runs() if run != lost]
    grid = equal_grid(done)
    assert grid.warnings == (
        f"width {lost.width} and sparsity {lost.level + 1} are left out of the comparison "
        f"({lost.architecture} has one run)",
    )
    assert {one.run.level for one in grid.done} == {0, 1} - {lost.level}
    three = [Done(run, record) for run in plan(seeds=[1, 2, 3]).runs()]
    assert equal_grid(three[:-1]).warnings == (
        "plain-topk, 12 latents, k3: 2 of 3 seeds; its mean is over those",
    )


@given(seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_shares_of_variance_against_nested_means(seed):
    generator = np.random.default_rng(seed)
    bits = 2.0 ** generator.standard_normal((2, 4, 3))
    configurations = tuple(Configuration(w, k, f"k{k}") for w in (8, 16) for k in (0, 1))
    families = [
        Family(name, configurations, own, np.zeros((4, 3, 1)), ())
        for name, own in zip("ab", bits, strict=True)
    ]
    found = variance_shares(families)
    logs = np.log2(bits).reshape(2, 2, 2, 3)
    total = ((logs - logs.mean()) ** 2).sum()

    def between(axes):
        means = logs.mean(axis=axes, keepdims=True)
        return float(((np.broadcast_to(means, logs.shape) - logs.mean()) ** 2).sum()) / total

    expected = [between((1, 2, 3)), between((2, 3)), between((3,)), 1.0]
    assert np.cumsum(found[:4]) == pytest.approx(expected)
    assert found.n_runs == 24
    assert variance_shares([]) is None
    alone = [replace(one, bits=one.bits[:, :1], resampled=one.resampled[:, :1]) for one in families]
    single = variance_shares(alone)
    assert np.isnan(single.seed)
    assert sum(single[:3]) == pytest.approx(1.0)
    assert min(single[:3]) >= 0


def test_a_report_says_what_one_seed_cannot_and_which_epoch_was_kept(whole):
    two = findings(whole)
    assert (
        "2 architectures, width 12, training seeds 4, 2. The epoch of each was chosen on the last "
        "30% of the calibration blocks, which it was not trained on; the test split"
    ) in text(two, comparison_table(two))
    keep = {"keep": "last", "patience": None}
    kinds = PLAN["architectures"]
    some = plan(architectures=kinds | {"batchtopk": kinds["batchtopk"] | {"settings": keep}})
    said = text(replace(two, study=some), comparison_table(two))
    assert "was not trained on; batchtopk kept the last one; the test" in said
    assert "their share is not known" not in said
    one = plan(architectures={"plain-topk": kinds["plain-topk"]}, seeds=[4], shared=keep)
    done = tuple(d for d in two.done if d.run.key in {run.key for run in one.runs()})
    grid = equal_grid(done)
    coarse = level(grid.done, "fvu", 0.9)
    found = Findings(one, 2, done, {}, {}, grid, (Compared(coarse, standing(coarse, 0)),))
    said = text(found, comparison_table(found))
    assert (
        "1 architecture, width 12, training seed 4. The last epoch of each was kept; the test"
    ) in said
    assert "Where no configuration has two training seeds, their share is not known." in said
    assert f"| FVU ≤ 0.9 | 0 | 0 | 1 | {ABSENT} | 2 |" in said
    assert set(drawings(found)) == {"bits-fvu", "hulls-fvu", "variance"}


def test_latex_escapes_names(whole):
    found = findings(whole)
    table = comparison_table(found)
    latex = latex_table(found, table.replace("plain-topk", "plain_topk"))
    assert latex.startswith("% study tiny-study\n% Each architecture has its best configuration")
    assert r"plain\_topk" in latex
    assert latex.count(r"\\") == 1 + len(table)
    assert latex.endswith("\\bottomrule\n\\end{tabular}\n")


def test_hulls_of_architectures_are_named_where_they_end(whole):
    drawn = figures.hulls(findings(whole).done, "fvu")
    (ax,) = drawn.axes
    names = {text.get_text() for text in ax.texts if not text.get_text().startswith("ε")}
    assert names == {"batchtopk", "plain-topk"}
    assert drawn.get_suptitle().startswith("FVU: hulls")
    right, foot = ax.get_xlim()[1], ax.get_ylim()[0]
    for line in (line for line in ax.lines if len(line.get_xdata()) > 10):
        assert line.get_xdata()[-1] <= right * (1 + 1e-9)
        assert line.get_ydata()[-1] >= foot


def test_the_figure_of_variance_has_a_legend_of_what_is_drawn():
    one = Shares(0.5, 0.3, 0.2, float("nan"), 8)
    (legend,) = figures.shares({"FVU ≤ 0.1": one}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["architecture", "width", "sparsity"]


def test_bits_of_architectures_stand_in_one_order_in_all_panels():
    generator = np.random.default_rng(0)
    noise = 0.1 * generator.standard_normal(500)

    def at(epsilon, **bits):
        families = tuple(
            family(name, [[b, b]], [[b + noise, b + noise]])
            if b
            else Family(name, (), np.zeros((0, 2)), np.zeros((0, 2, 0)), ())
            for name, b in bits.items()
        )
        one = Level("fvu", epsilon, families)
        return one, standing(one, 0)

    drawn = figures.intervals([at(0.1, a=0, b=7.0, c=6.5), at(0.2, a=3.0, b=5.0, c=4.0)])
    assert [ax.get_title(loc="left") for ax in drawn.axes] == ["FVU ≤ 0.1", "FVU ≤ 0.2"]
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["a", "c", "b"]
    said = [
        {text.get_text(): text.xy[1] for text in ax.texts if hasattr(text, "xy")}
        for ax in drawn.axes
    ]
    assert said == [{"6.5": 1, "7.0": 2}, {"3.0": 0, "4.0": 1, "5.0": 2}]
    assert [text.get_text() for text in drawn.axes[0].texts if not hasattr(text, "xy")] == [
        "none within ε"
    ]
