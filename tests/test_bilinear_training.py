"""Bilinear classifiers: what training gives, resuming to the bit, and what is refused."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from mdlbench.bilinear.network import NETWORK_FILE, load_network
from mdlbench.cli.app import app
from mdlbench.errors import CheckpointError, SuiteError, TrainingError, UsageError
from mdlbench.suite.load import load_suite, suites_folder
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task, image_task
from mdlbench.training.bilinear.trainer import (
    ClassifierEpoch,
    measure_classifier,
    read_classifier_log,
    train_bilinear,
)
from mdlbench.training.bilinear.zoo import RECIPE_FILE, chosen_networks, load_bilinear_recipe
from tests.crashes import killed_before
from tests.tiny import write_tiny_suite

CONFIG = BilinearConfig(
    hidden=8,
    epochs=6,
    batch_size=64,
    lr=0.02,
    weight_decay=0.1,
    noise=0.05,
    storage="float32",
)


def products(n, seed=0):
    """Points of a square, classed by the sign of x·y: linear maps cannot, bilinear ones can."""
    x = torch.rand(n + 200, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    x = torch.cat([x, torch.ones(n + 200, 1)], dim=1)
    y = (x[:, 0] * x[:, 1] > 0).long()
    return Task(x[:n], y[:n], x[n:], y[n:], 2)


@pytest.fixture(scope="module")
def task():
    return products(512)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    return train_bilinear(CONFIG, task, tmp_path_factory.mktemp("whole") / "run", progress=False)


def rows(folder):
    return [row[:-1] for row in read_classifier_log(folder / "log.csv")]


def test_a_product_is_learned_and_said(whole, task):
    network = load_network(whole / NETWORK_FILE)
    right = (network(task.test_x).argmax(dim=1) == task.test_y).double().mean()
    written = json.loads((whole / "training.json").read_text())
    assert float(right) > 0.9
    assert written["result"]["test_accuracy"] == float(right)
    assert written["result"]["epochs"] == len(rows(whole)) == CONFIG.epochs
    assert written["settings"]["kind"] == "bilinear"
    assert sorted(path.name for path in whole.iterdir()) == [
        "bilinear.safetensors",
        "log.csv",
        "training.json",
    ]
    log_p = torch.log_softmax(network(task.test_x).double(), dim=1)
    expected = -log_p.gather(1, task.test_y[:, None]).mean()
    assert measure_classifier(network, task).loss == pytest.approx(expected.item(), rel=1e-6)


def test_the_rate_falls_along_half_a_cosine(whole):
    rates = [row.lr for row in read_classifier_log(whole / "log.csv")]
    expected = [0.01 * (1 + math.cos(math.pi * epoch / 6)) for epoch in range(6)]
    assert rates == pytest.approx(expected)


def test_one_step_is_adamw_written_out(task, tmp_path):
    """One batch of all inputs, no noise: the first step of Adam is lr·sign, after the decay."""
    config = replace(CONFIG, epochs=1, batch_size=512, noise=0.0, lr=0.01, weight_decay=3.0)
    still = replace(config, lr=1e-30)
    before, after = (
        load_file(train_bilinear(c, task, tmp_path / str(c.lr), progress=False) / NETWORK_FILE)
        for c in (still, config)
    )
    for name, weights in before.items():
        moved = (after[name] - weights * (1 - 0.01 * 3.0)).abs()
        assert torch.allclose(moved, torch.full_like(moved, 0.01), rtol=0.05, atol=0.0)


def test_a_killed_run_goes_on_to_the_same_weights(whole, task, tmp_path):
    config, folder = replace(CONFIG, epochs=2), tmp_path / "killed"
    one = train_bilinear(config, task, tmp_path / "one", progress=False)

    def work():
        train_bilinear(config, task, folder, progress=False, checkpoint_every=1)

    for n in range(2, 500, 5):
        if not killed_before(n, work):
            break
        work()
        assert rows(folder) == rows(one)
        assert (folder / NETWORK_FILE).read_bytes() == (one / NETWORK_FILE).read_bytes()
        assert {path.name for path in folder.iterdir()} == {path.name for path in one.iterdir()}
        shutil.rmtree(folder)
    assert n > 30


def test_a_finished_run_is_left_alone(whole, task):
    before = (whole / "training.json").stat().st_mtime_ns
    assert train_bilinear(CONFIG, task, whole, progress=False) == whole
    assert (whole / "training.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_decay": 0.2}, "holds a run with weight_decay = 0.1, not 0.2"),
        ({"layers": 2}, "holds a run with layers = 1, not 2"),
    ],
)
def test_other_settings_are_refused(change, message, whole, task):
    with pytest.raises(UsageError, match=message):
        train_bilinear(replace(CONFIG, **change), task, whole, progress=False)


def test_other_data_and_other_runs_are_refused(whole, tmp_path):
    with pytest.raises(UsageError, match="holds a run with task_sha256"):
        train_bilinear(CONFIG, products(512, seed=1), whole, progress=False)
    (tmp_path / "training.json").write_text('{"settings": {"width": 3}}')
    with pytest.raises(UsageError, match="holds a run with kind = None, not 'bilinear'"):
        train_bilinear(CONFIG, products(512), tmp_path, progress=False)
    with pytest.raises(UsageError, match="batch_size 64 exceeds the 20 training inputs"):
        train_bilinear(CONFIG, products(20), tmp_path / "small", progress=False)


def test_a_run_that_diverges_says_so(task, tmp_path):
    with pytest.raises(TrainingError, match=r"lower lr \(now 1e\+12\)"):
        train_bilinear(replace(CONFIG, lr=1e12), task, tmp_path / "run", progress=False)


def test_a_broken_checkpoint_says_so(task, tmp_path):
    folder = tmp_path / "run"

    class StoppedError(Exception):
        pass

    def stop(self):
        raise StoppedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mdlbench.training.bilinear.trainer._Run.save", stop)
        with pytest.raises(StoppedError):
            train_bilinear(CONFIG, task, folder, progress=False, checkpoint_every=2)
    checkpoint = folder / "checkpoint-000004"
    assert [path.name for path in folder.glob("checkpoint-*")] == [checkpoint.name]
    (checkpoint / "state.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="checkpoint-000004: not a readable checkpoint"):
        train_bilinear(CONFIG, task, folder, progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden must be positive, not 0"),
        ({"noise": -0.1}, "noise must not be negative, not -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must not be negative, not nan"),
        ({"lr": math.inf}, "lr must be finite, not inf"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UsageError) as error:
        BilinearConfig(**{"hidden": 4, **settings})
    assert str(error.value) == message


def test_the_shipped_recipe_is_the_zoo():
    recipe = load_bilinear_recipe(suites_folder() / "mnist" / RECIPE_FILE)
    assert len(recipe) == 36
    assert recipe["h100-wd0.5-n0.3-s2"] == BilinearConfig(100, seed=2)
    suite = load_suite("mnist")
    assert list(chosen_networks(suite, ["h300-wd0-n0-s1"])) == ["h300-wd0-n0-s1"]
    with pytest.raises(UsageError, match=r"has no network 'h100-wd0\.5-n0\.3-s9'\. Did"):
        chosen_networks(suite, ["h100-wd0.5-n0.3-s9"])
    with pytest.raises(UsageError, match="has no recipe of bilinear networks"):
        chosen_networks(load_suite("toy"), [])


def test_what_is_no_recipe_is_refused(tmp_path):
    file = tmp_path / RECIPE_FILE
    file.write_text("shared: {hidden: 2}\ngrid: {hidden: [3]}\n")
    with pytest.raises(SuiteError) as error:
        load_bilinear_recipe(file)
    assert str(error.value) == (
        f"{file}: not a recipe of bilinear networks: hidden is shared, and in the grid"
    )
    for grid, message in (
        ("{hiden: [3]}", "unknown setting 'hiden'. Did you mean 'hidden'?"),
        ("{hidden: [3.5]}", "hidden: 3.5: Input should be a valid integer"),
        ("{layers: [1]}", "it has no hidden"),
    ):
        file.write_text(f"shared: {{}}\ngrid: {grid}\n")
        with pytest.raises(UsageError, match=f"^{re.escape(f'{file}: {message}')}"):
            load_bilinear_recipe(file)


def test_the_command_trains_one_and_a_recipe(tmp_path):
    suite = write_tiny_suite(tmp_path / "tiny")
    (suite / RECIPE_FILE).write_text(
        "shared: {epochs: 1, batch_size: 100}\ngrid: {hidden: [4], seed: [0, 1]}\n"
    )

    def run(*words):
        return CliRunner().invoke(app, ["train", "--suite", str(suite), *map(str, words)])

    done = run("--bilinear", "--width", 4, "--epochs", 2, "--batch-size", 100, "--noise", 0.1,
               "--layers", 2, "-o", tmp_path / "own")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert len(load_network(tmp_path / "own" / NETWORK_FILE).layers) == 2
    done = run("--bilinear", "-o", tmp_path / "zoo")
    assert done.exit_code == 0, done.output
    keys = ["h4-wd0.5-n0.3-s0", "h4-wd0.5-n0.3-s1"]
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir()) == keys
    assert image_task(load_suite(suite)).image_shape == (8, 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bilinear", "--width", "4"], "--width needs -o FOLDER"),
        (["--bilinear", "--width", "4", "--k", "2"], "--k does not apply to --bilinear"),
        (["--bilinear", "--noise", "0.1"], "--noise only applies with --width"),
        (["--noise", "0.1"], "--noise only applies with --bilinear"),
        (["--bilinear", "--workers", "2"], "one network at a time, in this process"),
        (["--bilinear", "--suite", "toy"], "has no recipe of bilinear networks"),
        (
            ["--bilinear", "--suite", "toy", "--width", "4", "-o", "x"],
            "suite 'toy' has no labelled images",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", *words])
    assert message in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_the_log_has_a_row_an_epoch(whole):
    header = (whole / "log.csv").read_text().splitlines()[0]
    assert header.split(",") == list(ClassifierEpoch._fields)
