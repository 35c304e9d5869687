"""Trains bilinear classifiers, epoch by epoch, so that a killed run can go on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from torch import nn

from mdlbench.bilinear.network import (
    NETWORK_FILE,
    BilinearNetwork,
    load_network,
    save_network,
)
from mdlbench.errors import UsageError
from mdlbench.training.bilinear.config import BilinearConfig
from mdlbench.training.bilinear.task import Task
from mdlbench.training.claimed import (
    LOG_FILE,
    ClaimedFolder,
    csv_rows,
    csv_text,
    epoch_seed,
    reading_checkpoint,
)

STATE_FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps of each weight."""


class ClassifierEpoch(NamedTuple):
    """A row of the log.

    Attributes:
        epoch: from 0.
        train_loss: cross-entropy in nats, mean over the epoch's batches, with noise.
        test_loss: on the test images, without noise.
        test_accuracy: share of the test images that are named rightly.
        lr: of the epoch's first step.
        seconds: the epoch took, its measurement included.
    """

    epoch: int
    train_loss: float
    test_loss: float
    test_accuracy: float
    lr: float
    seconds: float


def train_bilinear(
    config: BilinearConfig,
    task: Task,
    folder: Path,
    *,
    progress: bool = True,
    checkpoint_every: int = 5,
) -> Path:
    """Train a bilinear classifier: AdamW, cosine schedule, noise on the input.

    The folder receives `bilinear.safetensors`, the weights after the last epoch; `log.csv` with a
    row per epoch; and `training.json` with the settings and the final numbers. A folder that holds
    the finished run is left as it is; one that holds an unfinished run is continued from its last
    checkpoint, to the same weights as without the interruption, on as many threads.

    Args:
        config: the settings.
        task: inputs and classes, and the device.
        folder: where the run lives; created if absent.
        progress: show a bar on stderr, where that is a terminal.
        checkpoint_every: epochs between checkpoints.

    Returns:
        The folder.

    Raises:
        UsageError: a batch is larger than the task, or the folder holds a run with other settings,
            or something else.
        TrainingError: the loss is no longer finite; the last checkpoint is kept.
        CheckpointError: the checkpoint to continue from cannot be read.
        OutputError: the folder cannot be written.
    """
    settings = {"kind": "bilinear", **asdict(config), "task_sha256": task.sha256}
    run_folder = ClaimedFolder(folder, settings, _DEFAULTS)
    if run_folder.claim():
        return folder
    console = Console(stderr=True)
    with (
        torch.random.fork_rng(),
        Progress(console=console, disable=not (progress and console.is_terminal)) as bar,
    ):
        run = _Run(config, task, run_folder)
        bar_task = bar.add_task(folder.name, total=config.epochs, completed=len(run.epochs))
        while len(run.epochs) < config.epochs:
            epoch = run.epoch()
            if len(run.epochs) % checkpoint_every == 0 and len(run.epochs) < config.epochs:
                run.save_checkpoint()
            text = f"{folder.name} accuracy {epoch.test_accuracy:.4f}"
            bar.update(bar_task, advance=1, description=text)
        run.save()
    return folder


_DEFAULTS = {f.name: f.default for f in fields(BilinearConfig) if f.name != "hidden"}


class Tested(NamedTuple):
    """How a classifier does on test inputs: cross-entropy in nats, and share named rightly."""

    loss: float
    accuracy: float


@torch.no_grad()
def measure_classifier(network: BilinearNetwork, task: Task) -> Tested:
    """Measure a network on a task's test inputs, in float32."""
    logits = network(task.test_x)
    loss = nn.functional.cross_entropy(logits.double(), task.test_y)
    return Tested(float(loss), float((logits.argmax(dim=1) == task.test_y).double().mean()))


class _Run:
    """A run in memory, at the end of some epoch."""

    def __init__(self, config: BilinearConfig, task: Task, folder: ClaimedFolder) -> None:
        self.config, self.task, self.folder = config, task, folder
        self.n_steps = len(task.train_x) // config.batch_size
        if self.n_steps == 0:
            raise UsageError(
                f"batch_size {config.batch_size} exceeds the {len(task.train_x)} training inputs"
            )
        self.device = task.train_x.device
        torch.manual_seed(config.seed)
        self.network = BilinearNetwork(
            task.d_in, config.hidden, task.n_classes, config.layers, config.bias
        ).to(self.device)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        self.epochs: list[ClassifierEpoch] = []
        self._load_checkpoint()

    def epoch(self) -> ClassifierEpoch:
        """One pass over the training inputs in an order of its own, measured and logged."""
        number, start = len(self.epochs), time.perf_counter()
        loss = self._pass(number)
        tested = measure_classifier(self.network, self.task)
        self._require_finite(tested.loss)
        seconds = round(time.perf_counter() - start, 2)
        lr = self._rate(number * self.n_steps)
        self.epochs.append(ClassifierEpoch(number, loss, *tested, lr, seconds))
        self.folder.write_log(self._log())
        return self.epochs[-1]

    def _pass(self, number: int) -> float:
        """The mean loss of the batches. Order and noise depend on seed and epoch alone."""
        total = 0.0
        for step, (x, y) in enumerate(self._batches(number), start=number * self.n_steps):
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate(step)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
                logits = self.network(x)
            loss = nn.functional.cross_entropy(logits.float(), y)
            self._require_finite(loss.item())
            self.optimiser.zero_grad()
            torch.autograd.backward(loss)
            self.optimiser.step()
            total += loss.item()
        return total / self.n_steps

    def _batches(self, number: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        generator = torch.Generator().manual_seed(epoch_seed(self.config.seed, number))
        order = torch.randperm(len(self.task.train_x), generator=generator).to(self.device)
        for step in range(self.n_steps):
            batch = order[step * self.config.batch_size :][: self.config.batch_size]
            x = self.task.train_x[batch]
            if self.config.noise:
                noise = torch.randn(x.shape, generator=generator).to(self.device)
                x.add_(noise, alpha=self.config.noise)
            yield x, self.task.train_y[batch]

    def _rate(self, step: int) -> float:
        """Half a cosine from the full rate at the first step to 0 after the last."""
        share = step / (self.config.epochs * self.n_steps)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * share))

    def _require_finite(self, loss: float) -> None:
        self.folder.require_finite(loss, len(self.epochs), self.config.lr)

    def _log(self) -> str:
        return csv_text(ClassifierEpoch._fields, self.epochs)

    def save_checkpoint(self) -> None:
        """The whole state at the end of an epoch; earlier checkpoints are removed after it."""
        state = {}
        for name, weights in self.network.named_parameters():
            state[name] = weights.detach()
            kept = self.optimiser.state[weights]
            state |= {f"{name}:{moment}": kept[moment] for moment in _MOMENTS}
        with self.folder.new_checkpoint(len(self.epochs)) as partial:
            save_file(state, partial / STATE_FILE)
            (partial / LOG_FILE).write_text(self._log(), encoding="utf-8")

    def _load_checkpoint(self) -> None:
        checkpoint = self.folder.last_checkpoint()
        if checkpoint is None:
            return
        with reading_checkpoint(checkpoint):
            state = load_file(checkpoint / STATE_FILE)
            self.epochs = read_classifier_log(checkpoint / LOG_FILE)
            for name, weights in self.network.named_parameters():
                with torch.no_grad():
                    weights.copy_(state[name])
                kept = {moment: state[f"{name}:{moment}"] for moment in _MOMENTS}
                step = kept.pop("step")
                moments = {moment: tensor.to(self.device) for moment, tensor in kept.items()}
                self.optimiser.state[weights] = {"step": step.to(self.device), **moments}

    def save(self) -> None:
        """Save the weights as stored: what is reported is measured after rounding."""
        path = self.folder.path / NETWORK_FILE
        save_network(self.network, path, getattr(torch, self.config.storage))
        stored = measure_classifier(load_network(path).to(self.device), self.task)
        result: dict[str, Any] = {
            "epochs": len(self.epochs),
            "seconds": round(sum(epoch.seconds for epoch in self.epochs), 2),
            "test_accuracy_before_rounding": self.epochs[-1].test_accuracy,
            "test_accuracy": stored.accuracy,
            "test_loss": stored.loss,
        }
        self.folder.finish(result)


def read_classifier_log(path: Path) -> list[ClassifierEpoch]:
    """The rows of a classifier's `log.csv`."""
    return [ClassifierEpoch(int(row[0]), *map(float, row[1:])) for row in csv_rows(path)]
