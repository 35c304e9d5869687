"""Training that can be interrupted, of whatever has weights and says its own losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import nn

from mdlbench.console.stages import OnStage
from mdlbench.training.claimed import (
    LOG_FILE,
    ClaimedFolder,
    csv_rows,
    csv_text,
    reading_checkpoint,
)

STATE_FILE = "state.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What Adam keeps of each weight."""


class Row(NamedTuple):
    """A row of the log.

    Attributes:
        epoch: from 0.
        train_loss: the mean over the epoch's batches.
        held_out_loss: after the epoch.
        lr: of the epoch's first step.
        seconds: the epoch took.
    """

    epoch: int
    train_loss: float
    held_out_loss: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class Schedule:
    """Adam's rate: a linear rise over `warm_up` steps, times half a cosine to 0 after the last."""

    lr: float
    warm_up: int
    epochs: int

    def rate(self, step: int, steps: int) -> float:
        """The rate of a step, counted from 0, of so many."""
        share = step / steps
        rise = min(1.0, (step + 1) / max(1, self.warm_up))
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * share))


class Job(Protocol):
    """What is trained.

    Attributes:
        weights: by name.
        n_steps: batches of an epoch.
    """

    weights: Mapping[str, nn.Parameter]
    n_steps: int

    def losses(self, epoch: int) -> Iterator[Float[torch.Tensor, ""]]:
        """The loss of each batch, computed when it is asked for, with the weights as they are."""
        ...

    def held_out_loss(self) -> float:
        """The loss on what is not trained on."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained."""
        ...


def fit(job: Job, schedule: Schedule, folder: ClaimedFolder, on_stage: OnStage) -> list[Row]:
    """Train a job to its end, from the last checkpoint on if there is one; its log.

    Epochs end with a checkpoint, and their order depends on seed and epoch alone: an interrupted
    training gives the same weights.

    Raises:
        TrainingError: the loss is no longer finite; the last checkpoint is kept.
        CheckpointError: the checkpoint to continue from cannot be read.
        OutputError: the folder cannot be written.
    """
    optimiser = torch.optim.Adam(list(job.weights.values()), lr=schedule.lr, fused=True)
    rows = _load_checkpoint(job, optimiser, folder)
    while len(rows) < schedule.epochs:
        on_stage(f"{folder.path.name}: epoch {len(rows) + 1} of {schedule.epochs}")
        rows.append(_epoch(job, schedule, optimiser, folder, len(rows)))
        folder.write_log(csv_text(Row._fields, rows))
        if len(rows) < schedule.epochs:
            _save_checkpoint(job, optimiser, folder, rows)
    job.save(folder.path)
    last = rows[-1]
    folder.finish(
        {
            "epochs": len(rows),
            "seconds": round(sum(row.seconds for row in rows), 2),
            "held_out_loss": last.held_out_loss,
        }
    )
    return rows


def read_rows(folder: Path) -> list[Row]:
    """The log of a training."""
    return [Row(int(row[0]), *map(float, row[1:])) for row in csv_rows(folder / LOG_FILE)]


def _epoch(
    job: Job,
    schedule: Schedule,
    optimiser: torch.optim.Optimizer,
    folder: ClaimedFolder,
    number: int,
) -> Row:
    start, total = time.perf_counter(), 0.0
    first, steps = number * job.n_steps, schedule.epochs * job.n_steps
    losses = job.losses(number)
    for step in range(first, first + job.n_steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(step, steps)
        loss = next(losses)
        folder.require_finite(loss.item(), number, schedule.lr)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        total += loss.item()
    held_out = job.held_out_loss()
    folder.require_finite(held_out, number, schedule.lr)
    seconds = round(time.perf_counter() - start, 2)
    return Row(number, total / job.n_steps, held_out, schedule.rate(first, steps), seconds)


def _save_checkpoint(
    job: Job, optimiser: torch.optim.Optimizer, folder: ClaimedFolder, rows: list[Row]
) -> None:
    state = {}
    for name, weights in job.weights.items():
        state[name] = weights.detach()
        kept = optimiser.state[weights]
        state |= {f"{name}:{moment}": kept[moment] for moment in _MOMENTS}
    with folder.new_checkpoint(len(rows)) as partial:
        save_file(state, partial / STATE_FILE)
        (partial / LOG_FILE).write_text(csv_text(Row._fields, rows), encoding="utf-8")


def _load_checkpoint(
    job: Job, optimiser: torch.optim.Optimizer, folder: ClaimedFolder
) -> list[Row]:
    checkpoint = folder.last_checkpoint()
    if checkpoint is None:
        return []
    with reading_checkpoint(checkpoint):
        state = load_file(checkpoint / STATE_FILE)
        for name, weights in job.weights.items():
            with torch.no_grad():
                weights.copy_(state[name])
            optimiser.state[weights] = {moment: state[f"{name}:{moment}"] for moment in _MOMENTS}
        return read_rows(checkpoint)
