import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    SAETrainer,
    register_sae_training_class,
)
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from safetensors.torch import load_file
from typer.testing import CliRunner

from mdlbench.adapters.load import NamedCoder
from mdlbench.adapters.protocol import Origin
from mdlbench.cli.app import app
from mdlbench.disk.files import write_atomically
from mdlbench.errors import (
    CheckpointError,
    OutputError,
    SuiteError,
    TrainingError,
    UsageError,
    did_you_mean,
)
from mdlbench.sources.images import Classifier, load_images
from mdlbench.sources.open import Opener
from mdlbench.sources.protocol import Block, Split
from mdlbench.suite.load import load_suite, suites_folder
from mdlbench.suite.site import Site
from mdlbench.training import trainer
from mdlbench.training.config import TrainingConfig, build_sae
from mdlbench.training.folder import RunFolder, read_log
from mdlbench.training.makers.classifier import accuracy
from mdlbench.training.rows import Rows, training_rows
from mdlbench.training.settings import made
from mdlbench.training.trainer import _Run, initialise_from_data, train
from mdlbench.training.zoo import load_recipe, parse_options, train_zoo
from tests.crashes import every_crash
from tests.tiny import write_tiny_suite

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
    assert files(folder) == [
        "cfg.json",
        "log.csv",
        "sae_weights.safetensors",
        "sparsity.safetensors",
        "training.json",
    ]


def test_killed_at_any_change_of_a_file_it_goes_on_to_the_same_end(tmp_path):
    """Also at its very first write, and between the last one and the removal of checkpoints."""
    config, source = replace(CONFIG, epochs=2), SparseSource(128, 50)
    whole = train(config, source, tmp_path / "whole", checkpoint_every=1)
    folder = tmp_path / "killed"
    torch.set_num_threads(1)
    n_crashes = 0
    for _ in every_crash(lambda: train(config, source, folder, checkpoint_every=1)):
        n_crashes += 1
        train(config, source, folder, checkpoint_every=1)
        assert without_seconds(folder) == without_seconds(whole)
        assert weights(folder) == weights(whole)
        assert files(folder) == files(whole)
        shutil.rmtree(folder)
    assert n_crashes > 20


def test_what_is_not_its_own_is_left_alone(tmp_path):
    """A file that is being written, but not by a training run that was killed, claims nothing."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".training.json-x.part").write_text("{")
    with pytest.raises(UsageError, match="not empty and not a training run"):
        train(CONFIG, SparseSource(), tmp_path)
    assert files(tmp_path) == [".training.json-x.part", "notes.txt"]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


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
    assert result(folder)["kept_epoch"] == best
    mse, _, _ = reference_numbers(SAE.load_from_disk(folder), source.tokens["test"])
    assert mse == pytest.approx(log[best].test_mse, rel=1e-5)
    assert log[-1].test_mse > log[best].test_mse


def test_latents_start_at_tokens():
    source = SparseSource()
    tokens = source.tokens["calibration"]
    sae = build_sae(replace(CONFIG, width=700), source)
    initialise_from_data(sae, Rows([tokens]))
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
        ({"lr": float("inf")}, "lr must be finite, not inf"),
        ({"patience": 0}, "patience must be positive, not 0"),
        ({"warm_up_steps": -1}, "warm_up_steps must not be negative, not -1"),
        ({"architecture": "batchtopp"}, "Did you mean 'batchtopk'"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2.5}, "epochs: 2.5: Input should be a valid integer"),
        ({"epochs": None}, "epochs: None: Input should be a valid integer"),
        ({"batch_size": True}, "batch_size: True: Input should be a valid integer"),
        ({"lr": "1e-3"}, "lr: '1e-3': Input should be a valid number"),
        ({"k": "5"}, "k: '5': Input should be a valid number"),
        ({"products": "int8"}, "products: 'int8': Input should be 'float32' or 'bfloat16'"),
        ({"options": [1]}, "options: [1]: Input should be a valid dictionary"),
        ({"epoch": 3}, f"unknown setting 'epoch'. {did_you_mean('epoch', asdict(CONFIG))}"),
        ({"lr": 0.0}, "lr must be positive, not 0.0"),
    ],
)
def test_written_settings_are_of_their_kinds(change, message):
    with pytest.raises(UsageError) as error:
        made(TrainingConfig, {**asdict(CONFIG), **change}, "mine")
    assert str(error.value) == f"mine: {message}"
    assert made(TrainingConfig, asdict(CONFIG), "mine") == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"aux_los_coefficient": 1.0}}, "Did you mean 'aux_loss_coefficient'"),
        ({"architecture": "standard"}, "'standard' has no setting 'k'"),
        (
            {"options": {"normalize_activations": "layer_norm"}},
            "normalize_activations is none or expected_average_only_in in training here, not",
        ),
        (
            {
                "architecture": "matching_pursuit",
                "k": None,
                "options": {"normalize_activations": "expected_average_only_in"},
            },
            "'matching_pursuit' has no weights that expected_average_only_in can go into",
        ),
        ({"batch_size": 513}, "batch_size 513 exceeds the 512 tokens"),
        ({"width": 10**15}, "an SAE of width 1000000000000000: .*memory"),
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
        ("shared: {}\nsaes: {a: {wdth: 4}}", UsageError, "a: unknown setting 'wdth'. Did you mea"),
        ("shared: {}\nsaes: {a: {}}", UsageError, "recipe.yaml: a: it has no width$"),
        ("shared: {k: 9}\nsaes: {a: {width: 4}}", UsageError, "a: k must lie between 0 and"),
        ("shared: {options: 3}\nsaes: {a: {width: 4}}", SuiteError, "options are a mapping of"),
        ("shared: {", SuiteError, "recipe.yaml, line 1: not valid YAML"),
        ("shared: []\nsaes: {a: {width: 4}}", SuiteError, "not a training recipe"),
        ("shared: {}\nsaes: []", SuiteError, "not a training recipe"),
        (
            "shared: {}\nsaes: {a: {width: 4},\n a: {width: 8}}",
            SuiteError,
            r"line 3: 'a' is here a s",
        ),
        ("shared: {}\nsaes: {}\nsaes: {}", SuiteError, "line 3: 'saes' is here a second time"),
    ],
)
def test_bad_recipe_is_named(text, error, message, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        load_recipe(path)


def test_unknown_key_is_a_usage_error():
    with pytest.raises(UsageError, match="Did you mean 'batchtopk-64-k15'"):
        next(train_zoo(Opener(load_suite("mnist")), ["batchtopk-64-k51"]))


# --- activations of another scale -----------------------------------------------------------


class ScaledSource(SparseSource):
    """Those tokens in another unit, off centre, at a site of a language model."""

    site = Site(
        hook="blocks.3.hook_resid_pre",
        model="tiny",
        model_options={"center_writing_weights": True},
        text="own",
        context=16,
        prepend_bos=True,
        first_position=1,
    )
    hook = site.hook

    def __init__(self) -> None:
        super().__init__()
        for split in self.tokens:
            self.tokens[split] = (37.0 * self.tokens[split] + 5.0).half().float()


RECIPE = load_recipe(suites_folder() / "smollm2-l15" / "zoo.yaml")
ONE_OF_EACH = {config.architecture: config for config in RECIPE.values()}
SCALED = sorted(set(ONE_OF_EACH) - {"matching_pursuit"})
"""Those that see activations at a norm of sqrt(d)."""


def small(config: TrainingConfig) -> TrainingConfig:
    """A recipe's settings at a size that trains in a second."""
    options = {**config.options}
    if "matryoshka_widths" in options:
        options["matryoshka_widths"] = [4, 8, 16]
    for name in options:
        if name.endswith("warm_up_steps"):
            options[name] = 5
    return replace(
        CONFIG,
        architecture=config.architecture,
        k=config.k and 3,
        epochs=3,
        held=config.held,
        options=options,
    )


def test_the_recipe_has_the_architectures_that_the_field_uses():
    assert set(ONE_OF_EACH) == {
        "batchtopk", "topk", "jumprelu", "standard", "gated", "matryoshka_batchtopk", "mdl",
        "matching_pursuit",
    }  # fmt: skip
    for architecture in SCALED:
        options = ONE_OF_EACH[architecture].options
        assert options["normalize_activations"] == "expected_average_only_in"


@pytest.mark.parametrize("architecture", SCALED)
def test_the_scale_of_the_activations_is_folded_into_what_is_saved(architecture, tmp_path):
    """Against SAELens' own export of the SAE in training, on activations scaled by hand."""
    config, source = small(ONE_OF_EACH[architecture]), ScaledSource()
    activations = training_rows(source, getattr(torch, config.held), None)
    run = _Run(config, source, activations, RunFolder(tmp_path / "run", config, activations))
    while not run.finished:
        run.epoch()
    run.save()
    scale = source.d_in**0.5 / source.tokens["calibration"].norm(dim=1).mean().item()
    assert run.scale == pytest.approx(scale, rel=1e-6)
    assert abs(scale - 1) > 0.5

    x = source.tokens["test"]
    run.trainer.sae.save_inference_model(str(tmp_path / "theirs"))
    theirs, mine = SAE.load_from_disk(tmp_path / "theirs"), SAE.load_from_disk(tmp_path / "run")
    best = run.history.kept_epoch.epoch == len(run.history.epochs) - 1
    assert best, "the export below is of the last epoch"
    latents = theirs.encode(x * scale)
    assert ((mine.encode(x) != 0) == (latents != 0)).double().mean() > 0.999
    expected = theirs.decode(latents) / scale
    torch.testing.assert_close(mine.decode(mine.encode(x)), expected, rtol=1e-4, atol=1e-3)
    assert mine.cfg.normalize_activations == "none"
    error = (expected - x).square().mean().item()
    assert run.history.kept_epoch.test_mse == pytest.approx(error, rel=1e-4)
    selects_or_rounds = {"batchtopk", "matryoshka_batchtopk", "mdl"}
    if architecture not in selects_or_rounds:
        training = run.trainer.sae.eval()
        whole = training.decode(training.encode(x * scale)) / scale
        torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-3)


def test_mse_of_a_log_is_in_the_activations_own_unit(tmp_path):
    source = ScaledSource()
    folder = train(small(ONE_OF_EACH["topk"]), source, tmp_path / "run")
    variance = source.tokens["test"].var(dim=0, correction=0).mean().item()
    for epoch in read_log(folder / "log.csv"):
        assert 0.01 * variance < epoch.test_mse < 5 * variance
        assert epoch.train_mse == pytest.approx(epoch.test_mse, rel=0.7)


def test_the_config_says_what_it_was_trained_on(tmp_path):
    folder = train(small(ONE_OF_EACH["standard"]), ScaledSource(), tmp_path / "run")
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    assert metadata["hook_name"] == "blocks.3.hook_resid_pre"
    assert metadata["model_name"] == "tiny"
    assert metadata["context_size"] == 16
    assert metadata["prepend_bos"] is True
    assert metadata["model_from_pretrained_kwargs"] == {"center_writing_weights": True}
    assert NamedCoder(str(folder)).origin() == Origin(
        model="tiny",
        hook="blocks.3.hook_resid_pre",
        context=16,
        prepend_bos=True,
        model_options={"center_writing_weights": True},
    )


def test_tokens_held_in_half_precision_train_as_if_rounded(tmp_path):
    config = small(ONE_OF_EACH["batchtopk"])
    assert config.held == "float16"
    half = train(config, ScaledSource(), tmp_path / "half")
    single = train(replace(config, held="float32"), ScaledSource(), tmp_path / "single")
    assert weights(half) == weights(single)
    assert without_seconds(half) == without_seconds(single)
    settings = json.loads((half / "training.json").read_text())["settings"]
    assert settings["held"] == "float16"


def test_products_are_rounded_in_steps_of_training_alone(tmp_path, monkeypatch):
    """torch is told so for each step, and measures losses and all that follows in float32."""
    told = {"step": set(), "measure": set()}
    for owner, name, where in (
        (SAETrainer, "step", "step"),
        (trainer, "measure_inference", "measure"),
    ):
        inner = getattr(owner, name)

        def watched(*args, inner=inner, where=where):
            told[where].add(torch.get_float32_matmul_precision())
            return inner(*args)

        monkeypatch.setattr(owner, name, watched)
    before = torch.get_float32_matmul_precision()
    config = replace(small(ONE_OF_EACH["batchtopk"]), products="bfloat16")
    folder = train(config, ScaledSource(), tmp_path / "run")
    assert told == {"step": {"medium"}, "measure": {before}}
    assert torch.get_float32_matmul_precision() == before
    settings = json.loads((folder / "training.json").read_text())["settings"]
    assert settings["products"] == "bfloat16"


# --- the command line -----------------------------------------------------------------------

RECIPE_TEXT = """
shared: {epochs: 2, batch_size: 100, storage: float32, patience: null}
saes:
  small: {width: 8, k: 2}
  relu: {width: 8, architecture: standard, options: {l1_coefficient: 0.1}}
"""


@pytest.fixture
def suite_folder(tmp_path):
    folder = write_tiny_suite(tmp_path / "tiny")
    (folder / "zoo.yaml").write_text(RECIPE_TEXT)
    return folder


def invoke(*arguments):
    """What `mdlbench train` prints; raises what it raises."""
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(app, ["train", *map(str, arguments)])
    finally:
        torch.set_num_threads(threads)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_train_trains_the_recipe_into_the_suites_own_folder(suite_folder):
    printed = invoke("--suite", suite_folder, "-q")
    saes = suite_folder / "saes"
    assert printed == f"{saes / 'small'}: trained\n{saes / 'relu'}: trained\n"
    assert SAE.load_from_disk(saes / "small").cfg.architecture() == "jumprelu"
    assert SAE.load_from_disk(saes / "relu").cfg.architecture() == "standard"
    before = {path: path.stat().st_mtime_ns for path in saes.rglob("*")}
    assert invoke("--suite", suite_folder, "-q") == printed
    assert {path: path.stat().st_mtime_ns for path in saes.rglob("*")} == before


def test_train_takes_keys_of_the_recipe_and_another_folder(suite_folder, tmp_path):
    invoke("relu", "--suite", suite_folder, "-o", tmp_path / "out", "-q")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["relu"]
    assert not (suite_folder / "saes").exists()


def test_a_recipe_goes_on_where_it_was_interrupted(suite_folder, monkeypatch):
    saes, original = suite_folder / "saes", RunFolder.save_sae

    def interrupted(self, *arguments):
        if self.path.name == "relu":
            raise KeyboardInterrupt
        original(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "save_sae", interrupted)
        with pytest.raises(SystemExit):
            invoke("--suite", suite_folder, "-q")
    assert (saes / "small" / "sae_weights.safetensors").is_file()
    assert not (saes / "relu" / "sae_weights.safetensors").exists()
    small = weights(saes / "small")
    invoke("--suite", suite_folder, "-q")
    assert weights(saes / "small") == small
    assert result(saes / "relu")["epochs"] == 2


def test_train_an_sae_of_ones_own(suite_folder, tmp_path):
    printed = invoke(
        "--suite", suite_folder, "--width", 12, "-o", tmp_path / "mine", "-q", "--epochs", 2,
        "--architecture", "matryoshka_batchtopk", "--k", 3, "--batch-size", 100,
        "--set", "matryoshka_widths=[4, 12]", "--set", "decoder_init_norm=0.2",
    )  # fmt: skip
    assert printed.startswith(f"{tmp_path / 'mine'}: score it with `mdlbench eval --suite")
    settings = json.loads((tmp_path / "mine" / "training.json").read_text())["settings"]
    assert settings["options"] == {"matryoshka_widths": [4, 12], "decoder_init_norm": 0.2}
    assert (settings["width"], settings["k"], settings["patience"]) == (12, 3.0, 10)


def test_an_architecture_without_k_needs_none(suite_folder, tmp_path):
    invoke(
        "--suite", suite_folder, "--width", 12, "-o", tmp_path / "mine", "-q", "--epochs", 1,
        "--architecture", "standard", "--set", "l1_coefficient=0.1", "--batch-size", 100,
    )  # fmt: skip
    assert SAE.load_from_disk(tmp_path / "mine").cfg.d_sae == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "--width", "8", "-o", "x"], "small: a KEY and --width cannot be combined"),
        (["--width", "8", "--k", "2"], "--width needs -o FOLDER"),
        (["--width", "8", "-o", "x"], "architecture 'batchtopk' needs k"),
        (["--batch-size", "8"], "--batch-size only applies with --width"),
        (["--set", "a=1"], "--set only applies with --width"),
        (["relo"], "zoo.yaml has no SAE 'relo'. Did you mean 'relu'"),
        (["--width", "8", "-o", "x", "--k", "2", "--set", "dtyp=1"], "has no setting 'dtyp'"),
        (["--width", "8", "-o", "x", "--k", "9"], "k must lie between 0 and the width 8"),
    ],
)
def test_what_train_cannot_mean_is_said(suite_folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=re.escape(message)):
        invoke("--suite", suite_folder, *arguments)
    assert not (tmp_path / "x" / "sae_weights.safetensors").exists()


def test_a_suite_without_a_recipe_says_so(suite_folder):
    (suite_folder / "zoo.yaml").unlink()
    with pytest.raises(UsageError, match=r"suite 'tiny' has no recipe \(zoo\.yaml\).*--width"):
        invoke("--suite", suite_folder)


def test_options_are_yaml_values():
    written = ["a=1", "b=0.5", "c=true", "d=none", "e=[1, 2]", "f=", "g=x=y", "h=null", "i=1.0e-3"]
    assert parse_options(written) == {
        "a": 1, "b": 0.5, "c": True, "d": "none", "e": [1, 2], "f": None, "g": "x=y", "h": None,
        "i": 0.001,
    }  # fmt: skip


@pytest.mark.parametrize("setting", ["a", "=1", "a={b: 1}", "a=[1", "a=!!python/name:os.system"])
def test_options_of_another_form_are_refused(setting):
    with pytest.raises(UsageError, match=re.escape(f"--set {setting}")):
        parse_options([setting])


def test_shipped_classifier_is_accurate():
    suite = load_suite("mnist")
    images, labels = load_images(suite.path("data/images.npy.xz"), suite.path("data/labels.npy.xz"))
    model = Classifier.load(suite.path("classifier.safetensors"))
    pixels = torch.from_numpy(images[60_000:]).float() / 255
    assert accuracy(model, pixels, torch.from_numpy(labels[60_000:]).long()) >= 0.98
