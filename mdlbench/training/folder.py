"""The folder of a training run: its settings, its log, its checkpoints, the finished SAE."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAETrainer
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME
from safetensors.torch import load_file, save, save_file

from mdlbench.disk.files import write_atomically
from mdlbench.training.claimed import (
    LOG_FILE,
    ClaimedFolder,
    csv_rows,
    csv_text,
    reading_checkpoint,
)
from mdlbench.training.config import Keep, TrainingConfig
from mdlbench.training.inference import Inference, Weights
from mdlbench.training.rows import Rows

KEPT_FILE = "kept.safetensors"
NEVER_FIRED = 1e-10
"""Stands in for a firing rate of 0 under the logarithm, as in SAELens."""
_DEFAULTS = {f.name: f.default for f in fields(TrainingConfig) if f.default is not MISSING}
"""Values of settings that are younger than some recorded runs, which lack them."""


class Epoch(NamedTuple):
    """A row of the log.

    Attributes:
        epoch: from 0.
        train_mse: mean over the epoch's batches, as trained.
        test_mse: on the test split, as at inference.
        l0: active latents per test token.
        dead_fraction: of the latents, active on no test token.
        lr: of the epoch's first step.
        seconds: the epoch took, its measurement included.
    """

    epoch: int
    train_mse: float
    test_mse: float
    l0: float
    dead_fraction: float
    lr: float
    seconds: float


@dataclass
class History:
    """The epochs so far, and the weights of the one kept: of lowest test MSE, or the last."""

    keep: Keep
    epochs: list[Epoch] = field(default_factory=list)
    weights: Weights = field(default_factory=dict)

    def add(self, epoch: Epoch, weights: Weights) -> None:
        self.epochs.append(epoch)
        if self.kept_epoch is epoch:
            self.weights = weights

    @property
    def kept_epoch(self) -> Epoch:
        if self.keep == "last":
            return self.epochs[-1]
        return min(self.epochs, key=lambda epoch: epoch.test_mse)

    @property
    def epochs_since_kept(self) -> int:
        return len(self.epochs) - 1 - self.kept_epoch.epoch if self.epochs else 0

    def to_csv(self) -> str:
        return csv_text(Epoch._fields, self.epochs)


def read_log(path: Path) -> list[Epoch]:
    """The rows of a `log.csv`."""
    return [Epoch(int(row[0]), *map(float, row[1:])) for row in csv_rows(path)]


class RunFolder(ClaimedFolder):
    """The folder of an SAE's run."""

    def __init__(self, path: Path, config: TrainingConfig, activations: Rows) -> None:
        settings = {**asdict(config), "activations_sha256": activations.sha256()}
        super().__init__(path, settings, _DEFAULTS)

    def save_checkpoint(self, trainer: SAETrainer[Any, Any], history: History) -> None:
        """The whole state at the end of an epoch; earlier checkpoints are removed after it."""
        with self.new_checkpoint(len(history.epochs)) as partial:
            trainer.save_checkpoint("trainer", base_path=partial)
            save_file(history.weights, partial / KEPT_FILE)
            (partial / LOG_FILE).write_text(history.to_csv(), encoding="utf-8")

    def load_checkpoint(self, trainer: SAETrainer[Any, Any]) -> History:
        """Puts the trainer where the last checkpoint was; an empty history if there is none.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        checkpoint = self.last_checkpoint()
        if checkpoint is None:
            return History(self.settings["keep"])
        with reading_checkpoint(checkpoint):
            trainer.sae.load_weights_from_checkpoint(checkpoint / "trainer")
            trainer.load_trainer_state(checkpoint / "trainer")
            return History(
                self.settings["keep"],
                read_log(checkpoint / LOG_FILE),
                load_file(checkpoint / KEPT_FILE),
            )

    def save_sae(
        self,
        config: Mapping[str, Any],
        weights: Weights,
        numbers: Inference,
        result: Mapping[str, Any],
    ) -> None:
        """The finished SAE in the SAELens layout, then the result; the checkpoints go."""
        sparsity = torch.log10(numbers.firing_rate + NEVER_FIRED).float()
        _write_sae(self.path, config, weights)
        write_atomically(self.path / SPARSITY_FILENAME, save({"sparsity": sparsity}))
        self.finish(result)

    def save_snapshot(self, step: int, config: Mapping[str, Any], weights: Weights) -> None:
        """The SAE as it is after a step, in the SAELens layout."""
        _write_sae(self.path / snapshot_name(step), config, weights)


def snapshot_name(step: int) -> str:
    """The folder, within its run's, of the SAE after a step."""
    return f"step-{step}"


def _write_sae(path: Path, config: Mapping[str, Any], weights: Weights) -> None:
    text = json.dumps({**config, "device": "cpu"}, indent=2, sort_keys=True) + "\n"
    write_atomically(path / SAE_CFG_FILENAME, text.encode())
    write_atomically(path / SAE_WEIGHTS_FILENAME, save(weights))
