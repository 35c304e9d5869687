import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    register_sae_training_class,
)
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from safetensors.torch import load_file

from mdlbench.errors import CheckpointError, OutputError, SuiteError, TrainingError, UsageError
from mdlbench.files import write_atomically
from mdlbench.sources import Block, Split
from mdlbench.sources.images import Classifier, load_images
from mdlbench.suite import Site, load_suite
from mdlbench.training.classifier import accuracy
from mdlbench.training.config import TrainingConfig, build_sae
from mdlbench.training.folder import read_log
from mdlbench.training.trainer import initialise_from_data, train
from mdlbench.training.zoo import load_recipe, train_zoo

CONFIG = TrainingConfig(
    width=16,
    k=3,
    epochs=8,
    batch_size=64,
    lr=2e-3,
    warm_up_steps=5,
    decay=0.5,
    patience=None,
    storage="float32",
)
STEPS_PER_EPOCH = 8


class SparseSource:
    """Tokens that are nonnegative sums of three of 16 random directions."""

    site = Site(hook="synthetic")
    hook = site.hook
    d_in = d_out = 12
    data_sha256 = "0" * 64
    image_shape = None
    device = torch.device("cpu")

    def __init__(self, n_calibration: int = 512, n_test: int = 200) -> None:
        generator = torch.Generator().manual_seed(7)
        n_tokens = n_calibration + n_test
        directions = torch.randn(16, self.d_in, generator=generator)
        latents = torch.rand(n_tokens, 16, generator=generator)
        latents *= torch.rand(n_tokens, 16, generator=generator) < 3 / 16
        tokens = latents @ directions
        self.tokens: dict[Split, torch.Tensor] = {
            "calibration": tokens[:n_calibration],
            "test": tokens[n_calibration:],
        }
        self.n_tokens: dict[Split, int] = {"calibration": n_calibration, "test": n_test}
        self.n_documents = self.n_tokens

    def blocks(self, split: Split) -> Iterator[Block]:
        start = 0
        for index, tokens in enumerate(self.tokens[split].split(150)):
            document = np.arange(start, start + len(tokens))
            yield Block(index=index, document=document, activations=tokens)
            start += len(tokens)


class KilledSource(SparseSource):
    """Ends its process, as `kill -9` would, when the given epoch is measured."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epochs_left = epoch

    def blocks(self, split: Split) -> Iterator[Block]:
        if split == "test":
            if self.epochs_left == 0:
                signal.raise_signal(signal.SIGKILL)
            self.epochs_left -= 1
        return super().blocks(split)


@dataclass
class DivergingConfig(BatchTopKTrainingSAEConfig):
    first_bad_step: int = 0

    @classmethod
    def architecture(cls) -> str:
        return "diverging"


class DivergingSAE(BatchTopKTrainingSAE):
    def training_forward_pass(self, step_input):
        output = super().training_forward_pass(step_input)
        if step_input.n_training_steps >= self.cfg.first_bad_step:
            output.loss = output.loss * float("nan")
        return output


@pytest.fixture
def diverging():
    register_sae_training_class("diverging", DivergingSAE, DivergingConfig)
    yield
    del SAE_TRAINING_CLASS_REGISTRY["diverging"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return train(CONFIG, SparseSource(), tmp_path_factory.mktemp("trained") / "run")


def result(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text())["result"]


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def without_seconds(folder: Path) -> list[tuple]:
    return [epoch[:-1] for epoch in read_log(folder / "log.csv")]


def reference_numbers(sae: SAE, x: torch.Tensor) -> tuple[float, float, float]:
    """MSE per dimension, L0 and dead fraction of a JumpReLU SAE, in float64."""
    w = {name: tensor.double() for name, tensor in sae.state_dict().items()}
    x = x.double()
    pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    latents = pre.relu() * (pre > w["threshold"])
    error = latents @ w["W_dec"] + w["b_dec"] - x
    active = latents > 0
    return (
        error.square().mean().item(),
        active.sum(dim=1).double().mean().item(),
        (~active.any(dim=0)).double().mean().item(),
    )


def test_saved_sae_gives_the_numbers_of_its_log(trained):
    sae = SAE.load_from_disk(trained)
    mse, l0, dead = reference_numbers(sae, SparseSource().tokens["test"])
    best = min(read_log(trained / "log.csv"), key=lambda epoch: epoch.test_mse)
    assert sae.cfg.architecture() == "jumprelu"
    assert sae.cfg.metadata.hook_name == "synthetic"
    assert mse == pytest.approx(best.test_mse, rel=1e-5)
    assert l0 == pytest.approx(best.l0, abs=0.011)
    assert dead == best.dead_fraction
    assert result(trained)["test_mse"] == best.test_mse


def test_training_learns(trained):
    log = read_log(trained / "log.csv")
    variance = SparseSource().tokens["test"].var(dim=0, correction=0).mean().item()
    assert [epoch.epoch for epoch in log] == list(range(CONFIG.epochs))
    assert log[-1].test_mse < 0.5 * variance
    assert log[-1].l0 == pytest.approx(CONFIG.k, rel=0.4)
    assert log[1].lr == CONFIG.lr
    assert log[-1].lr < CONFIG.lr / 2


def test_sparsity_is_the_log_firing_rate(trained):
    sparsity = load_file(trained / "sparsity.safetensors")["sparsity"]
    assert (10 ** sparsity.double()).sum().item() == pytest.approx(result(trained)["l0"], rel=1e-4)


def test_half_precision_keeps_mse_and_l0(trained, tmp_path):
    half = train(replace(CONFIG, storage="float16"), SparseSource(), tmp_path / "half")
    mse, l0, _ = reference_numbers(SAE.load_from_disk(half), SparseSource().tokens["test"])
    assert len(weights(half)) < 0.6 * len(weights(trained))
    assert result(half)["test_mse_before_rounding"] == result(trained)["test_mse"]
    assert mse == pytest.approx(result(half)["test_mse"], rel=1e-5)
    assert mse == pytest.approx(result(trained)["test_mse"], rel=2e-3)
    assert l0 == pytest.approx(result(trained)["l0"], rel=5e-3)


def test_same_seed_same_weights_another_seed_others(trained, tmp_path):
    state = torch.get_rng_state()
    again = train(CONFIG, SparseSource(), tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    other = train(replace(CONFIG, seed=1), SparseSource(), tmp_path / "other")
    assert weights(again) == weights(trained)
    assert without_seconds(again) == without_seconds(trained)
    assert weights(other) != weights(trained)


def test_killed_run_continues_to_the_same_rows_and_weights(trained, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path;"
        "from test_training import CONFIG, KilledSource, train;"
        "train(CONFIG, KilledSource(epoch=4), Path(sys.argv[2]), checkpoint_every=3)"
    )
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-000003"]
    assert len(read_log(folder / "log.csv")) == 4
    train(CONFIG, SparseSource(), folder)
    assert without_seconds(folder) == without_seconds(trained)
    assert weights(folder) == weights(trained)
    assert sorted(path.name for path in folder.iterdir()) == [
        "cfg.json",
        "log.csv",
        "sae_weights.safetensors",
        "sparsity.safetensors",
        "training.json",
    ]


@pytest.mark.parametrize(
    ("architecture", "k", "options"),
    [
        ("topk", 3.0, {}),
        ("matryoshka_batchtopk", 3, {"matryoshka_widths": [4, 8, 16]}),
        ("standard", None, {"l1_coefficient": 0.05}),
        ("gated", None, {"l1_coefficient": 0.05}),
        ("jumprelu", None, {"l0_coefficient": 0.05}),
    ],
)
def test_every_architecture_of_saelens_trains(architecture, k, options, tmp_path):
    config = replace(CONFIG, architecture=architecture, k=k, options=options, epochs=3)
    source = SparseSource()
    folder = train(config, source, tmp_path / "run")
    sae = SAE.load_from_disk(folder)
    tokens = source.tokens["test"]
    latents = sae.encode(tokens)
    assert (sae.decode(latents) - tokens).square().mean().item() == pytest.approx(
        result(folder)["test_mse"], rel=1e-5
    )
    assert (latents != 0).sum(dim=1).double().mean().item() == result(folder)["l0"]
    if architecture == "topk":
        assert result(folder)["l0"] <= 3


def test_finished_run_is_left_alone(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir()}
    assert train(CONFIG, SparseSource(), trained) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir()} == before


def test_other_settings_are_refused(trained):
    with pytest.raises(UsageError, match=r"lr = 0\.002, not 0\.1"):
        train(replace(CONFIG, lr=0.1), SparseSource(), trained)


def test_a_run_older_than_a_setting_had_its_default(trained, tmp_path):
    older = shutil.copytree(trained, tmp_path / "run")
    content = json.loads((older / "training.json").read_text())
    assert content["settings"].pop("held") == "float32"
    (older / "training.json").write_text(json.dumps(content))
    before = weights(older)
    train(CONFIG, SparseSource(), older)
    assert weights(older) == before
    with pytest.raises(UsageError, match="held = 'float32', not 'float16'"):
        train(replace(CONFIG, held="float16"), SparseSource(), older)


def test_other_data_is_refused(trained):
    source = SparseSource()
    source.tokens["calibration"] = source.tokens["calibration"] + 1e-6
    with pytest.raises(UsageError, match="activations_sha256"):
        train(CONFIG, source, trained)


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not a training run"):
        train(CONFIG, SparseSource(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", ["thesis.tex", "thesis.tex/run"])
def test_file_in_place_of_the_folder_is_kept(tmp_path, place):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex.*: (not a folder|cannot be written)"):
        train(CONFIG, SparseSource(), tmp_path / place)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_diverging_run_keeps_the_last_good_checkpoint(diverging, tmp_path):
    config = replace(
        CONFIG, architecture="diverging", options={"first_bad_step": 5 * STEPS_PER_EPOCH + 3}
    )
    folder = tmp_path / "run"
    with pytest.raises(TrainingError, match=r"nan in epoch 5; lower lr \(now 0\.002\)"):
        train(config, SparseSource(), folder, checkpoint_every=2)
    checkpoints = list(folder.glob("checkpoint-*"))
    assert [path.name for path in checkpoints] == ["checkpoint-000004"]
    assert len(read_log(checkpoints[0] / "log.csv")) == 4
    assert len(read_log(folder / "log.csv")) == 5
    assert not (folder / "sae_weights.safetensors").exists()


def test_unreadable_checkpoint_is_named(diverging, tmp_path):
    config = replace(CONFIG, architecture="diverging", options={"first_bad_step": 30})
    with pytest.raises(TrainingError):
        train(config, SparseSource(), tmp_path, checkpoint_every=2)
    state = next(tmp_path.glob("checkpoint-*")) / "trainer" / "trainer_state.pt"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="checkpoint-000002"):
        train(config, SparseSource(), tmp_path)


def test_early_stopping_keeps_the_best_epoch(tmp_path):
    source = SparseSource(n_calibration=32)
    config = replace(CONFIG, width=64, batch_size=16, epochs=300, patience=3, lr=0.02)
    folder = train(config, source, tmp_path / "run")
    log = read_log(folder / "log.csv")
    best = min(range(len(log)), key=lambda row: log[row].test_mse)
    assert len(log) == best + 1 + 3 < config.epochs
    assert result(folder)["best_epoch"] == best
    mse, _, _ = reference_numbers(SAE.load_from_disk(folder), source.tokens["test"])
    assert mse == pytest.approx(log[best].test_mse, rel=1e-5)
    assert log[-1].test_mse > log[best].test_mse


def test_latents_start_at_tokens():
    source = SparseSource()
    tokens = source.tokens["calibration"]
    sae = build_sae(replace(CONFIG, width=700), source)
    initialise_from_data(sae, tokens)
    rows = torch.nn.functional.normalize(tokens - tokens.mean(dim=0), dim=1)
    assert torch.equal(sae.b_dec, tokens.mean(dim=0))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.W_dec[:512].sum(dim=1).sort().values, rows.sum(dim=1).sort().values)
    assert torch.equal(sae.W_dec[512:], sae.W_dec[:188])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width must be positive, not 0"),
        ({"lr": float("nan")}, "lr must be positive, not nan"),
        ({"k": 17}, "k must lie between 0 and the width 16, not 17"),
        ({"decay": 1.0}, "decay is a fraction of the steps, not 1.0"),
        ({"architecture": "batchtopp"}, "Did you mean 'batchtopk'"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"aux_los_coefficient": 1.0}}, "Did you mean 'aux_loss_coefficient'"),
        ({"architecture": "standard"}, "'standard' has no setting 'k'"),
        ({"batch_size": 513}, "batch_size 513 exceeds the 512 tokens"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(replace(CONFIG, **change), SparseSource(), tmp_path / "run")


def test_half_written_file_never_shows(tmp_path, monkeypatch):
    path = tmp_path / "log.csv"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == [("log.csv", "old")]


def test_shipped_saes_follow_their_recipe():
    suite = load_suite("mnist")
    recipe = load_recipe(suite.path("zoo.yaml"))
    shipped = [entry.key for entry in suite.saes if entry.key.startswith("batchtopk-")]
    assert shipped
    for key in shipped:
        settings = json.loads(suite.path(f"saes/{key}/training.json").read_text())["settings"]
        del settings["activations_sha256"]
        assert TrainingConfig(**settings) == recipe[key]
        assert key == f"batchtopk-{settings['width']}-k{settings['k']}"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("saes: {a: {width: 4}}", SuiteError, "not a training recipe: 'shared'"),
        ("shared: {}\nsaes: {a: {wdth: 4}}", SuiteError, "argument"),
        ("shared: {k: 9}\nsaes: {a: {width: 4}}", UsageError, "k must lie between 0 and"),
        ("shared: {", SuiteError, "recipe.yaml: not a training recipe"),
    ],
)
def test_bad_recipe_is_named(text, error, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        load_recipe(path)


def test_unknown_key_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'batchtopk-64-k15'"):
        train_zoo("mnist", ["batchtopk-64-k51"])


def test_shipped_classifier_is_accurate():
    suite = load_suite("mnist")
    images, labels = load_images(suite.path("data/images.npy.xz"), suite.path("data/labels.npy.xz"))
    model = Classifier.load(suite.path("classifier.safetensors"))
    pixels = torch.from_numpy(images[60_000:]).float() / 255
    assert accuracy(model, pixels, torch.from_numpy(labels[60_000:]).long()) >= 0.98
