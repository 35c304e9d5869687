"""The settings that decide a trained SAE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_type_hints

from sae_lens import SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY, get_sae_training_class
from sae_lens.saes.sae import SAEMetadata

import mdlbench.training.architectures  # noqa: F401  (registers them)
from mdlbench.errors import CoderError, UsageError, did_you_mean, first_line, shortage
from mdlbench.sources.protocol import Activations
from mdlbench.suite.site import Site
from mdlbench.training.architectures.shared.selection import ChosenPerBatch
from mdlbench.training.claimed import Precision
from mdlbench.training.settings import require_finite, require_type, require_types

Keep = Literal["best", "last"]
Products = Literal["float32", "bfloat16"]
POSITIVE = (
    "width", "epochs", "epochs_per_pass", "batch_size", "lr", "patience", "dead_window", "tokens",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Equal settings on equal data give equal weights.

    Attributes:
        width: number of latents.
        k: mean number of active latents per token, for the architectures that have one.
        architecture: a name in SAELens' registry of training classes, your own included.
        epochs: at most; each has a row of the log and, where it takes long, a checkpoint.
        epochs_per_pass: epochs that a pass over the calibration split is divided into.
        batch_size: tokens per step.
        lr: Adam's learning rate after warm-up.
        warm_up_steps: steps over which the rate rises linearly from 0.
        decay: the last fraction of all steps, over which the rate falls linearly to 0.
        patience: epochs without a better test MSE after which training stops; None: never. Where
            the last epoch is kept, all are trained.
        keep: which epoch's weights are kept; the last where the loss is not MSE alone.
        dead_window: steps without firing after which a latent counts as dead for an auxiliary loss.
        seed: of the initial weights and the order of the tokens.
        storage: precision of the weights on disk; SAELens computes with them in float32.
        held: precision in which the training tokens are held, in memory or in the cache.
        tokens: so many of the calibration split are trained on, its first; None: all of them.
        products: to what the factors of matrix products in training are rounded, where the machine
            is faster for it; weights stay in float32, and losses are measured with those.
        options: further fields of the architecture's SAELens config.
    """

    width: int
    k: float | None = None
    architecture: str = "batchtopk"
    epochs: int = 50
    epochs_per_pass: int = 1
    batch_size: int = 512
    lr: float = 3e-3
    warm_up_steps: int = 100
    decay: float = 0.95
    patience: int | None = 20
    keep: Keep = "best"
    dead_window: int = 100
    seed: int = 0
    storage: Precision = "float16"
    held: Precision = "float32"
    tokens: int | None = None
    products: Products = "float32"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_types(type(self), vars(self))
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} must be positive, not {value}")
        if self.k is not None and not 0 < self.k <= self.width:
            raise UsageError(f"k must lie between 0 and the width {self.width}, not {self.k}")
        if not 0 <= self.decay < 1:
            raise UsageError(f"decay is a fraction of the steps, not {self.decay}")
        if self.warm_up_steps < 0:
            raise UsageError(f"warm_up_steps must not be negative, not {self.warm_up_steps}")
        require_finite("lr", self.lr)
        if self.architecture not in SAE_TRAINING_CLASS_REGISTRY:
            raise UsageError(
                f"unknown architecture {self.architecture!r}. "
                + did_you_mean(self.architecture, SAE_TRAINING_CLASS_REGISTRY)
            )


def build_sae(config: TrainingConfig, source: Activations) -> TrainingSAE[Any]:
    """SAELens' training SAE for a source, its weights drawn from torch's global generator.

    Raises:
        UsageError: `k` or an option is none of the architecture's settings, or none it takes, or
            `k` is wanting; or so wide an SAE has no room in memory.
    """
    sae_class, config_class = get_sae_training_class(config.architecture)
    options = {**_k(config), **config.options}
    known = {item.name for item in fields(config_class)}
    if "k" in known and "k" not in options:
        raise UsageError(f"architecture {config.architecture!r} needs k, active latents per token")
    if unknown := sorted(set(options) - known):
        raise UsageError(
            f"architecture {config.architecture!r} has no setting {unknown[0]!r}. "
            + did_you_mean(unknown[0], known)
        )
    for name, value in options.items():
        require_type(name, value, get_type_hints(config_class)[name])
        require_finite(name, value)
    _refuse_normalisation(config.architecture, options.get("normalize_activations", "none"))
    try:
        sae_config = config_class(
            d_in=source.d_in,
            d_sae=config.width,
            device=str(source.device),
            metadata=_metadata(source.site),
            **options,
        )
        if isinstance(sae_config, ChosenPerBatch):
            sae_config.require_batch(config.batch_size)
        return sae_class(sae_config)
    except (TypeError, ValueError, CoderError) as error:
        raise UsageError(f"architecture {config.architecture!r}: {error}") from error
    except RuntimeError as error:
        why = shortage(error) or first_line(error)
        raise UsageError(f"an SAE of width {config.width}: {why}") from error


def _refuse_normalisation(architecture: str, mode: object) -> None:
    """Raise `UsageError` where an SAE would be shipped otherwise than it was trained."""
    if mode not in ("none", "expected_average_only_in"):
        raise UsageError(
            "normalize_activations is none or expected_average_only_in in training here, "
            f"not {mode!r}"
        )
    if mode == "expected_average_only_in" and architecture == "matching_pursuit":
        raise UsageError(f"architecture {architecture!r} has no weights that {mode} can go into")


def _metadata(site: Site) -> SAEMetadata:
    """What the SAE was trained on, under SAELens' names; nothing of what does not apply."""
    facts = {
        "hook_name": site.hook,
        "model_name": site.model,
        "context_size": site.context,
        "prepend_bos": site.prepend_bos,
        "model_from_pretrained_kwargs": site.model_options or None,
    }
    return SAEMetadata(**{name: value for name, value in facts.items() if value is not None})


def _k(config: TrainingConfig) -> dict[str, float]:
    """A whole k as an int, which is all that TopK takes."""
    if config.k is None:
        return {}
    return {"k": int(config.k) if config.k == int(config.k) else config.k}


def build_trainer(
    config: TrainingConfig, sae: TrainingSAE[Any], steps_per_epoch: int
) -> SAETrainer[Any, Any]:
    """SAELens' trainer, to be driven by `step`: bfloat16 autocast, fused Adam."""
    steps = config.epochs * steps_per_epoch
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * config.batch_size,
            train_batch_size_samples=config.batch_size,
            lr=config.lr,
            lr_end=config.lr,
            lr_warm_up_steps=min(config.warm_up_steps, steps // 2),
            lr_decay_steps=int(config.decay * steps),
            dead_feature_window=config.dead_window,
            device=str(sae.device),
            autocast=True,
        ),
        sae,
        data_provider=iter(()),
    )
    for group in trainer.optimizer.param_groups:
        group["fused"] = True
    return trainer
