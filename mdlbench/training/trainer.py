"""Trains SAEs with SAELens' own classes, epoch by epoch, so that a killed run can go on."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from sae_lens import TrainingSAE

from mdlbench.errors import UsageError
from mdlbench.sources.protocol import Activations
from mdlbench.training.claimed import epoch_seed
from mdlbench.training.config import Products, TrainingConfig, build_sae, build_trainer
from mdlbench.training.folder import Epoch, RunFolder
from mdlbench.training.inference import (
    Weights,
    inference_config,
    inference_sae,
    inference_weights,
    measure_inference,
)
from mdlbench.training.rows import Rows, training_rows

LONG_EPOCH = 60.0
"""An epoch of so many seconds is followed by a checkpoint."""
MATMUL: Mapping[Products, str] = {"float32": "highest", "bfloat16": "medium"}
"""torch's words for the precision of products of float32 tensors."""


def train(
    config: TrainingConfig,
    source: Activations,
    folder: Path,
    *,
    progress: bool = True,
    checkpoint_every: int = 5,
    snapshots: Collection[int] = (),
) -> Path:
    """Train an SAE on the calibration split and save it in the SAELens layout.

    The folder receives `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors` (log10 of
    each latent's firing rate on the test split) of the epoch with the lowest test MSE, `log.csv`
    with a row per epoch, and `training.json` with the settings and the final numbers. A folder
    that holds the finished run is left as it is. One that holds an unfinished run is continued
    from its last checkpoint, to the same rows (but for seconds) and the same weights as without
    the interruption, on as many threads.

    Args:
        config: the settings.
        source: the activations, and the device. The calibration split is held in memory, unless
            the source keeps it on disk.
        folder: where the run lives; created if absent.
        progress: show a bar on stderr, where that is a terminal.
        checkpoint_every: epochs between checkpoints; long epochs all have one.
        snapshots: steps, counted from 1, after which the SAE as it then is is kept, too, in
            `step-N/` of the folder.

    Returns:
        The folder.

    Raises:
        UsageError: the settings do not fit the architecture or the data, or the folder holds a
            run with other settings, or something else.
        TrainingError: the loss is no longer finite; the last checkpoint is kept.
        CheckpointError: the checkpoint to continue from cannot be read.
        OutputError: the folder cannot be written.
    """
    activations = training_rows(source, getattr(torch, config.held), config.tokens)
    run_folder = RunFolder(folder, config, activations)
    if run_folder.claim():
        return folder
    console = Console(stderr=True)
    with (
        torch.random.fork_rng(),
        Progress(console=console, disable=not (progress and console.is_terminal)) as bar,
    ):
        run = _Run(config, source, activations, run_folder, snapshots)
        task = bar.add_task(folder.name, total=config.epochs, completed=len(run.history.epochs))
        while not run.finished:
            epoch = run.epoch()
            is_due = (epoch.epoch + 1) % checkpoint_every == 0 or epoch.seconds >= LONG_EPOCH
            if is_due and not run.finished:
                run_folder.save_checkpoint(run.trainer, run.history)
            bar.update(task, advance=1, description=f"{folder.name} MSE {epoch.test_mse:.5f}")
        run.save()
    return folder


def input_scale(sae: TrainingSAE[Any], activations: Rows) -> float | None:
    """SAELens' factor √d / mean ‖x‖ where the SAE asks for it (`expected_average_only_in`)."""
    if sae.cfg.normalize_activations != "expected_average_only_in":
        return None
    return float(sae.cfg.d_in**0.5 / activations.mean_norm())


@contextmanager
def products_of(precision: Products) -> Iterator[None]:
    """Matrix products of float32 tensors in this precision; sums stay in float32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(MATMUL[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.no_grad()
def initialise_from_data(sae: TrainingSAE[Any], activations: Rows, scale: float = 1.0) -> None:
    """Start each latent at a token: few latents then die, where most of a random start's do.

    The decoder's bias becomes the mean activation times `scale`; its rows random tokens less the
    mean, at unit norm where k of them are chosen, else at the config's `decoder_init_norm`; the
    encoder's columns the same. Only a width beyond the number of tokens repeats any.
    On MNIST at width 1,024 and k 8, six epochs leave 12% of the latents dead at MSE 0.0151, where
    SAELens' random start leaves 50 to 60% dead at 0.0162.
    """
    mean = activations.mean().to(sae.b_dec.device)
    chosen = torch.randperm(len(activations))[torch.arange(sae.cfg.d_sae) % len(activations)]
    tokens = activations[chosen].to(mean.device).float()
    rows = torch.nn.functional.normalize(tokens - mean, dim=1)
    if not hasattr(sae.cfg, "k"):
        rows *= sae.cfg.decoder_init_norm or 1.0
    sae.b_dec.copy_(mean * scale)
    sae.W_dec.copy_(rows)
    sae.W_enc.copy_(rows.T)


class _Run:
    """A run in memory, at the end of some epoch."""

    def __init__(
        self,
        config: TrainingConfig,
        source: Activations,
        activations: Rows,
        folder: RunFolder,
        snapshots: Collection[int] = (),
    ) -> None:
        self.config = config
        self.source = source
        self.folder = folder
        self.snapshots = snapshots
        self.activations = activations
        n_tokens = len(activations) // config.epochs_per_pass
        self.n_steps = n_tokens // config.batch_size
        if self.n_steps == 0:
            raise UsageError(
                f"batch_size {config.batch_size} exceeds the {n_tokens} tokens "
                f"of {'the calibration split' if config.epochs_per_pass == 1 else 'an epoch'}"
            )
        torch.manual_seed(config.seed)
        sae = build_sae(config, source)
        self.scale = input_scale(sae, activations)
        initialise_from_data(sae, activations, self.scale or 1.0)
        self.trainer = build_trainer(config, sae, self.n_steps)
        self.trainer.activation_scaler.scaling_factor = self.scale
        self.history = folder.load_checkpoint(self.trainer)
        self.inference = inference_sae(sae)

    @property
    def finished(self) -> bool:
        patience = self.config.patience
        stale = patience is not None and self.history.epochs_since_kept >= patience
        return stale or len(self.history.epochs) == self.config.epochs

    def epoch(self) -> Epoch:
        """One pass over the calibration split, or its next part, measured and logged."""
        number = len(self.history.epochs)
        lr = float(self.trainer.optimizer.param_groups[0]["lr"])
        start = time.perf_counter()
        train_mse = self._pass(number)
        weights = inference_weights(self.trainer.sae, self.scale)
        self.inference.load_state_dict(weights)
        test = measure_inference(self.inference, self.source)
        self._require_finite(test.mse)
        seconds = round(time.perf_counter() - start, 2)
        epoch = Epoch(number, train_mse, test.mse, test.l0, test.dead_fraction, lr, seconds)
        self.history.add(epoch, weights)
        self.folder.write_log(self.history.to_csv())
        return epoch

    def _pass(self, number: int) -> float:
        """The mean MSE of the batches as trained. The order depends on seed and epoch alone."""
        n_parts = self.config.epochs_per_pass
        whole, part = divmod(number, n_parts)
        torch.manual_seed(epoch_seed(self.config.seed, whole))
        order = torch.randperm(len(self.activations), device=self.source.device)[part::n_parts]
        total = 0.0
        for step in range(self.n_steps):
            batch = order[step * self.config.batch_size :][: self.config.batch_size]
            tokens = self.activations[batch].to(self.source.device).float()
            with products_of(self.config.products):
                output = self.trainer.step(tokens)
            self.trainer.n_training_steps += 1
            self._require_finite(output.loss.item())
            if self.trainer.n_training_steps in self.snapshots:
                self._keep_snapshot()
            total += output.losses["mse_loss"].item()
        return total / (self.n_steps * self.source.d_in * (self.scale or 1.0) ** 2)

    def _keep_snapshot(self) -> None:
        sae = self.trainer.sae
        weights = _as_stored(inference_weights(sae, self.scale), self.config.storage)
        self.folder.save_snapshot(self.trainer.n_training_steps, inference_config(sae), weights)

    def _require_finite(self, loss: float) -> None:
        self.folder.require_finite(loss, len(self.history.epochs), self.config.lr)

    def save(self) -> None:
        """Save the kept epoch's weights, as stored: what is reported is measured after rounding."""
        weights = _as_stored(self.history.weights, self.config.storage)
        self.inference.load_state_dict(weights)
        numbers = measure_inference(self.inference, self.source)
        kept = self.history.kept_epoch
        result = {
            "epochs": len(self.history.epochs),
            "kept_epoch": kept.epoch,
            "seconds": round(sum(epoch.seconds for epoch in self.history.epochs), 2),
            "test_mse_before_rounding": kept.test_mse,
            "test_mse": numbers.mse,
            "l0": numbers.l0,
            "dead_fraction": numbers.dead_fraction,
        }
        sae_config = inference_config(self.trainer.sae)
        self.folder.save_sae(sae_config, weights, numbers, result)


def _as_stored(weights: Weights, storage: str) -> Weights:
    """Weights in the precision they are kept in; indices as they are."""
    dtype = getattr(torch, storage)
    return {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu()
        for name, tensor in weights.items()
    }
